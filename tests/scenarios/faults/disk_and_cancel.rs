//! Disks that are full or not writable, cancellation, concurrent requests for the same model, and the token.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use fake_hub::{Fault, FaultKind, Host, LogEntry, RunningHub};
use millm_kit::{Reason, ServiceError};
use millm_proto::catalog::v1::{Quantization, model};
use millm_proto::downloader::v1::{HubSource, WatchDownloadRequest, download::State};
use serde_json::json;
use tempfile::TempDir;

use super::{FILE, TINY, WEIGHTS, from};
use crate::harness::{
    Fixture, LOOKED_AT, Layout, MEMBER, ON_THE_LINE, Options, Published, Server, bytes_sent, fetches,
    files_below, hub, in_both_layouts, is_final, large, model_hub, quick, within,
};

in_both_layouts!(
    fault_20_cancelling_leaves_nothing,
    fault_25_two_requests_for_one_model_are_one_job,
    fault_32_the_token_is_nowhere_to_be_found,
);

#[tokio::test]
async fn fault_18_a_disk_too_small_is_refused_with_both_numbers() {
    let hub = hub(&[Fixture::Enormous]);
    let server = Server::quick(&hub).await;
    let error = server.refused(from("acme/enormous"), Quantization::Q4).await;
    assert_eq!(error.reason, Reason::InsufficientDisk, "{error}");
    let message = error.message.strip_prefix("Insufficient disk space. Need ").expect("the contract's words");
    let (need, rest) = message.split_once(" GB, only ").expect("both numbers");
    let free = rest.strip_suffix(" GB available.").expect("both numbers");
    let number = |text: &str| text.parse::<f64>().unwrap_or_else(|e| panic!("'{text}': {e}"));
    assert!(number(need) > number(free), "{error}");
    assert!(
        fetches(&hub, FILE).iter().all(|fetch| fetch.range.is_some()),
        "headers at most: {:?}",
        hub.log()
    );
    assert_eq!(server.rest().get("/api/models").await.data(), json!([]));
}

/// Starts a server with a models folder of this many MiB, on a disk of its own that only the server sees.
async fn on_a_small_disk(hub: &RunningHub, mib: u64) -> (Server, PathBuf, TempDir) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().display().to_string();
    let script = format!("mount -t tmpfs -o size={mib}m none '{path}' && exec \"$@\"");
    let inside = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c"];
    let trial = std::process::Command::new(inside[0])
        .args(&inside[1..])
        .args([&script, "sh", "true"])
        .stdout(Stdio::null())
        .status();
    assert!(
        trial.as_ref().is_ok_and(std::process::ExitStatus::success),
        "a small disk needs user namespaces and util-linux' unshare ({trial:?}): where they are off, \
         `sysctl kernel.unprivileged_userns_clone=1` or, in a container, `--security-opt seccomp=unconfined` or \
         `--cap-add SYS_ADMIN` allows them"
    );
    let mut options = quick(hub.url()).set("MODEL_CACHE_DIR", &path);
    options.inside = inside.into_iter().chain([&*script, "sh"]).map(str::to_owned).collect();
    let server = Server::start(Layout::OneProcess, options).await;
    let seen = server.outside(folder.path());
    (server, seen, folder)
}

#[tokio::test]
async fn fault_18_a_disk_that_fills_up_ends_the_download_cleanly() {
    let hub = hub(&[]);
    hub.add_repo(large(16)).expect("a repository");
    let (server, folder, _mount) = on_a_small_disk(&hub, 64).await;
    let pause = hub.pause_at(WEIGHTS, 3 << 20);
    let id = server.begin("acme/large", Quantization::Q8).await;
    within("the first bytes", pause.reached()).await;
    // Another program fills the disk.
    let filler = folder.join("somebody-elses");
    fill(&filler);
    pause.release();
    let error = server.failed(id).await;
    assert_eq!(error.reason, Reason::InsufficientDisk, "{error}");
    let left: Vec<_> = files_below(&folder.join("huggingface"));
    assert!(left.iter().all(|path| path.extension().is_some_and(|e| e == "lock")), "{left:?}");
    assert_eq!(server.model(&id.to_string()).await.expect("its row").state(), model::State::Error);
    let (came, size) = (fetches(&hub, FILE), Published::of(hub.url(), "acme/large").await.size(FILE));
    assert!(bytes_sent(&came) <= size + LOOKED_AT + ON_THE_LINE, "nothing was tried again: {came:?}");
    // With free space again, the same row continues.
    std::fs::remove_file(filler).expect("ours");
    assert_eq!(server.begin("acme/large", Quantization::Q8).await, id);
    server.arrived(id).await;
}

/// Writes until the disk is full.
fn fill(path: &Path) {
    use std::io::Write as _;
    let mut file = std::fs::File::create(path).expect("a file");
    for piece in [1 << 20, 4096, 1] {
        while file.write_all(&vec![0; piece]).is_ok() {}
    }
}

/// A path below a file cannot be made, not even by root.
#[tokio::test]
async fn fault_19_a_models_folder_that_cannot_be_written_is_said_at_the_start() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = folder.path().join("file");
    std::fs::write(&file, "no folder").expect("ours");
    let models = file.join("models").display().to_string();
    let cli = crate::harness::Cli::new("http://127.0.0.1:1", folder.path())
        .env("MODEL_CACHE_DIR", &models)
        .env("DATABASE_URL", &format!("sqlite://{}/millm.db", folder.path().display()))
        .env("PORT", "0");
    let outcome = cli.run(&["serve"]).await;
    assert_ne!(outcome.code, 0, "{outcome:?}");
    let said = format!("{}{}", outcome.stdout, outcome.stderr);
    assert!(said.contains(&models) && said.contains("cannot be written"), "{outcome:?}");
    assert!(said.contains("MODEL_CACHE_DIR"), "it says what to change: {outcome:?}");
}

/// Checks that the models folder has only locks, and that there is no row.
async fn assert_nothing_left(server: &Server, id: i64) {
    let gone = server.rest().get(&format!("/api/models/{id}")).await;
    assert_eq!((gone.status, gone.code()), (404, "MODEL_NOT_FOUND"));
    let left = files_below(&server.models_folder());
    assert!(left.iter().all(|file| file.extension().is_some_and(|e| e == "lock")), "{left:?}");
}

/// Cancels while no bytes arrive. The end shows that cancelling does not wait for them.
async fn fault_20_cancelling_leaves_nothing(layout: Layout) {
    let hub = model_hub();
    let options = Options::with_hub(hub.url()).set("MILLM_DOWNLOAD_STALL_TIMEOUT", "600");
    let server = Server::start(layout, options).await;
    let pause = hub.pause_at(WEIGHTS, 3 << 20);
    let id = server.begin(TINY, Quantization::Q4).await;
    let waiting = server.begin(TINY, Quantization::Q8).await;
    within("the first bytes", pause.reached()).await;
    for id in [waiting, id] {
        let (seen, cancelled) = tokio::join!(server.followed(id), async {
            server.watch_until(id, |_| true).await;
            server.rest().post(&format!("/api/models/{id}/cancel"), &json!({})).await
        });
        assert!(cancelled.data().is_null());
        assert_eq!(seen.last().expect("a last word").state(), State::Cancelled);
    }
    assert_nothing_left(&server, id).await;
    assert_nothing_left(&server, waiting).await;
    pause.release();
    server.pull(TINY, Quantization::Q4).await;
}

#[tokio::test]
async fn fault_20_cancelling_ends_every_wait() {
    let stall = |after| FaultKind::Stall { after, for_ms: None };
    let limited =
        FaultKind::Status { code: 429, retry_after: Some("3600".to_owned()), rate_limit_seconds: None };
    for kind in [limited.clone(), stall(None), stall(Some(1_000_000))] {
        let hub = model_hub();
        let answered = kind == limited;
        hub.fault(Fault::new(WEIGHTS, kind.clone()).on(Host::Cdn));
        let options = Options::with_hub(hub.url()).set("MILLM_DOWNLOAD_STALL_TIMEOUT", "600");
        let server = Server::start(Layout::OneProcess, options).await;
        let id = server.begin(TINY, Quantization::Native).await;
        let met = |entry: &LogEntry| entry.host == Host::Cdn && (!answered || entry.status == 429);
        within("the wait", hub.logged(|log| log.iter().any(met))).await;
        server.cancel(id).await.unwrap_or_else(|e| panic!("{kind:?}: {e}"));
        assert_nothing_left(&server, id).await;
    }
}

#[tokio::test]
async fn fault_20_cancelling_ends_quantizing() {
    let hub = hub(&[]);
    hub.add_repo(large(64)).expect("a repository");
    let server = Server::start(Layout::OneProcess, quick(hub.url()).set("MILLM_THREADS", "1")).await;
    let id = server.begin("acme/large", Quantization::Q4).await;
    let seen =
        server.watch_until(id, |download| download.state() == State::Quantizing || is_final(download)).await;
    assert_eq!(seen.state(), State::Quantizing);
    server.cancel(id).await.expect("it is not finished yet");
    assert_nothing_left(&server, id).await;
}

#[tokio::test]
async fn fault_20_a_cancel_that_races_the_end_has_one_outcome() {
    let hub = model_hub();
    let server = Server::quick(&hub).await;
    let published = Published::of(hub.url(), TINY).await;
    for round in 0..12 {
        let pause = hub.pause_at(WEIGHTS, published.size(FILE) - 1);
        let id = server.begin(TINY, Quantization::Native).await;
        within("the last byte", pause.reached()).await;
        let (seen, cancelled) = tokio::join!(server.followed(id), async {
            server.watch_until(id, |_| true).await;
            pause.release();
            // The cancellation comes later in each round, until it comes too late.
            tokio::time::sleep(std::time::Duration::from_millis(round * 3)).await;
            server.cancel(id).await
        });
        match (seen.last().expect("a last word").state(), cancelled) {
            (State::Cancelled, Ok(())) => assert_nothing_left(&server, id).await,
            (State::Succeeded, _) => {
                published.assert_kept(&server.model(&id.to_string()).await.expect("its row"));
                assert!(server.rest().delete(&format!("/api/models/{id}")).await.data().is_null());
            }
            other => panic!("{other:?}: {seen:?}"),
        }
    }
}

async fn fault_25_two_requests_for_one_model_are_one_job(layout: Layout) {
    let hub = model_hub();
    let pause = hub.pause_at(WEIGHTS, 1 << 20);
    let server = Server::start(layout, quick(hub.url()).set("MILLM_DOWNLOAD_STALL_TIMEOUT", "30")).await;
    let published = Published::of(hub.url(), TINY).await;
    let both = tokio::join!(
        server.start_pull(from(TINY), Quantization::Native),
        server.start_pull(from("Millm/Tiny-miLLM"), Quantization::Native),
    );
    let (ids, refused): (Vec<_>, Vec<_>) = [both.0, both.1].into_iter().partition(Result::is_ok);
    let id = ids.into_iter().next().expect("one is taken").expect("it is").model_id;
    // The other callers are told of the existing model.
    for status in refused.into_iter().filter_map(Result::err) {
        let error = ServiceError::from(&status);
        assert_eq!(error.reason, Reason::ModelAlreadyExists, "{error}");
        assert_eq!(error.details["model_id"], id.to_string());
    }
    within("the first bytes", pause.reached()).await;
    // Two clients watch, and one disconnects.
    let request = WatchDownloadRequest { name: format!("downloads/{id}") };
    let mut leaving = server.downloader().watch_download(request).await.expect("a watch").into_inner();
    leaving.message().await.expect("the present state");
    drop(leaving);
    let (seen, ()) = tokio::join!(server.followed(id), async { pause.release() });
    assert_eq!(seen.last().expect("a last word").state(), State::Succeeded);
    published.assert_kept(&server.model(&id.to_string()).await.expect("its row"));
    let came = fetches(&hub, FILE);
    assert!(bytes_sent(&came) <= published.size(FILE) + LOOKED_AT, "once: {came:?}");
    assert_eq!(server.rest().get("/api/models").await.data().as_array().map(Vec::len), Some(1));
}

/// The token came with a request, with the environment, and with a request that failed.
async fn fault_32_the_token_is_nowhere_to_be_found(layout: Layout) {
    const WRONG: &str = "hf_notthetokenofanybody";
    const OWN: &str = "hf_theserversowntoken";
    let hub = hub(&[Fixture::Gated, Fixture::Tiny]);
    let options = quick(hub.url()).set("LOG_LEVEL", "trace").set("HF_TOKEN", OWN);
    let server = Server::start(layout, options).await;
    let mut said = String::new();
    for token in [WRONG, OWN] {
        let source = HubSource { hf_token: token.to_owned(), ..from("acme/gated") };
        let error = server.refused(source, Quantization::Q4).await;
        assert_eq!(error.reason, Reason::InvalidHfToken, "{error}");
        said.push_str(&format!("{error:?}"));
    }
    let cli = server.cli().env("HF_TOKEN", MEMBER);
    let pulled = cli.run(&["pull", "acme/gated", "-q", "Q4", "--json"]).await;
    assert_eq!(pulled.code, 0, "{pulled:?}");
    let shown = cli.run(&["config"]).await;
    let rest = server.rest().get("/api/models").await;
    said.push_str(&format!("{pulled:?}{shown:?}{}{}", rest.text, server.command_lines()));
    let asked = hub.log();
    assert!(asked.iter().any(|entry| entry.host == Host::Hub && entry.authorized));
    assert!(asked.iter().all(|entry| entry.host == Host::Hub || !entry.authorized), "{asked:?}");
    for token in [MEMBER, WRONG, OWN] {
        assert!(!said.contains(token), "{token} was told: {said}");
        for path in files_below(server.folder()) {
            let bytes = std::fs::read(&path).expect("readable");
            let found = bytes.windows(token.len()).any(|window| window == token.as_bytes());
            assert!(!found, "{token} is in {}", path.display());
        }
    }
    assert!(server.log().contains("\"level\":\"TRACE\""), "the log told everything, and was looked at");
    assert!(
        files_below(server.folder()).iter().any(|path| path.ends_with("millm.db")),
        "the database was looked at"
    );
}
