//! `load`, `unload`, `ps`: what is in memory.

use anyhow::Result;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use millm_kit::{ServiceError, format, view};
use millm_proto::{
    downloader::v1::{Download, ListDownloadsRequest, download},
    runtime::v1::{
        GetStatusRequest, LoadModelRequest, LoadProgress, LoadState, UnloadModelRequest, load_progress::Stage,
    },
};
use serde_json::json;

use crate::{
    args::{Load, Unload},
    client::Server,
    output, pull,
};

const fn load_state(state: LoadState) -> &'static str {
    match state {
        LoadState::Unspecified => "",
        LoadState::Loading => "loading",
        LoadState::Loaded => "loaded",
        LoadState::Unloading => "unloading",
        LoadState::Unloaded => "unloaded",
        LoadState::Failed => "failed",
    }
}

const fn stage(stage: Stage) -> &'static str {
    match stage {
        Stage::Unspecified => "",
        Stage::UnloadingPrevious => "unloading the previous model",
        Stage::Reading => "reading",
        Stage::LoadingWeights => "loading weights",
        Stage::WarmingUp => "warming up",
        Stage::Done => "done",
    }
}

pub async fn load(server: &Server, args: Load, json: bool) -> Result<()> {
    let request = LoadModelRequest {
        model: args.model,
        allow_insufficient_memory: args.allow_insufficient_memory,
        context_length: args.context_length.unwrap_or_default(),
        drain_timeout: None,
    };
    let last = load_and_watch(server, request, json).await?;
    if json {
        return Ok(());
    }
    let memory =
        last.estimate.map(|e| format!(", ~{}", format::bytes(e.total_bytes as u64))).unwrap_or_default();
    output::line(&format!("{}: loaded{memory}", last.handle))
}

/// Follows a load to its end, with a bar (or JSON lines).
pub async fn load_and_watch(
    server: &Server,
    request: LoadModelRequest,
    as_json: bool,
) -> Result<LoadProgress> {
    let mut stream = server.runtime().load_model(request).await.map_err(|s| server.explain(&s))?.into_inner();
    let bar = ProgressBar::with_draw_target(Some(1000), ProgressDrawTarget::stderr_with_hz(10));
    let style = ProgressStyle::with_template("{prefix:11} {wide_bar:.cyan/dim} {percent:>3}%  {msg}");
    bar.set_style(style.expect("the template is valid").progress_chars("━━─"));
    bar.set_prefix("loading");
    let mut last = LoadProgress::default();
    while let Some(progress) = stream.message().await.map_err(|s| server.explain(&s))? {
        if as_json {
            output::json(&json!({
                "model_id": progress.model_id,
                "name": progress.handle,
                "state": load_state(progress.state()),
                "stage": stage(progress.stage()),
                "fraction": progress.fraction,
                "estimated_bytes": progress.estimate.as_ref().map(|e| e.total_bytes),
            }))?;
        } else {
            bar.set_position((progress.fraction * 1000.0) as u64);
            bar.set_message(stage(progress.stage()));
        }
        last = progress;
    }
    bar.finish_and_clear();
    match (&last.error, last.state()) {
        (Some(error), _) => Err(ServiceError::from_rpc(error).into()),
        (None, LoadState::Loaded) => Ok(last),
        _ => Err(ServiceError::load_failed("the server ended the stream early").into()),
    }
}

pub async fn unload(server: &Server, args: Unload, as_json: bool) -> Result<()> {
    let request = UnloadModelRequest { model: args.model, drain_timeout: None };
    let mut stream =
        server.runtime().unload_model(request).await.map_err(|s| server.explain(&s))?.into_inner();
    let mut last = None;
    while let Some(progress) = stream.message().await.map_err(|s| server.explain(&s))? {
        if as_json {
            output::json(&json!({
                "model_id": progress.model_id,
                "name": progress.handle,
                "state": load_state(progress.state()),
                "pending_requests": progress.pending_requests,
                "freed_bytes": progress.freed_bytes,
            }))?;
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

pub async fn ps(server: &Server, as_json: bool) -> Result<()> {
    let status =
        server.runtime().get_status(GetStatusRequest {}).await.map_err(|s| server.explain(&s))?.into_inner();
    let downloads = server.downloader().list_downloads(ListDownloadsRequest {}).await;
    let downloads = downloads.map_err(|s| server.explain(&s))?.into_inner().downloads;
    let arriving: Vec<&Download> = downloads
        .iter()
        .filter(|d| {
            use download::State as S;
            !matches!(d.state(), S::Succeeded | S::Failed | S::Cancelled | S::Unspecified)
        })
        .collect();
    if as_json {
        return output::json(&json!({
            "models": status.models.iter().map(|m| json!({
                "id": m.model_id,
                "name": m.handle,
                "state": load_state(m.state()),
                "device": m.device,
                "context_length": m.context_length,
                "slots": m.slots,
                "running_requests": m.running_requests,
                "waiting_requests": m.waiting_requests,
                "estimated_memory_bytes": m.estimated_memory_bytes,
                "measured_memory_bytes": m.measured_memory_bytes,
                "forward_passes": m.forward_passes,
                "generated_tokens": m.generated_tokens,
                "prompt_tokens": m.prompt_tokens,
            })).collect::<Vec<_>>(),
            "devices": status.devices.iter().map(|d| json!({
                "id": d.id, "name": d.name, "total_bytes": d.total_bytes, "used_bytes": d.used_bytes, "free_bytes": d.free_bytes,
            })).collect::<Vec<_>>(),
            "downloads": arriving.iter().map(|d| json!({
                "id": d.model_id, "name": d.handle, "state": view::download_state(d.state()), "fraction": d.fraction,
                "downloaded_bytes": d.downloaded_bytes, "total_bytes": d.total_bytes,
                "speed_bytes_per_second": d.speed_bytes_per_second, "queue_position": d.queue_position,
            })).collect::<Vec<_>>(),
            "process_memory_bytes": status.process_memory_bytes,
        }));
    }
    if status.models.is_empty() {
        eprintln!("nothing is loaded: 'millm load NAME' loads a model");
    } else {
        let rows: Vec<_> = status
            .models
            .iter()
            .map(|m| {
                let memory = m.measured_memory_bytes.max(m.estimated_memory_bytes);
                vec![
                    m.handle.clone(),
                    load_state(m.state()).to_owned(),
                    m.device.clone(),
                    format::bytes(memory.max(0) as u64),
                    m.context_length.to_string(),
                    format!("{}/{}", m.running_requests, m.slots),
                    m.waiting_requests.to_string(),
                    m.generated_tokens.to_string(),
                ]
            })
            .collect();
        let header = ["NAME", "STATE", "DEVICE", "MEMORY", "CONTEXT", "RUNNING", "WAITING", "TOKENS"];
        output::table(&header, &[3, 4, 5, 6, 7], &rows)?;
    }
    for download in arriving {
        let state = view::download_state(download.state());
        output::line(&format!(
            "{}  {state} {:.0}%  {}",
            download.handle,
            download.fraction * 100.0,
            pull::describe(download)
        ))?;
    }
    for device in &status.devices {
        let (used, total) =
            (format::bytes(device.used_bytes as u64), format::bytes(device.total_bytes as u64));
        eprintln!("{}  {used} of {total} used  {}", device.id, device.name);
    }
    Ok(())
}
