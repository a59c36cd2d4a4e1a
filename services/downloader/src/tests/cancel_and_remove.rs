//! Downloads that are cancelled or fail, and models that are removed.

use fake_hub::{Fault, FaultKind};
use millm_kit::Reason;
use millm_proto::{
    catalog::v1::{Quantization, model},
    downloader::v1::download::State,
};

use super::fixture::{Fixture, pull, reason, synthetic, tiny};

#[tokio::test]
async fn a_cancel_leaves_nothing() {
    let fixture = Fixture::new([synthetic("o/n")]);
    let mut downloader = fixture.start().await;
    let pause = fixture.hub.pause_at("*/model.safetensors", 10 << 20);
    let id = downloader.pull(pull("o/n", Quantization::Q4)).await.unwrap().model_id;
    let mut watcher = downloader.watch(id).await;
    pause.reached().await;
    downloader.cancel("n").await.unwrap();
    assert!(fixture.catalog.rows().is_empty());
    assert!(fixture.names("huggingface").is_empty());
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
async fn a_cancel_that_races_the_end_has_one_outcome() {
    let fixture = Fixture::new([synthetic("o/n")]);
    let mut downloader = fixture.start().await;
    let id = downloader.pull(pull("o/n", Quantization::Q2)).await.unwrap().model_id;
    let mut watcher = downloader.watch(id).await;
    while watcher.message().await.unwrap().unwrap().state() != State::Quantizing {}
    match downloader.cancel(id).await {
        Ok(()) => {
            assert_eq!(downloader.list().await[0].state(), State::Cancelled);
            assert!(fixture.catalog.rows().is_empty() && fixture.names("huggingface").is_empty());
        }
        Err(error) => {
            assert_eq!(error.reason, Reason::NotFound);
            assert_eq!(fixture.catalog.row(id).state(), model::State::Ready);
            assert_eq!(fixture.names("huggingface"), ["o--n--Q2"]);
        }
    }
}

#[tokio::test]
async fn a_cancel_during_a_catalog_outage_is_completed_later() {
    let fixture = Fixture::new([synthetic("o/n")]);
    let mut downloader = fixture.start().await;
    let pause = fixture.hub.pause_at("*/model.safetensors", 1 << 20);
    let id = downloader.pull(pull("o/n", Quantization::Q4)).await.unwrap().model_id;
    pause.reached().await;
    fixture.catalog.set_away(true);
    let mut client = downloader.client.clone();
    let cancelling = tokio::spawn(async move {
        let request = millm_proto::downloader::v1::CancelDownloadRequest { name: format!("downloads/{id}") };
        client.cancel_download(request).await
    });
    fixture.catalog.missed().await;
    downloader.stop().await;
    assert!(cancelling.await.unwrap().is_err());
    fixture.catalog.set_away(false);
    assert_eq!(fixture.catalog.rows().len(), 1);
    let mut downloader = fixture.start().await;
    // The first call is answered once the interrupted downloads are queued; then the note of the cancel counts.
    if !downloader.list().await.is_empty() {
        assert_eq!(downloader.end_of(id).await.state(), State::Cancelled);
    }
    assert!(fixture.catalog.rows().is_empty());
    assert!(fixture.names("huggingface").is_empty());
}

#[tokio::test]
async fn a_failed_download_keeps_its_bytes_for_the_retry() {
    let mut fixture = Fixture::new([synthetic("o/n")]);
    fixture.settings.push(("MILLM_DOWNLOAD_RETRIES", "0".to_owned()));
    let mut downloader = fixture.start().await;
    let pause = fixture.hub.pause_at("*/model.safetensors", 15 << 20);
    let id = downloader.pull(pull("o/n", Quantization::Native)).await.unwrap().model_id;
    pause.reached().await;
    downloader.all_but(id, 1 << 20).await;
    fixture.hub.take_down();
    let end = downloader.end_of(id).await;
    assert_eq!((end.state(), reason(&end)), (State::Failed, Reason::ModelDownloadFailed));
    assert_eq!(fixture.catalog.row(id).state(), model::State::Error);
    fixture.hub.bring_up().unwrap();
    pause.release();
    fixture.hub.clear_log();
    let end = downloader.fetch(pull("o/n", Quantization::Native)).await;
    assert_eq!(end.model_id, id);
    assert_eq!(end.resumed_bytes, end.total_bytes - (1 << 20));
    assert_eq!(fixture.bytes_sent("model.safetensors"), 1 << 20);
    assert_eq!(fixture.catalog.row(id).error, None);
}

#[tokio::test]
async fn a_loaded_model_is_not_removed() {
    let fixture = Fixture::new([tiny("o/n")]);
    let mut downloader = fixture.start().await;
    let id = downloader.fetch(pull("o/n", Quantization::Native)).await.model_id;
    fixture.runtime.set_loaded(&[id]);
    assert_eq!(downloader.remove("n").await.unwrap_err().reason, Reason::ModelInUse);
    assert_eq!(fixture.catalog.row(id).state(), model::State::Ready);
    fixture.runtime.set_loaded(&[]);
    downloader.remove("n").await.unwrap();
    assert!(fixture.catalog.rows().is_empty() && fixture.names("huggingface").is_empty());
    assert!(downloader.list().await.is_empty());
    assert_eq!(downloader.remove("n").await.unwrap_err().reason, Reason::ModelNotFound);
}

#[tokio::test]
async fn running_and_failed_downloads_are_removed() {
    let mut fixture = Fixture::new([synthetic("o/n")]);
    fixture.settings.push(("MILLM_DOWNLOAD_RETRIES", "0".to_owned()));
    let mut downloader = fixture.start().await;
    let pause = fixture.hub.pause_at("*/model.safetensors", 1 << 20);
    let id = downloader.pull(pull("o/n", Quantization::Q4)).await.unwrap().model_id;
    pause.reached().await;
    downloader.remove(id).await.unwrap();
    assert!(fixture.catalog.rows().is_empty() && fixture.names("huggingface").is_empty());
    pause.release();
    fixture.hub.fault(Fault::new("*/model.safetensors", FaultKind::Cut { after: 1 << 10 }));
    let id = downloader.pull(pull("o/n", Quantization::Q4)).await.unwrap().model_id;
    assert_eq!(downloader.end_of(id).await.state(), State::Failed);
    assert_eq!(fixture.names("huggingface"), [format!(".incoming-{id}")]);
    downloader.remove(id).await.unwrap();
    assert!(fixture.catalog.rows().is_empty() && fixture.names("huggingface").is_empty());
}
