//! The state of each model in the Downloader and the Runtime, joined with its catalog entry for `list` and `show`.

use std::collections::HashMap;

use millm_api::Model;
use millm_proto::{
    catalog::v1 as catalog,
    downloader::v1::{Download, ListDownloadsRequest},
    runtime::v1::{GetStatusRequest, LoadedModel},
};

use crate::client::Server;

/// Downloads and loaded models, by model id. A service that does not answer leaves its part empty: the list is still
/// shown.
pub struct LiveState {
    /// The downloads, by model id.
    pub downloads: HashMap<i64, Download>,
    /// The models in the Runtime, by model id.
    pub loaded: HashMap<i64, LoadedModel>,
}

impl LiveState {
    /// Asks the Downloader and the Runtime at the same time.
    pub async fn read(server: &Server) -> Self {
        let (mut downloader, mut runtime) = (server.downloader(), server.runtime());
        let (downloads, status) = tokio::join!(
            downloader.list_downloads(ListDownloadsRequest {}),
            runtime.get_status(GetStatusRequest {})
        );
        let downloads = downloads.map(|a| a.into_inner().downloads).unwrap_or_default();
        let loaded = status.map(|a| a.into_inner().models).unwrap_or_default();
        Self {
            downloads: downloads.into_iter().map(|d| (d.model_id, d)).collect(),
            loaded: loaded.into_iter().map(|l| (l.model_id, l)).collect(),
        }
    }

    /// Joins a catalog entry with what is known of it.
    pub fn model(&self, row: &catalog::Model) -> Model {
        Model::new(row, self.downloads.get(&row.id), self.loaded.get(&row.id))
    }
}
