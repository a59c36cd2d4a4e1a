//! How downloads and models end: cancelled, failed and tried again, removed.

use fake_hub::{Fault, FaultKind};
use millm_kit::Reason;
use millm_proto::{
    catalog::v1::{Quantization, model},
    downloader::v1::download::State,
};

use super::world::{World, pull, reason, synthetic, tiny};

#[tokio::test]
async fn cancelling_leaves_nothing() {
    let world = World::new([synthetic("o/n")]);
    let mut downloader = world.start().await;
    let pause = world.hub.pause_at("*/model.safetensors", 10 << 20);
    let id = downloader.pull(pull("o/n", Quantization::Q4)).await.unwrap().model_id;
    let mut watcher = downloader.watch(id).await;
    pause.reached().await;
    downloader.cancel("n").await.unwrap();
    assert!(world.catalog.rows().is_empty());
    assert!(world.names("huggingface").is_empty());
    let mut last = None;
    while let Some(snapshot) = watcher.message().await.unwrap() {
        last = Some(snapshot);
    }
    assert_eq!(last.unwrap().state(), State::Cancelled);
    let again = downloader.cancel(id).await.unwrap_err();
    assert_eq!(again.reason, Reason::NotFound);
    pause.release();
    downloader.fetch(pull("o/n", Quantization::Native)).await;
}

#[tokio::test]
async fn cancelling_and_finishing_at_once_has_one_end() {
    let world = World::new([synthetic("o/n")]);
    let mut downloader = world.start().await;
    let id = downloader.pull(pull("o/n", Quantization::Q2)).await.unwrap().model_id;
    let mut watcher = downloader.watch(id).await;
    while watcher.message().await.unwrap().unwrap().state() != State::Quantizing {}
    match downloader.cancel(id).await {
        Ok(()) => {
            assert_eq!(downloader.list().await[0].state(), State::Cancelled);
            assert!(world.catalog.rows().is_empty() && world.names("huggingface").is_empty());
        }
        Err(error) => {
            assert_eq!(error.reason, Reason::NotFound);
            assert_eq!(world.catalog.row(id).state(), model::State::Ready);
            assert_eq!(world.names("huggingface"), ["o--n--Q2"]);
        }
    }
}

#[tokio::test]
async fn cancelling_while_the_catalogue_is_away_is_not_forgotten() {
    let world = World::new([synthetic("o/n")]);
    let mut downloader = world.start().await;
    let pause = world.hub.pause_at("*/model.safetensors", 1 << 20);
    let id = downloader.pull(pull("o/n", Quantization::Q4)).await.unwrap().model_id;
    pause.reached().await;
    world.catalog.set_away(true);
    let mut client = downloader.client.clone();
    let cancelling = tokio::spawn(async move {
        let request = millm_proto::downloader::v1::CancelDownloadRequest { name: format!("downloads/{id}") };
        client.cancel_download(request).await
    });
    world.catalog.missed().await;
    downloader.stop().await;
    assert!(cancelling.await.unwrap().is_err());
    world.catalog.set_away(false);
    assert_eq!(world.catalog.rows().len(), 1);
    let mut downloader = world.start().await;
    // The first call is answered once what was left is known; then the note is obeyed.
    if !downloader.list().await.is_empty() {
        assert_eq!(downloader.end_of(id).await.state(), State::Cancelled);
    }
    assert!(world.catalog.rows().is_empty());
    assert!(world.names("huggingface").is_empty());
}

#[tokio::test]
async fn a_failure_keeps_its_bytes_for_the_retry() {
    let mut world = World::new([synthetic("o/n")]);
    world.settings.push(("MILLM_DOWNLOAD_RETRIES", "0".to_owned()));
    let mut downloader = world.start().await;
    let pause = world.hub.pause_at("*/model.safetensors", 15 << 20);
    let id = downloader.pull(pull("o/n", Quantization::Native)).await.unwrap().model_id;
    pause.reached().await;
    downloader.all_but(id, 1 << 20).await;
    world.hub.take_down();
    let end = downloader.end_of(id).await;
    assert_eq!((end.state(), reason(&end)), (State::Failed, Reason::ModelDownloadFailed));
    assert_eq!(world.catalog.row(id).state(), model::State::Error);
    world.hub.bring_up().unwrap();
    pause.release();
    world.hub.clear_log();
    let end = downloader.fetch(pull("o/n", Quantization::Native)).await;
    assert_eq!(end.model_id, id);
    assert_eq!(end.resumed_bytes, end.total_bytes - (1 << 20));
    assert_eq!(world.bytes_sent("model.safetensors"), 1 << 20);
    assert_eq!(world.catalog.row(id).error, None);
}

#[tokio::test]
async fn a_loaded_model_is_not_removed() {
    let world = World::new([tiny("o/n")]);
    let mut downloader = world.start().await;
    let id = downloader.fetch(pull("o/n", Quantization::Native)).await.model_id;
    world.runtime.set_loaded(&[id]);
    assert_eq!(downloader.remove("n").await.unwrap_err().reason, Reason::ModelInUse);
    assert_eq!(world.catalog.row(id).state(), model::State::Ready);
    world.runtime.set_loaded(&[]);
    downloader.remove("n").await.unwrap();
    assert!(world.catalog.rows().is_empty() && world.names("huggingface").is_empty());
    assert!(downloader.list().await.is_empty());
    assert_eq!(downloader.remove("n").await.unwrap_err().reason, Reason::ModelNotFound);
}

#[tokio::test]
async fn removing_what_is_under_way_or_failed() {
    let mut world = World::new([synthetic("o/n")]);
    world.settings.push(("MILLM_DOWNLOAD_RETRIES", "0".to_owned()));
    let mut downloader = world.start().await;
    let pause = world.hub.pause_at("*/model.safetensors", 1 << 20);
    let id = downloader.pull(pull("o/n", Quantization::Q4)).await.unwrap().model_id;
    pause.reached().await;
    downloader.remove(id).await.unwrap();
    assert!(world.catalog.rows().is_empty() && world.names("huggingface").is_empty());
    pause.release();
    world.hub.fault(Fault::new("*/model.safetensors", FaultKind::Cut { after: 1 << 10 }));
    let id = downloader.pull(pull("o/n", Quantization::Q4)).await.unwrap().model_id;
    assert_eq!(downloader.end_of(id).await.state(), State::Failed);
    assert_eq!(world.names("huggingface"), [format!(".incoming-{id}")]);
    downloader.remove(id).await.unwrap();
    assert!(world.catalog.rows().is_empty() && world.names("huggingface").is_empty());
}
