//! Tests of the jobs' folders, runs and turns.

use millm_kit::Reason;

use super::*;

fn add(jobs: &Jobs) -> Arc<Job> {
    jobs.add(&ExtractionConfig::default(), |_| {}).unwrap()
}

#[test]
fn jobs_survive_a_restart() {
    let root = tempfile::tempdir().unwrap();
    let jobs = Jobs::open(root.path().join("activations"));
    let (one, two) = (add(&jobs), add(&jobs));
    one.end(Outcome::Cancelled);
    two.update(|record| record.state = JobState::Running);
    two.save().unwrap();
    fs::create_dir(jobs.root().join("something")).unwrap();
    let root_of_jobs = jobs.root().to_owned();
    // The lock of the running job is held, as if by another process.
    assert_eq!(Jobs::open(root_of_jobs.clone()).list().len(), 1);
    let (first, second) = (one.id().to_owned(), two.id().to_owned());
    drop((one, two, jobs));
    let jobs = Jobs::open(root_of_jobs);
    let listed: Vec<_> = jobs.list().iter().map(|job| (job.id().to_owned(), job.state())).collect();
    assert_eq!(listed, [(second, JobState::Interrupted), (first, JobState::Cancelled)]);
}

#[test]
fn a_job_has_one_run_at_a_time() {
    let root = tempfile::tempdir().unwrap();
    let jobs = Jobs::open(root.path().to_owned());
    let job = add(&jobs);
    assert_eq!(jobs.resume(&job).unwrap_err().reason, Reason::ExtractionRunning);
    assert_eq!(jobs.remove(&job).unwrap_err().reason, Reason::ExtractionRunning);
    job.end(Outcome::Failed(ServiceError::extraction_failed("why")));
    assert_eq!(job.snapshot().error.unwrap().message, "Extraction failed: why.");
    jobs.resume(&job).unwrap();
    assert_eq!(job.snapshot().error, None);
    job.end(Outcome::Succeeded { files: Vec::new(), replay: None });
    assert_eq!(jobs.resume(&job).unwrap_err().reason, Reason::InvalidArgument);
    jobs.remove(&job).unwrap();
    assert!(!job.folder.exists());
    for name in [job.id(), "extractions/x", "../x", ""] {
        let found = jobs.find(name).map(|job| job.id().to_owned());
        assert_eq!(found.unwrap_err().reason, Reason::ExtractionNotFound, "{name}");
    }
}

#[test]
fn too_many_jobs_are_refused() {
    let root = tempfile::tempdir().unwrap();
    let jobs = Jobs::open(root.path().to_owned());
    (0..MAX_ACTIVE).for_each(|_| drop(add(&jobs)));
    let refused = jobs.add(&ExtractionConfig::default(), |_| {}).map(|job| job.id().to_owned());
    assert_eq!(refused.unwrap_err().reason, Reason::QueueFull);
}

#[test]
fn progress_has_a_rate() {
    let root = tempfile::tempdir().unwrap();
    let jobs = Jobs::open(root.path().to_owned());
    let job = add(&jobs);
    job.update(|record| (record.samples_total, record.disk_bytes) = (100, 1000));
    job.progress(Done { samples: 10, tokens: 50 }, 4);
    assert_eq!((job.snapshot().samples_per_second, job.snapshot().time_left), (0.0, None));
    job.progress(Done { samples: 60, tokens: 300 }, 4);
    let shown = job.snapshot();
    assert!(shown.samples_per_second > 0.0 && shown.time_left.is_some());
    assert_eq!((shown.samples_done, shown.tokens_done, shown.disk_bytes), (60, 300, 600));
}

#[tokio::test]
async fn jobs_of_one_model_take_turns() {
    let jobs = Jobs::open(PathBuf::from("/no/such/folder"));
    let first = jobs.turn(1).await;
    assert!(first.is_some() && jobs.turn(2).await.is_some());
    let mut second = Box::pin(jobs.turn(1));
    assert!(futures::poll!(&mut second).is_pending());
    drop(first);
    assert!(second.await.is_some());
}
