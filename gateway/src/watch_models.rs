//! `millm.gateway.v1.ModelsService`: the rows of the Catalog, each with the one word that [`Status::of`] gives it, as a stream of
//! changes. The page follows it.

use std::{collections::BTreeMap, pin::Pin, sync::Arc, time::Duration};

use futures::{Stream, StreamExt as _, stream};
use millm_api::Status;
use millm_proto::{
    catalog::v1::{self as catalog, watch_models_response::Kind as CatalogKind},
    downloader::v1::{Download, WatchDownloadsRequest},
    gateway::v1::{
        WatchModelsRequest, WatchModelsResponse, models_service_server::ModelsService,
        watch_models_response::Kind,
    },
    runtime::v1::{RuntimeStatus, WatchStatusRequest},
};
use tonic::{Request, Response};

use crate::state::{AppState, LiveStates, from_catalog};

/// Between two attempts to watch a service that is away.
const RETRY: Duration = Duration::from_secs(1);

/// The service. Each stream follows the three services by watches of its own.
pub struct WatchedModels(Arc<AppState>);

impl WatchedModels {
    /// Returns the service.
    pub const fn new(app: Arc<AppState>) -> Self {
        Self(app)
    }
}

#[tonic::async_trait]
impl ModelsService for WatchedModels {
    type WatchModelsStream = Pin<Box<dyn Stream<Item = Result<WatchModelsResponse, tonic::Status>> + Send>>;

    async fn watch_models(
        &self,
        _: Request<WatchModelsRequest>,
    ) -> Result<Response<Self::WatchModelsStream>, tonic::Status> {
        let app = Arc::clone(&self.0);
        let rows = app.catalog().watch_models(catalog::WatchModelsRequest {}).await;
        let rows = rows.map_err(from_catalog)?.into_inner();
        // Read before the first row is sent: no model shows a status that the next message corrects.
        let mut joined = Joined { live: app.live_states().await, ..Joined::default() };
        let stopping = app.stopping.clone();
        let rows = rows
            .map(|change| change.map(|change| Change::Row(Box::new(change))))
            .chain(stream::once(async { Err(tonic::Status::unavailable("the Catalog ended its watch")) }));
        let others = stream::select(downloads(Arc::clone(&app)), loads(app)).map(Ok);
        let mut changes = stream::select(rows.boxed(), others.boxed());
        let responses = async_stream::try_stream! {
            while let Some(change) = changes.next().await {
                for response in joined.absorb(change?) {
                    yield response;
                }
            }
        };
        Ok(Response::new(Box::pin(responses.take_until(stopping.cancelled_owned()))))
    }
}

/// News of one of the three services.
enum Change {
    Row(Box<catalog::WatchModelsResponse>),
    Download(Box<Download>),
    Runtime(RuntimeStatus),
}

fn downloads(app: Arc<AppState>) -> impl Stream<Item = Change> + Send {
    async_stream::stream! {
        loop {
            if let Ok(watch) = app.downloader().watch_downloads(WatchDownloadsRequest {}).await {
                let mut watch = watch.into_inner();
                while let Ok(Some(download)) = watch.message().await {
                    yield Change::Download(Box::new(download));
                }
            }
            tokio::time::sleep(RETRY).await;
        }
    }
}

fn loads(app: Arc<AppState>) -> impl Stream<Item = Change> + Send {
    async_stream::stream! {
        loop {
            if let Ok(watch) = app.runtime().watch_status(WatchStatusRequest {}).await {
                let mut watch = watch.into_inner();
                while let Ok(Some(status)) = watch.message().await {
                    yield Change::Runtime(status);
                }
            }
            tokio::time::sleep(RETRY).await;
        }
    }
}

/// The known state of every model, and the part of it that has been sent.
#[derive(Default)]
struct Joined {
    rows: BTreeMap<i64, Sent>,
    live: LiveStates,
}

struct Sent {
    row: catalog::Model,
    status: Status,
}

impl Joined {
    /// Takes news in and returns what they change for people.
    fn absorb(&mut self, change: Change) -> Vec<WatchModelsResponse> {
        match change {
            Change::Row(change) => vec![self.absorb_row(*change)],
            Change::Download(download) => {
                let id = download.model_id;
                self.live.downloads.insert(id, *download);
                self.changed(id).into_iter().collect()
            }
            Change::Runtime(status) => {
                self.live.loaded = status.models.into_iter().map(|model| (model.model_id, model)).collect();
                let ids: Vec<i64> = self.rows.keys().copied().collect();
                ids.into_iter().filter_map(|id| self.changed(id)).collect()
            }
        }
    }

    fn absorb_row(&mut self, change: catalog::WatchModelsResponse) -> WatchModelsResponse {
        let kind = change.kind();
        let Some(row) = change.model.filter(|_| kind != CatalogKind::SnapshotComplete) else {
            return WatchModelsResponse { kind: Kind::SnapshotComplete.into(), ..Default::default() };
        };
        if kind == CatalogKind::Deleted {
            self.rows.remove(&row.id);
            self.live.downloads.remove(&row.id);
            return WatchModelsResponse {
                kind: Kind::Deleted.into(),
                model: Some(row),
                ..Default::default()
            };
        }
        let status = self.live.status(&row);
        let sent = Sent { row, status };
        let response = sent.put();
        self.rows.insert(sent.row.id, sent);
        response
    }

    /// Returns the row again when its status is another one now.
    fn changed(&mut self, id: i64) -> Option<WatchModelsResponse> {
        let sent = self.rows.get_mut(&id)?;
        let status = self.live.status(&sent.row);
        (std::mem::replace(&mut sent.status, status) != status).then(|| sent.put())
    }
}

impl Sent {
    fn put(&self) -> WatchModelsResponse {
        use millm_proto::gateway::v1::{FailedStep, Status};
        let failed_step = self.status.failed_step(&self.row);
        WatchModelsResponse {
            kind: Kind::Put.into(),
            status: Status::from(self.status).into(),
            failed_step: failed_step.map_or(FailedStep::Unspecified, FailedStep::from).into(),
            model: Some(self.row.clone()),
        }
    }
}

#[cfg(test)]
mod tests {
    use millm_proto::{
        catalog::v1::{Model, model},
        downloader::v1::download,
        gateway::v1 as wire,
        runtime::v1::{LoadState, LoadedModel},
    };

    use super::*;

    #[test]
    fn only_changes_that_people_see_are_sent() {
        let mut joined = Joined::default();
        let mut told = |change: Change| {
            let responses = joined.absorb(change);
            responses.iter().map(|r| (r.kind(), r.status())).collect::<Vec<_>>()
        };
        let row = |kind: CatalogKind, state: model::State| {
            let model = Some(Model { id: 1, state: state.into(), ..Model::default() });
            Change::Row(Box::new(catalog::WatchModelsResponse { kind: kind.into(), model }))
        };
        let download = |state: download::State, fraction: f64| {
            let download = Download { model_id: 1, state: state.into(), fraction, ..Download::default() };
            Change::Download(Box::new(download))
        };
        let runtime =
            |models: Vec<LoadedModel>| Change::Runtime(RuntimeStatus { models, ..RuntimeStatus::default() });
        let loaded = |state: LoadState, running_requests: u32| {
            runtime(vec![LoadedModel {
                model_id: 1,
                state: state.into(),
                running_requests,
                ..Default::default()
            }])
        };
        use {CatalogKind as C, wire::Status as S};
        let put = |status: S| vec![(Kind::Put, status)];
        assert_eq!(told(download(download::State::Queued, 0.0)), []);
        assert_eq!(told(row(C::Put, model::State::Pending)), put(S::Queued));
        assert_eq!(
            told(row(C::SnapshotComplete, model::State::Unspecified)),
            [(Kind::SnapshotComplete, S::Unspecified)]
        );
        assert_eq!(told(download(download::State::Downloading, 0.1)), put(S::Downloading));
        assert_eq!(told(download(download::State::Downloading, 0.2)), []);
        assert_eq!(told(row(C::Put, model::State::Ready)), put(S::Ready));
        assert_eq!(told(loaded(LoadState::Loaded, 0)), put(S::Loaded));
        assert_eq!(told(loaded(LoadState::Loaded, 1)), []);
        assert_eq!(told(loaded(LoadState::Failed, 0)), put(S::Error));
        assert_eq!(told(runtime(Vec::new())), put(S::Ready));
        assert_eq!(told(row(C::Deleted, model::State::Unspecified)), [(Kind::Deleted, S::Unspecified)]);
        assert_eq!(told(loaded(LoadState::Loaded, 0)), []);
    }
}
