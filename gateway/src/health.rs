//! `/healthz`: the process lives. `/readyz`: every service answers and says that it serves.

use std::time::Duration;

use axum::{Json, Router, extract, response::IntoResponse, routing::get};
use http::StatusCode;
use millm_proto::{
    catalog::v1::ListModelsRequest, downloader::v1::ListDownloadsRequest, runtime::v1::GetStatusRequest,
};
use serde_json::json;

use crate::State;

const PATIENCE: Duration = Duration::from_secs(2);

pub fn routes() -> Router<State> {
    Router::new().route("/healthz", get(|| async { "ok" })).route("/readyz", get(ready))
}

/// Each service is asked for something small and real: a health flag can be stale, an answer cannot.
async fn ready(extract::State(state): extract::State<State>) -> impl IntoResponse {
    let (mut catalog, mut downloader, mut runtime) = (state.catalog(), state.downloader(), state.runtime());
    let answers = tokio::join!(
        patient(catalog.list_models(ListModelsRequest { page_size: 1, ..Default::default() })),
        patient(downloader.list_downloads(ListDownloadsRequest {})),
        patient(runtime.get_status(GetStatusRequest {})),
    );
    let services = [("catalog", answers.0), ("downloader", answers.1), ("runtime", answers.2)];
    let ready = services.iter().all(|(_, error)| error.is_none());
    let named: serde_json::Map<_, _> = services
        .into_iter()
        .map(|(name, error)| (name.to_owned(), json!(error.unwrap_or_else(|| "ready".to_owned()))))
        .collect();
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(json!({ "ready": ready, "services": named })))
}

async fn patient<T>(call: impl Future<Output = Result<T, tonic::Status>>) -> Option<String> {
    match tokio::time::timeout(PATIENCE, call).await {
        Ok(Ok(_)) => None,
        Ok(Err(status)) => Some(status.message().to_owned()),
        Err(_) => Some("does not answer".to_owned()),
    }
}
