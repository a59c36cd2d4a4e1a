//! Killed processes, and two processes with one folder: verified bytes are not fetched again, and nothing incomplete
//! counts.

use std::io::{Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};

use fake_hub::RunningHub;
use millm_proto::catalog::v1::Quantization;
use millm_proto::downloader::v1::download::State;
use sqlx::Connection as _;
use sqlx::sqlite::SqliteConnection;

use super::{CHUNKS, FILE, TINY, WEIGHTS, arrives_at, weights_of};
use crate::harness::{
    Layout, ON_THE_LINE, Published, Role, Server, bytes_sent, fetches, files_below, hub, in_both_layouts,
    is_final, large, model_hub, quick, within,
};

in_both_layouts!(fault_21_killed_in_mid_download_what_is_there_is_kept);

const LARGE: &str = "acme/large";

fn large_hub(mib: u64) -> RunningHub {
    let hub = hub(&[]);
    hub.add_repo(large(mib)).expect("a repository");
    hub
}

/// Returns the incomplete weights of a download.
fn partial(server: &Server, model_id: i64) -> PathBuf {
    let folder = server.incoming(model_id).join(".partial");
    let found =
        files_below(&folder).into_iter().find(|path| path.file_name().is_some_and(|name| name == FILE));
    found.unwrap_or_else(|| panic!("no partial in {:?}", files_below(&folder)))
}

/// Kills the server while part of the trained model's weights is on disk, damages that part with `spoil`, and starts
/// the server again. The model must arrive, and no more than its size is fetched again.
async fn spoiled(spoil: impl Fn(&Path)) {
    let hub = model_hub();
    let pause = hub.pause_at(WEIGHTS, 5 << 20);
    let mut server = Server::quick(&hub).await;
    let published = Published::of(hub.url(), TINY).await;
    let id = server.begin(TINY, Quantization::Native).await;
    within("the pause", pause.reached()).await;
    server.watch_until(id, |download| download.downloaded_bytes >= 5 << 20).await;
    server.kill_all().await;
    spoil(&partial(&server, id));
    hub.clear_log();
    pause.release();
    server.restart_all().await;
    published.assert_kept(&server.arrived(id).await);
    let sent = bytes_sent(&fetches(&hub, FILE));
    let size = published.size(FILE);
    assert!(sent <= 2 * size, "{sent} bytes of {size} came again: {:?}", fetches(&hub, FILE));
}

#[tokio::test]
async fn fault_05_a_partial_that_is_too_long_is_thrown_away() {
    spoiled(|partial| {
        let mut file = std::fs::File::options().append(true).open(partial).expect("ours");
        file.write_all(&vec![7; 9 << 20]).expect("room");
    })
    .await;
}

#[tokio::test]
async fn fault_05_a_corrupt_partial_is_thrown_away() {
    spoiled(|partial| {
        let mut file = std::fs::File::options().write(true).open(partial).expect("ours");
        file.seek(SeekFrom::Start(1 << 20)).expect("a place");
        file.write_all(b"not what the hub has").expect("room");
    })
    .await;
}

#[tokio::test]
async fn fault_05_a_partial_without_its_ledger_proves_nothing() {
    spoiled(|partial| {
        for path in files_below(partial.parent().expect("a folder")) {
            if path != partial {
                std::fs::write(path, "{ half").expect("ours");
            }
        }
    })
    .await;
}

/// A folder in the way prevents the complete weights from getting their name.
#[tokio::test]
async fn fault_04_a_complete_partial_is_finished_without_a_byte() {
    let hub = model_hub();
    let pause = hub.pause_at(WEIGHTS, 5 << 20);
    let server = Server::quick(&hub).await;
    let id = server.begin(TINY, Quantization::Native).await;
    within("the pause", pause.reached()).await;
    let in_the_way = server.incoming(id).join(FILE);
    std::fs::create_dir(&in_the_way).expect("the folder is there");
    pause.release();
    server.failed(id).await;
    std::fs::remove_dir(&in_the_way).expect("it was left alone");
    hub.fault(super::on_weights(fake_hub::FaultKind::RangeNotSatisfiable));
    hub.clear_log();
    let (model, _) = arrives_at(&server, &hub).await;
    assert_eq!(model.id, id);
    assert_eq!(bytes_sent(&fetches(&hub, FILE)), 0, "{:?}", hub.log());
}

async fn fault_21_killed_in_mid_download_what_is_there_is_kept(layout: Layout) {
    let hub = large_hub(40);
    let at = 30 << 20;
    let pause = hub.pause_at(WEIGHTS, at);
    let mut server = Server::start(layout, quick(hub.url()).set("MILLM_DOWNLOAD_STALL_TIMEOUT", "30")).await;
    let published = Published::of(hub.url(), LARGE).await;
    let id = server.begin(LARGE, Quantization::Native).await;
    within("the pause", pause.reached()).await;
    // Bytes that the hub has sent may not have arrived yet.
    let seen = server.watch_until(id, |download| download.downloaded_bytes as u64 >= at).await;
    assert_eq!(seen.state(), State::Downloading);
    server.kill_all().await;
    hub.clear_log();
    pause.release();
    server.restart_all().await;
    let resumed = server.watch_until(id, is_final).await;
    assert_eq!(resumed.state(), State::Succeeded, "{:?}", resumed.error);
    published.assert_kept(&server.model(&id.to_string()).await.expect("its row"));
    let again = fetches(&hub, FILE);
    let most = published.size(FILE) - at + CHUNKS + ON_THE_LINE;
    assert!(bytes_sent(&again) <= most, "{most} bytes at most: {again:?}");
    assert!(resumed.resumed_bytes as u64 >= at - CHUNKS, "{resumed:?}");
}

#[tokio::test]
async fn fault_22_killed_in_mid_quantizing_the_sources_are_kept() {
    let hub = large_hub(96);
    let mut server = Server::start(Layout::OneProcess, quick(hub.url()).set("MILLM_THREADS", "1")).await;
    let id = server.begin(LARGE, Quantization::Q4).await;
    let seen =
        server.watch_until(id, |download| download.state() == State::Quantizing || is_final(download)).await;
    assert_eq!(seen.state(), State::Quantizing);
    server.kill_all().await;
    let models = server.models_folder().join("huggingface");
    let finished =
        files_below(&models).into_iter().filter(|path| !path.to_string_lossy().contains("/.incoming-"));
    assert_eq!(finished.filter(|path| path.extension().is_some_and(|e| e == "gguf")).count(), 0);
    hub.clear_log();
    server.restart_all().await;
    let model = server.arrived(id).await;
    assert_eq!(bytes_sent(&fetches(&hub, FILE)), 0, "{:?}", hub.log());
    let made = weights_of(&model);
    let left: Vec<_> = files_below(&models);
    assert!(left.iter().all(|path| path.starts_with(&model.storage_path) || is_lock(path)), "{left:?}");
    assert!(left.iter().all(|path| !path.to_string_lossy().ends_with(".new")), "{left:?}");
    // The result equals that of an undisturbed download.
    assert!(server.rest().delete(&format!("/api/models/{id}")).await.data().is_null());
    let undisturbed = server.pull(LARGE, Quantization::Q4).await;
    assert_eq!(made, weights_of(&undisturbed));
}

fn is_lock(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "lock")
}

/// Another process holds the database's write lock, so the folder has its name and the row cannot be written.
#[tokio::test]
async fn fault_23_killed_between_the_name_and_the_row_it_is_made_good() {
    let hub = model_hub();
    let pause = hub.pause_at(WEIGHTS, 1 << 20);
    let mut server = Server::quick(&hub).await;
    let published = Published::of(hub.url(), TINY).await;
    let id = server.begin(TINY, Quantization::Native).await;
    within("the first bytes", pause.reached()).await;
    let database = format!("sqlite://{}", server.folder().join("millm.db").display());
    let mut holder = SqliteConnection::connect(&database).await.expect("the catalog's file");
    sqlx::query("BEGIN IMMEDIATE").execute(&mut holder).await.expect("the lock");
    pause.release();
    let meta = server.models_folder().join("huggingface/millm--tiny-millm--NATIVE/.millm_meta.json");
    within("the folder's name", async {
        while !meta.exists() {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    })
    .await;
    server.kill_all().await;
    holder.close().await.expect("and lets go");
    hub.clear_log();
    server.restart_all().await;
    let model = server.arrived(id).await;
    published.assert_kept(&model);
    assert_eq!(Some(Path::new(&model.storage_path)), meta.parent());
    assert!(fetches(&hub, FILE).is_empty(), "nothing was missing: {:?}", hub.log());
    server.load(&model.handle).await;
}

#[tokio::test]
async fn fault_21_killed_while_waiting_in_the_queue_nothing_is_forgotten() {
    let hub = model_hub();
    let pause = hub.pause_at(WEIGHTS, 1 << 20);
    let mut server = Server::quick(&hub).await;
    let first = server.begin(TINY, Quantization::Native).await;
    let second = server.begin(TINY, Quantization::Q8).await;
    within("the first bytes", pause.reached()).await;
    server.kill(Role::Downloader).await;
    pause.release();
    server.restart_all().await;
    server.arrived(first).await;
    server.arrived(second).await;
}
