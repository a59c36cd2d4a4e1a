//! `pull`, `add`, `cancel`: asking for a model and watching it arrive. Ctrl-C leaves; the server goes on.

use std::time::Duration;

use anyhow::{Context as _, Result};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use millm_kit::{ServiceError, format, names::RepoId, view};
use millm_proto::downloader::v1::{
    CancelDownloadRequest, Download, HubSource, PreviewModelRequest, StartDownloadRequest,
    WatchDownloadRequest, download::State, start_download_request,
};
use serde::Serialize;

use crate::{
    args::{Add, Pull},
    client::Server,
    output::{self, Misuse},
    preview,
};

pub async fn pull(server: &Server, args: Pull, token: String, json: bool) -> Result<()> {
    let repo = RepoId::parse(&args.repo)?;
    let quantization = quantization(&args.quantization)?;
    if args.dry_run {
        let request = PreviewModelRequest {
            repo_id: repo.to_string(),
            revision: args.revision,
            hf_token: token,
            file: args.file,
            quantization: quantization.into(),
            trust_remote_code: args.trust_remote_code,
        };
        return preview::dry_run(server, request, json).await;
    }
    let request = StartDownloadRequest {
        source: Some(start_download_request::Source::Hub(HubSource {
            repo_id: repo.to_string(),
            revision: args.revision,
            hf_token: token,
            file: args.file,
        })),
        quantization: quantization.into(),
        handle: args.name,
        trust_remote_code: args.trust_remote_code,
        keep_source: args.keep_source,
    };
    start(server, request, args.detach, json).await
}

pub async fn add(server: &Server, args: Add, json: bool) -> Result<()> {
    // The server may run in another folder: it gets the whole path. It checks the rest.
    let path = std::path::absolute(&args.path).with_context(|| format!("{}", args.path.display()))?;
    let path = path.to_str().with_context(|| Misuse(format!("{} is not valid UTF-8", path.display())))?;
    let request = StartDownloadRequest {
        source: Some(start_download_request::Source::LocalPath(path.to_owned())),
        quantization: quantization(&args.quantization)?.into(),
        handle: args.name,
        trust_remote_code: false,
        keep_source: false,
    };
    start(server, request, false, json).await
}

fn quantization(text: &str) -> Result<millm_proto::catalog::v1::Quantization> {
    view::parse_quantization(text).map_err(|e| Misuse(e.message).into())
}

async fn start(server: &Server, request: StartDownloadRequest, detach: bool, json: bool) -> Result<()> {
    let started =
        server.downloader().start_download(request).await.map_err(|s| server.explain(&s))?.into_inner();
    if detach {
        if json {
            return output::json(&Event::from(&started));
        }
        eprintln!("{} is queued: 'millm ps' shows how it goes", started.handle);
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
    let shown = view::model(&model, None, None);
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

/// Follows a download to its end, through restarts of the server.
async fn watch(server: &Server, started: &Download, json: bool) -> Result<Download> {
    let bar = Bar::new(json);
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
                            bar.show(&download)?;
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

pub async fn cancel(server: &Server, name: &str, json: bool) -> Result<()> {
    let request = CancelDownloadRequest { name: name.to_owned() };
    server.downloader().cancel_download(request).await.map_err(|s| server.explain(&s))?;
    if json {
        return output::json(&serde_json::json!({ "cancelled": name }));
    }
    eprintln!("{name} is cancelled; nothing is left of it");
    Ok(())
}

/// One line of `--json`.
#[derive(Serialize)]
struct Event<'a> {
    model_id: i64,
    name: &'a str,
    state: &'static str,
    fraction: f64,
    downloaded_bytes: i64,
    total_bytes: i64,
    resumed_bytes: i64,
    speed_bytes_per_second: i64,
    seconds_left: i64,
    queue_position: u32,
    retries: u32,
    stalled: bool,
}

impl<'a> From<&'a Download> for Event<'a> {
    fn from(d: &'a Download) -> Self {
        Self {
            model_id: d.model_id,
            name: &d.handle,
            state: view::download_state(d.state()),
            fraction: d.fraction,
            downloaded_bytes: d.downloaded_bytes,
            total_bytes: d.total_bytes,
            resumed_bytes: d.resumed_bytes,
            speed_bytes_per_second: d.speed_bytes_per_second,
            seconds_left: d.seconds_left,
            queue_position: d.queue_position,
            retries: d.retries,
            stalled: d.stalled,
        }
    }
}

/// What `ps` and `pull` say beside the bar: `12.3 MB of 64 MB  4.1 MB/s  9 s left`.
pub fn describe(d: &Download) -> String {
    let mut parts = Vec::new();
    match d.state() {
        State::Queued if d.queue_position > 0 => {
            parts.push(format!("place {} in the queue", d.queue_position));
        }
        State::Downloading => {
            let (done, total) =
                (format::bytes(d.downloaded_bytes as u64), format::bytes(d.total_bytes as u64));
            parts.push(format!("{done} of {total}"));
            if d.stalled {
                parts.push("stalled".into());
            } else if d.speed_bytes_per_second > 0 {
                parts.push(format!("{}/s", format::bytes(d.speed_bytes_per_second as u64)));
                if d.seconds_left > 0 {
                    parts.push(format!("{} left", format::seconds(d.seconds_left as u64)));
                }
            }
            if d.retries > 0 {
                parts.push(format!("{} {}", d.retries, if d.retries == 1 { "retry" } else { "retries" }));
            }
        }
        _ if !d.detail.is_empty() => parts.push(d.detail.clone()),
        _ => {}
    }
    parts.join("  ")
}

/// A bar on a terminal; elsewhere a line per stage and per tenth; with `--json` every event.
struct Bar {
    bar: ProgressBar,
    json: bool,
    said: std::cell::Cell<(i32, u32)>,
}

impl Bar {
    fn new(json: bool) -> Self {
        let bar = ProgressBar::with_draw_target(Some(1000), ProgressDrawTarget::stderr_with_hz(10));
        let style = ProgressStyle::with_template("{prefix:11} {wide_bar:.cyan/dim} {percent:>3}%  {msg}");
        bar.set_style(style.expect("the template is valid").progress_chars("━━─"));
        Self { bar, json, said: std::cell::Cell::new((-1, 0)) }
    }

    fn show(&self, d: &Download) -> Result<()> {
        let state = d.state();
        let ended = matches!(state, State::Succeeded | State::Failed | State::Cancelled);
        if self.json {
            return if ended { Ok(()) } else { output::json(&Event::from(d)) };
        }
        if self.bar.is_hidden() {
            let step = (d.state, (d.fraction * 10.0) as u32);
            if self.said.replace(step) != step && !ended {
                eprintln!("{:11} {:3.0}%  {}", view::download_state(state), d.fraction * 100.0, describe(d));
            }
            return Ok(());
        }
        if ended {
            self.bar.finish_and_clear();
            return Ok(());
        }
        self.bar.set_prefix(view::download_state(state));
        self.bar.set_position((d.fraction * 1000.0) as u64);
        self.bar.set_message(describe(d));
        Ok(())
    }
}
