//! `millm pull`: starts a download from the hub and shows its progress. After Ctrl-C the server continues the
//! download.

use std::time::Duration;

use anyhow::Result;
use millm_api::{Model, download};
use millm_kit::{Reason, ServiceError, format};
use millm_proto::{
    catalog::v1::model,
    downloader::v1::{
        Download, HubSource, PreviewModelRequest, StartDownloadRequest, WatchDownloadRequest,
        download::State, start_download_request,
    },
};

use super::preview;
use crate::{args::Pull, client::Server, output, progress::DownloadProgress, repo_arg::RepoArg};

/// Starts a download from the hub, or previews it with `--dry-run`.
pub async fn run(server: &Server, args: Pull, token: String, json: bool) -> Result<()> {
    let RepoArg { repo, variant, quantization } = RepoArg::parse(&args.repo, args.quantization.as_deref())?;
    if args.dry_run {
        let request = PreviewModelRequest {
            repo_id: repo.to_string(),
            revision: args.revision,
            hf_token: token,
            file: args.file,
            quantization: quantization.into(),
            trust_remote_code: args.trust_remote_code,
            variant,
            subfolder: args.subfolder,
        };
        return preview::dry_run(server, request, json).await;
    }
    let request = StartDownloadRequest {
        source: Some(start_download_request::Source::Hub(HubSource {
            repo_id: repo.to_string(),
            revision: args.revision,
            hf_token: token,
            file: args.file,
            variant,
            subfolder: args.subfolder,
        })),
        quantization: quantization.into(),
        handle: args.name,
        trust_remote_code: args.trust_remote_code,
        keep_source: args.keep_source,
    };
    start(server, request, args.detach, json).await
}

/// Starts a download and, unless detached, follows it until the model is ready.
pub async fn start(server: &Server, request: StartDownloadRequest, detach: bool, json: bool) -> Result<()> {
    let started = match server.downloader().start_download(request).await {
        Ok(answer) => answer.into_inner(),
        Err(status) => running_download(server, &status).await?,
    };
    if detach {
        if json {
            return output::json(&download::Download::from(&started));
        }
        eprintln!("{} is queued: 'millm ps' shows its progress", started.handle);
        return Ok(());
    }
    let last = watch(server, &started, json).await?;
    if let Some(error) = last.error.as_ref().filter(|_| last.state() == State::Failed) {
        return Err(ServiceError::from_rpc(error).into());
    }
    if last.state() == State::Cancelled {
        return Err(ServiceError::cancelled().into());
    }
    let model = server.model(&last.model_id.to_string()).await?;
    let shown = Model::new(&model, None, None);
    if json {
        return output::json(&shown);
    }
    if let Some(reason) = &shown.quantization_reason {
        eprintln!("note: {reason}");
    }
    output::line(&format!(
        "{}  {} params, {}, {} on disk: ready",
        shown.name,
        shown.params,
        shown.quantization,
        format::bytes(model.disk_size_bytes as u64)
    ))
}

/// Returns the download to follow when the model is already being downloaded; any other error stays an error.
async fn running_download(server: &Server, status: &tonic::Status) -> Result<Download> {
    let error = ServiceError::from(status);
    let id = error.details.get("model_id").filter(|_| error.reason == Reason::ModelAlreadyExists);
    let Some(id) = id else { return Err(server.explain(status)) };
    let model = server.model(id).await?;
    if model.state() != model::State::Pending {
        return Err(error.into());
    }
    eprintln!("{} is being downloaded already", model.handle);
    Ok(Download { model_id: model.id, handle: model.handle, ..Download::default() })
}

/// Follows a download to its end, through restarts of the server.
async fn watch(server: &Server, started: &Download, json: bool) -> Result<Download> {
    let mut progress = DownloadProgress::new(json);
    let name = format!("models/{}", started.model_id);
    let mut failures = 0;
    loop {
        let request = WatchDownloadRequest { name: name.clone() };
        let lost = match server.downloader().watch_download(request).await {
            Ok(answer) => {
                let mut stream = answer.into_inner();
                loop {
                    match stream.message().await {
                        Ok(Some(download)) => {
                            failures = 0;
                            progress.show(&download)?;
                            if matches!(download.state(), State::Succeeded | State::Failed | State::Cancelled)
                            {
                                return Ok(download);
                            }
                        }
                        Ok(None) => break tonic::Status::unavailable("the watch ended early"),
                        Err(status) => break status,
                    }
                }
            }
            Err(status) => status,
        };
        // A restarting server is back in seconds; what it says itself is final.
        failures += 1;
        if lost.code() != tonic::Code::Unavailable && lost.code() != tonic::Code::Unknown || failures > 30 {
            return Err(server.explain(&lost));
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}
