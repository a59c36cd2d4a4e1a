//! Random mixtures of faults over many downloads: a ready model never has a wrong byte, nothing hangs, a cancelled
//! download leaves nothing, and progress only rises. MILLM_SEED repeats a run; MILLM_ROUNDS makes it longer.

use std::path::PathBuf;
use std::time::Duration;

use fake_hub::synthetic::Shape;
use fake_hub::{Fault, FaultKind, Host, RunningHub};
use futures::StreamExt as _;
use millm_kit::{Reason, ServiceError};
use millm_proto::catalog::v1::Quantization;
use millm_proto::downloader::v1::{Download, HubSource, download::State};

use super::status;
use crate::harness::{
    Layout, Published, Rng, Server, files_below, fixture, hub, is_final, number_from, quick,
};

const AT_ONCE: usize = 6;

/// The plan of one download.
#[derive(Debug)]
struct Round {
    repo: String,
    faults: Vec<Fault>,
    /// The number of bytes on disk at which the download is cancelled.
    cancel_at: Option<i64>,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn faults_mixed_at_random_never_make_a_wrong_model() {
    let seed = Rng::seed();
    let mut rng = Rng::new(seed);
    let hub = hub(&[]);
    let options = quick(hub.url()).set("MILLM_MAX_CONCURRENT_DOWNLOADS", "6");
    let server = Server::start(Layout::OneProcess, options).await;
    let rounds: Vec<_> = (0..number_from("MILLM_ROUNDS", 24)).map(|n| round(n, &mut rng, &hub)).collect();
    futures::stream::iter(rounds)
        .for_each_concurrent(AT_ONCE, |round| {
            let (server, hub) = (&server, &hub);
            async move { survive(server, hub, &round).await }
        })
        .await;
    let incoming = |path: &PathBuf| path.to_string_lossy().contains("/.incoming-");
    let left: Vec<_> = files_below(&server.models_folder()).into_iter().filter(incoming).collect();
    assert!(left.is_empty(), "MILLM_SEED={seed}: {left:?}");
}

fn round(n: u64, rng: &mut Rng, hub: &RunningHub) -> Round {
    let repo = format!("acme/m{n}");
    let shape = Shape { layers: 1 + rng.below(12), hidden: 256, ..Shape::of_mib(n, 1) };
    hub.add_repo(shape.repo(&repo, &fixture("tiny-millm")).expect("the tokenizer is there"))
        .expect("a repository");
    let size = shape.weights_bytes();
    let faults = (0..=rng.below(3)).map(|_| fault(&repo, size, rng)).collect();
    let cancel_at = (rng.below(5) == 0).then(|| rng.below(size) as i64);
    Round { repo, faults, cancel_at }
}

fn fault(repo: &str, size: u64, rng: &mut Rng) -> Fault {
    let anywhere = rng.below(size);
    let kind = match rng.below(16) {
        0 | 1 => FaultKind::Cut { after: anywhere },
        2 => FaultKind::RandomCut { probability: 0.5, seed: anywhere },
        3 => FaultKind::IgnoreRange,
        4 => FaultKind::WrongStart { before: 1 + rng.below(5000) },
        5 => FaultKind::RangeNotSatisfiable,
        6 | 7 => FaultKind::Corrupt { at: Some(anywhere) },
        8 => FaultKind::Short { by: 1 + rng.below(100_000) },
        9 => FaultKind::Endless,
        10 => FaultKind::Stall { after: Some(anywhere), for_ms: None },
        11 => FaultKind::Stall { after: None, for_ms: Some(1500) },
        12 => FaultKind::Latency { ms: rng.below(100) },
        13 => FaultKind::ExpiredLink,
        14 => status([500, 502, 503, 504][rng.below(4) as usize]),
        _ => FaultKind::Status { code: 429, retry_after: Some("1".to_owned()), rate_limit_seconds: None },
    };
    let path = format!("*/{repo}/*.safetensors");
    let fault = Fault::new(path, kind).skip(rng.below(2) as u32).times(1 + rng.below(3) as u32);
    if rng.below(4) == 0 { fault } else { fault.on(Host::Cdn) }
}

async fn survive(server: &Server, hub: &RunningHub, round: &Round) {
    let published = Published::of(hub.url(), &round.repo).await;
    let armed: Vec<u64> = round.faults.iter().map(|fault| hub.fault(fault.clone())).collect();
    let end = match attempt(server, round, round.cancel_at).await {
        Ok(end) => end,
        Err(error) => {
            let expected = [Reason::ModelDownloadFailed, Reason::ChecksumMismatch, Reason::HubUnavailable];
            assert!(expected.contains(&error.reason), "{round:?}: {error}");
            for id in armed {
                hub.disarm(id);
            }
            retried(server, round).await
        }
    };
    if end.state() == State::Cancelled {
        assert_nothing_left(server, round, end.model_id).await;
    } else {
        published.assert_kept(&server.model(&end.model_id.to_string()).await.expect("its row"));
    }
}

async fn assert_nothing_left(server: &Server, round: &Round, id: i64) {
    let gone = server.rest().get(&format!("/api/models/{id}")).await;
    assert_eq!(gone.status, 404, "{round:?}");
    let name = format!("{}--", round.repo.replace('/', "--"));
    let of_it = |path: &PathBuf| path.to_string_lossy().contains(&name);
    let left: Vec<_> = files_below(&server.models_folder()).into_iter().filter(of_it).collect();
    assert!(left.iter().all(|path| path.extension().is_some_and(|e| e == "lock")), "{round:?}: {left:?}");
}

/// Repeats the download without faults of its own. Faults of others may still keep the circuit breaker open for a
/// while.
async fn retried(server: &Server, round: &Round) -> Download {
    loop {
        match attempt(server, round, None).await {
            Ok(end) => return end,
            Err(error) => assert_eq!(error.reason, Reason::HubUnavailable, "{round:?}: {error}"),
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// Runs a download to its success or its cancellation. Progress in between must only rise.
async fn attempt(server: &Server, round: &Round, cancel_at: Option<i64>) -> Result<Download, ServiceError> {
    let source = HubSource { repo_id: round.repo.clone(), ..HubSource::default() };
    let id =
        server.start_pull(source, Quantization::Native).await.map_err(|s| ServiceError::from(&s))?.model_id;
    let (mut seen, ()) = tokio::join!(server.followed(id), async {
        let Some(bytes) = cancel_at else { return };
        server.watch_until(id, |download| download.downloaded_bytes >= bytes || is_final(download)).await;
        // The download may have ended by itself.
        let _ = server.cancel(id).await;
    });
    let end = seen.pop().expect("a last word");
    match end.state() {
        State::Failed => Err(ServiceError::from_rpc(&end.error.expect("a reason"))),
        _ => Ok(end),
    }
}
