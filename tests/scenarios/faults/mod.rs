//! Faults that a download must survive. Each test is named by the number of its case. The tests check the requests to
//! the hub and the resulting bytes. They run in one process, which is faster, if the layout does not matter.

mod answers;
mod bodies;
mod breaker;
mod disk_and_cancel;
mod kills;
mod links;
mod mixed;
mod resumed;

use std::path::Path;

use fake_hub::{Fault, FaultKind, RunningHub};
use millm_proto::catalog::v1::{Model, Quantization};
use millm_proto::downloader::v1::{Download, HubSource, download::State};
use sha2::{Digest, Sha256};

use crate::harness::{Published, Server};

const TINY: &str = "millm/tiny-millm";
const FILE: &str = "model.safetensors";
/// The weights' address on both hosts.
const WEIGHTS: &str = "*/model.safetensors";

/// The most bytes that may be fetched again after a kill. A connection loses less than a chunk of 4 MiB.
const CHUNKS: u64 = 16 << 20;

fn from(repo: &str) -> HubSource {
    HubSource { repo_id: repo.to_owned(), ..HubSource::default() }
}

fn status(code: u16) -> FaultKind {
    FaultKind::Status { code, retry_after: None, rate_limit_seconds: None }
}

fn on_weights(kind: FaultKind) -> Fault {
    Fault::new(WEIGHTS, kind)
}

/// Downloads the trained model as published, and checks its bytes. Returns the model and every state of the download.
async fn arrives(hub: &RunningHub) -> (Model, Vec<Download>) {
    let server = Server::quick(hub).await;
    arrives_at(&server, hub).await
}

async fn arrives_at(server: &Server, hub: &RunningHub) -> (Model, Vec<Download>) {
    let published = Published::of(hub.url(), TINY).await;
    let id = server.begin_when_back(TINY, Quantization::Native).await;
    let seen = server.followed(id).await;
    let end = seen.last().expect("a last word");
    assert_eq!(end.state(), State::Succeeded, "{:?}", end.error);
    let model = server.model(&id.to_string()).await.expect("it is in the catalog");
    published.assert_kept(&model);
    (model, seen)
}

/// Returns the hash of the quantized weights.
fn weights_of(model: &Model) -> String {
    let bytes = std::fs::read(Path::new(&model.storage_path).join("model.gguf")).expect("it is there");
    let listed = model.files.iter().find(|file| file.path == "model.gguf").expect("it is listed");
    let hash = hex::encode(Sha256::digest(&bytes));
    assert_eq!(listed.sha256, hash);
    hash
}
