//! `millm load`: loads a model and shows the progress.

use anyhow::Result;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use millm_kit::{ServiceError, format};
use millm_proto::runtime::v1::{LoadModelRequest, LoadProgress, LoadState, load_progress::Stage};

use crate::{args::Load, client::Server, output};

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

/// Loads a model and prints the memory that it takes.
pub async fn run(server: &Server, args: Load, json: bool) -> Result<()> {
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

/// Starts a load and follows it to its end, with a progress bar or JSON lines.
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
            output::json(&millm_api::load::LoadProgress::from(&progress))?;
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
