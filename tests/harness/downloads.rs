//! Starting and following downloads.

use std::time::Duration;

use fake_hub::RunningHub;
use millm_kit::{Reason, ServiceError};
use millm_proto::catalog::v1::Quantization;
use millm_proto::downloader::v1::{
    CancelDownloadRequest, Download, HubSource, WatchDownloadRequest, download::State,
};

use super::{Layout, Options, Server, is_final, within};

impl Server {
    /// Starts one process that uses a hub. A stalled download is noticed after a second; other settings are the
    /// defaults.
    pub async fn quick(hub: &RunningHub) -> Self {
        Self::start(Layout::OneProcess, quick(hub.url())).await
    }

    /// Starts a download, which must be accepted. Returns its id.
    pub async fn begin(&self, repo: &str, quantization: Quantization) -> i64 {
        let source = HubSource { repo_id: repo.to_owned(), ..HubSource::default() };
        self.start_pull(source, quantization).await.expect("the download starts").model_id
    }

    /// Starts a download from a hub whose circuit breaker may still be open. Waits until the download is accepted.
    pub async fn begin_when_back(&self, repo: &str, quantization: Quantization) -> i64 {
        let source = HubSource { repo_id: repo.to_owned(), ..HubSource::default() };
        within("the hub's next try", async {
            loop {
                match self.start_pull(source.clone(), quantization).await {
                    Ok(started) => return started.model_id,
                    Err(status) => {
                        let error = ServiceError::from(&status);
                        assert_eq!(error.reason, Reason::HubUnavailable, "{error}");
                    }
                }
                // No event tells when the pause is over, so this polls.
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        })
        .await
    }

    /// Returns the error of a download that fails, at its start or at its end.
    pub async fn refused(&self, source: HubSource, quantization: Quantization) -> ServiceError {
        match self.start_pull(source, quantization).await {
            Err(status) => ServiceError::from(&status),
            Ok(started) => self.failed(started.model_id).await,
        }
    }

    /// Returns the error of a download that was accepted and then failed.
    pub async fn failed(&self, model_id: i64) -> ServiceError {
        let end = self.watch_until(model_id, is_final).await;
        assert_eq!(end.state(), State::Failed, "{end:?}");
        ServiceError::from_rpc(&end.error.expect("a reason"))
    }

    /// Returns every state of a download up to the last. Checks that progress never goes back.
    pub async fn followed(&self, model_id: i64) -> Vec<Download> {
        let request = WatchDownloadRequest { name: format!("downloads/{model_id}") };
        within("the download", async {
            let mut stream = self.downloader().watch_download(request).await.expect("a watch").into_inner();
            let mut seen: Vec<Download> = Vec::new();
            while let Some(download) = stream.message().await.expect("the watch goes on") {
                if let Some(last) = seen.last() {
                    assert!(download.fraction >= last.fraction, "{last:?} then {download:?}");
                    assert!(download.downloaded_bytes >= last.downloaded_bytes, "{last:?} then {download:?}");
                    assert!(download.retries >= last.retries, "{last:?} then {download:?}");
                    assert!(!is_final(last), "{last:?} was the last word, then {download:?}");
                }
                seen.push(download);
            }
            assert!(seen.last().is_some_and(is_final), "{seen:?}");
            seen
        })
        .await
    }

    pub async fn cancel(&self, model_id: i64) -> Result<(), ServiceError> {
        let request = CancelDownloadRequest { name: format!("downloads/{model_id}") };
        let cancelled =
            within("cancelling", async { self.downloader().cancel_download(request).await }).await;
        cancelled.map(|_| ()).map_err(|status| ServiceError::from(&status))
    }
}

/// Returns settings with short waits.
pub fn quick(hub: &str) -> Options {
    Options::with_hub(hub).set("MILLM_DOWNLOAD_STALL_TIMEOUT", "1").set("MILLM_HUB_PAUSE", "1")
}
