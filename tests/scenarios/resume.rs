//! Downloads after a kill, a restart or a cut connection: verified bytes are not fetched again.

use std::collections::BTreeSet;

use fake_hub::{Host, LogEntry, RunningHub};
use millm_proto::catalog::v1::Quantization;
use millm_proto::downloader::v1::HubSource;

use crate::harness::{Layout, Options, Role, Server, hub, in_both_layouts, large, model_hub, within};

in_both_layouts!(a_restart_in_mid_download_loses_nothing, what_is_ready_stays_ready,);

const WEIGHTS: &str = "*/model.safetensors";

fn from(repo: &str) -> HubSource {
    HubSource { repo_id: repo.to_owned(), ..HubSource::default() }
}

/// Returns the requests for the weights at the CDN.
fn served(hub: &RunningHub) -> Vec<LogEntry> {
    let log = hub.log().into_iter();
    log.filter(|entry| entry.host == Host::Cdn && entry.path.ends_with("/model.safetensors")).collect()
}

/// Restarts the catalog if it has its own process, or else the whole server.
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
        let starts: BTreeSet<_> = served(&hub).iter().map(LogEntry::range_start).collect();
        assert_eq!(starts.len(), served(&hub).len(), "the downloader went on: {:?}", served(&hub));
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
