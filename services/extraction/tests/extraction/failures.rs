//! Extractions that end in their middle: killed, cancelled, on a full disk, or with an engine that is wrong.

use std::{
    fs,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
};

use millm_engine::{CaptureError, CaptureRows, CaptureSink as _};
use millm_extraction::{Error, PlanReader, Writer, WriterOptions};

use crate::fixture::{capture, checksums, copy, job, small_disk};

#[test]
fn a_killed_job_ends_with_the_same_bytes() {
    let whole = tempfile::tempdir().unwrap();
    let job = job();
    let expected = checksums(&job.run(whole.path()).unwrap());
    // A process that is killed leaves the arrays with some of its last batch, and the journal with a part of a record.
    let killed = tempfile::tempdir().unwrap();
    let (plan, layout) = job.plan(killed.path()).unwrap();
    assert_eq!(job.write(killed.path(), &plan, &layout, 2).unwrap(), 4);
    let journal = fs::read(killed.path().join("journal")).unwrap();
    for length in (0..=journal.len()).step_by(journal.len() / 40 + 1) {
        let folder = tempfile::tempdir().unwrap();
        copy(killed.path(), folder.path());
        fs::write(folder.path().join("journal"), &journal[..length]).unwrap();
        assert_eq!(checksums(&job.run(folder.path()).unwrap()), expected, "{length}");
    }
}

#[test]
fn a_job_that_is_killed_while_it_plans_or_finishes_ends_with_the_same_bytes() {
    let whole = tempfile::tempdir().unwrap();
    let job = job();
    let expected = checksums(&job.run(whole.path()).unwrap());

    let planning = tempfile::tempdir().unwrap();
    for name in ["plan.rows.partial", "samples.jsonl.partial", "tokens.npy.partial", "mask.npy"] {
        fs::write(planning.path().join(name), b"something").unwrap();
    }
    assert_eq!(checksums(&job.run(planning.path()).unwrap()), expected);

    let written = tempfile::tempdir().unwrap();
    let (plan, layout) = job.plan(written.path()).unwrap();
    job.write(written.path(), &plan, &layout, u64::MAX).unwrap();
    let name = layout.points[1].file_name();
    fs::rename(written.path().join(format!("{name}.partial")), written.path().join(name)).unwrap();
    fs::write(written.path().join("statistics.json.partial"), b"{").unwrap();
    assert_eq!(checksums(&job.run(written.path()).unwrap()), expected);
}

#[test]
fn a_full_disk_fails_and_the_job_goes_on_later() {
    let whole = tempfile::tempdir().unwrap();
    let job = job();
    let expected = checksums(&job.run(whole.path()).unwrap());
    let mut failures = 0;
    for bytes in (0..40_000).step_by(1700) {
        let folder = tempfile::tempdir().unwrap();
        let mut limited = job.clone();
        limited.options = WriterOptions { disk: small_disk(bytes), ..WriterOptions::default() };
        let (plan, layout) = job.plan(folder.path()).unwrap();
        match limited.write(folder.path(), &plan, &layout, u64::MAX) {
            Ok(done) => assert_eq!(done, layout.samples),
            Err(error) => {
                assert!(matches!(error, Error::DiskFull { .. }), "{error}");
                failures += 1;
            }
        }
        // No array has its final name before it is complete.
        for point in &layout.points {
            assert!(!folder.path().join(point.file_name()).exists());
        }
        assert_eq!(checksums(&job.run(folder.path()).unwrap()), expected, "{bytes}");
    }
    assert!(failures > 3, "{failures}");
}

#[test]
fn a_cancelled_batch_does_not_count() {
    let folder = tempfile::tempdir().unwrap();
    let job = job();
    let (plan, layout) = job.plan(folder.path()).unwrap();
    job.write(folder.path(), &plan, &layout, 1).unwrap();
    let tokens = PlanReader::open(folder.path(), &plan).unwrap().read(2..4).unwrap();
    let writer = Writer::open(folder.path(), layout, &job.options).unwrap();
    let cancelled = Arc::new(AtomicBool::new(false));
    let (captured, result) = mpsc::channel();
    let is_cancelled = {
        let cancelled = Arc::clone(&cancelled);
        move || cancelled.load(Ordering::Relaxed)
    };
    let captured = Box::new(move |result| captured.send(result).unwrap());
    let sink = writer.batch(2, tokens.clone(), is_cancelled, captured);
    cancelled.store(true, Ordering::Relaxed);
    capture(Box::new(sink), &tokens, &job.points, 3);
    assert_eq!(result.recv().unwrap(), Err(CaptureError::Cancelled));
    assert_eq!(writer.finish().unwrap().done().samples, 2);
}

#[test]
fn a_batch_with_missing_rows_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let job = job();
    let (plan, layout) = job.plan(folder.path()).unwrap();
    let tokens = PlanReader::open(folder.path(), &plan).unwrap().read(0..1).unwrap();
    let writer = Writer::open(folder.path(), layout, &job.options).unwrap();
    let sink = writer.batch(0, tokens.clone(), || false, Box::new(|_| {}));
    // The last point is never delivered.
    capture(Box::new(sink), &tokens, &job.points[..3], 3);
    let error = writer.finish().unwrap_err().to_string();
    assert!(error.starts_with("resid_post.layer1.npy: 0 tokens of a batch came"), "{error}");
}

#[test]
fn deliveries_that_do_not_fit_fail_the_batch() {
    let folder = tempfile::tempdir().unwrap();
    let job = job();
    let (plan, layout) = job.plan(folder.path()).unwrap();
    let tokens = PlanReader::open(folder.path(), &plan).unwrap().read(0..1).unwrap();
    let writer = Writer::open(folder.path(), layout, &job.options).unwrap();
    let hook = job.points[3].hook;
    let check = |sequence: usize, position: usize, width: usize, says: &str| {
        let (captured, result) = mpsc::channel();
        let captured = Box::new(move |result| captured.send(result).unwrap());
        let mut sink = writer.batch(0, tokens.clone(), || false, captured);
        let rows = [CaptureRows { sequence, position, rows: 0..1 }];
        sink.receive(hook, &rows, width, &vec![0.0; width]);
        assert!(sink.closed());
        Box::new(sink).end(Ok(()));
        let Err(CaptureError::Failed(why)) = result.recv().unwrap() else { panic!("{says}") };
        assert!(why.contains(says), "{why}");
    };
    check(0, 0, 5, "5 numbers");
    check(0, 5, 6, "position 6 is beyond");
    check(1, 0, 6, "beyond the sample's 0 tokens");
    // A sink that the engine drops ends its batch too.
    let (captured, result) = mpsc::channel();
    let captured = Box::new(move |result| captured.send(result).unwrap());
    drop(writer.batch(0, tokens.clone(), || false, captured));
    assert!(matches!(result.recv().unwrap(), Err(CaptureError::Failed(_))));
    assert_eq!(writer.finish().unwrap().done().samples, 0);
}

#[test]
fn missing_arrays_are_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let job = job();
    let (plan, layout) = job.plan(folder.path()).unwrap();
    job.write(folder.path(), &plan, &layout, 1).unwrap();
    fs::remove_file(folder.path().join("resid_post.layer1.npy.partial")).unwrap();
    assert!(matches!(job.run(folder.path()), Err(Error::Io { .. })));
    // Other points than those that were written.
    let other = tempfile::tempdir().unwrap();
    copy(folder.path(), other.path());
    let mut fewer = job.clone();
    fewer.points.pop();
    assert!(matches!(fewer.run(other.path()), Err(Error::Damaged { .. })));
}
