//! Killed, restarted, cut off: what was fetched and verified is not fetched again, and nothing is lost.

use fake_hub::{Host, LogEntry, RunningHub};
use millm_proto::catalog::v1::Quantization;
use millm_proto::downloader::v1::{HubSource, download::State};

use crate::harness::{Layout, Options, Role, Server, hub, in_both_layouts, large, model_hub, within};

in_both_layouts!(
    killed_at_30_percent,
    killed_at_60_percent,
    killed_at_90_percent,
    a_restart_in_mid_download_loses_nothing,
    what_is_ready_stays_ready,
);

const WEIGHTS: &str = "*/model.safetensors";
/// What may be fetched again after a kill.
const CHUNK: u64 = 4 << 20;

fn from(repo: &str) -> HubSource {
    HubSource { repo_id: repo.to_owned(), ..HubSource::default() }
}

/// Requests for the weights at the CDN.
fn served(hub: &RunningHub) -> Vec<LogEntry> {
    let log = hub.log().into_iter();
    log.filter(|entry| entry.host == Host::Cdn && entry.path.ends_with("/model.safetensors")).collect()
}

async fn killed_at_30_percent(layout: Layout) {
    killed_at(layout, 30).await;
}

async fn killed_at_60_percent(layout: Layout) {
    killed_at(layout, 60).await;
}

async fn killed_at_90_percent(layout: Layout) {
    killed_at(layout, 90).await;
}

async fn killed_at(layout: Layout, percent: u64) {
    let hub = hub(&[]);
    let spec = large(64);
    let size = 64 << 20;
    hub.add_repo(spec).unwrap();
    let at = size * percent / 100;
    let pause = hub.pause_at(WEIGHTS, at);
    let mut server = Server::start(layout, Options::with_hub(hub.url())).await;
    let started = server.start_pull(from("acme/large"), Quantization::Native).await.unwrap();
    within("the pause", pause.reached()).await;
    // What the hub has sent may still be on its way.
    let seen = server.watch_until(started.model_id, |download| download.downloaded_bytes as u64 >= at).await;
    assert_eq!(seen.state(), State::Downloading);
    server.kill_all().await;
    hub.clear_log();
    pause.release();

    server.restart_all().await;
    let model = server.arrived(started.model_id).await;
    let total = model.files.iter().find(|file| file.path == "model.safetensors").expect("it is listed");
    let again = served(&hub);
    let bytes: u64 = again.iter().map(|entry| entry.bytes_sent).sum();
    let most = total.size_bytes as u64 - at + CHUNK;
    assert!(bytes <= most, "{bytes} bytes came again, {most} at most: {again:?}");
    assert!(again.iter().all(|entry| entry.range_start() + CHUNK >= at), "{again:?}");
}

/// The catalog where it has a process of its own, else the whole server.
async fn a_restart_in_mid_download_loses_nothing(layout: Layout) {
    let hub = hub(&[]);
    hub.add_repo(large(16)).unwrap();
    let pause = hub.pause_at(WEIGHTS, 8 << 20);
    let mut server = Server::start(layout, Options::with_hub(hub.url())).await;
    let started = server.start_pull(from("acme/large"), Quantization::Q8).await.unwrap();
    within("the pause", pause.reached()).await;
    server.watch_until(started.model_id, |download| download.downloaded_bytes >= 8 << 20).await;
    server.kill(Role::Catalog).await;
    server.restart(Role::Catalog).await;
    pause.release();
    let model = server.arrived(started.model_id).await;
    assert_eq!(model.actual_quantization(), Quantization::Q8);
    if layout == Layout::FourProcesses {
        assert_eq!(served(&hub).len(), 1, "the downloader went on: {:?}", served(&hub));
    }
}

async fn what_is_ready_stays_ready(layout: Layout) {
    let hub = model_hub();
    let mut server = Server::start(layout, Options::with_hub(hub.url())).await;
    let model = server.pull("millm/tiny-millm", Quantization::Q4).await;
    server.load(&model.handle).await;
    let before = hub.log().len();
    server.kill_all().await;
    server.restart_all().await;
    assert!(server.loaded().await.is_none(), "nothing is loaded after a restart");
    let shown = server.rest().get(&format!("/api/models/{}", model.id)).await.data();
    assert_eq!(shown["status"], "ready");
    server.load(&model.handle).await;
    let answer = server.rest().chat(&model.handle, "What is the capital of Japan?").await;
    assert_eq!(answer, "The capital of Japan is Tokyo.");
    assert_eq!(hub.log().len(), before, "nothing was asked of the hub again");
}
