//! `millm unload`: frees the loaded model.

use anyhow::Result;
use millm_api::load::UnloadProgress;
use millm_proto::runtime::v1::UnloadModelRequest;

use crate::{args::Unload, client::Server, output};

/// Unloads a model, once its running requests have ended.
pub async fn run(server: &Server, args: Unload, as_json: bool) -> Result<()> {
    let request = UnloadModelRequest { model: args.model, drain_timeout: None };
    let mut stream =
        server.runtime().unload_model(request).await.map_err(|s| server.explain(&s))?.into_inner();
    let mut last = None;
    while let Some(progress) = stream.message().await.map_err(|s| server.explain(&s))? {
        if as_json {
            output::json(&UnloadProgress::from(&progress))?;
        } else if progress.pending_requests > 0 {
            eprintln!("Waiting for {} pending requests to complete...", progress.pending_requests);
        }
        last = Some(progress);
    }
    match last {
        Some(last) if !as_json => output::line(&format!("{}: unloaded", last.handle)),
        _ => Ok(()),
    }
}
