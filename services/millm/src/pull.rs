//! `pull`, `add`, `cancel`: asking for a model and watching it arrive. Ctrl-C leaves; the server goes on.

use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result};
use millm_kit::{Reason, ServiceError, format, names::RepoId, view};
use millm_proto::{
    catalog::v1::{Quantization, model},
    downloader::v1::{
        CancelDownloadRequest, Download, HubSource, PreviewModelRequest, StartDownloadRequest,
        WatchDownloadRequest, download::State, start_download_request,
    },
};
use serde::Serialize;

use crate::{
    args::{Add, Pull},
    bars::Bars,
    client::Server,
    output::{self, Misuse},
    preview,
};

pub async fn pull(server: &Server, args: Pull, token: String, json: bool) -> Result<()> {
    let (repo, variant, quantization) = what(&args.repo, args.quantization.as_deref())?;
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

/// The repository, which of its GGUF files, and the quantization: `owner/name:Q8` says the third, `owner/name:Q8_0`
/// the second.
pub fn what(text: &str, given: Option<&str>) -> Result<(RepoId, String, Quantization)> {
    let (repo, tag) = text.split_once(':').unwrap_or((text, ""));
    let repo = RepoId::parse(repo)?;
    let given = given.map(quantization).transpose()?;
    let (tagged, variant) = match view::parse_quantization(tag) {
        Ok(quantization) => (Some(quantization), ""),
        Err(_) => (None, tag),
    };
    if given.is_some() && tagged.is_some_and(|tagged| given != Some(tagged)) {
        return Err(Misuse(format!("'{text}' and --quantization say different things")).into());
    }
    Ok((repo, variant.to_owned(), given.or(tagged).unwrap_or_default()))
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

fn quantization(text: &str) -> Result<Quantization> {
    view::parse_quantization(text).map_err(|e| Misuse(e.message).into())
}

async fn start(server: &Server, request: StartDownloadRequest, detach: bool, json: bool) -> Result<()> {
    let started = match server.downloader().start_download(request).await {
        Ok(answer) => answer.into_inner(),
        Err(status) => on_its_way(server, &status).await?,
    };
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

/// Asking for a model that is on its way already is asking to see it arrive.
async fn on_its_way(server: &Server, status: &tonic::Status) -> Result<Download> {
    let error = ServiceError::from(status);
    let id = error.details.get("model_id").filter(|_| error.reason == Reason::ModelAlreadyExists);
    let Some(id) = id else { return Err(server.explain(status)) };
    let model = server.model(id).await?;
    if model.state() != model::State::Pending {
        return Err(error.into());
    }
    eprintln!("{} is on its way already", model.handle);
    Ok(Download { model_id: model.id, handle: model.handle, ..Download::default() })
}

/// Follows a download to its end, through restarts of the server.
async fn watch(server: &Server, started: &Download, json: bool) -> Result<Download> {
    let mut bars = Bars::new(json);
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
                            bars.show(&download)?;
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
pub struct Event<'a> {
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
    #[serde(skip_serializing_if = "Option::is_none")]
    estimated_start_at: Option<String>,
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
            estimated_start_at: d.estimated_start_time.as_ref().map(ToString::to_string),
            retries: d.retries,
            stalled: d.stalled,
        }
    }
}

/// Seconds until a queued download may begin, where that can be told.
pub fn starts_in(d: &Download) -> Option<u64> {
    let start = SystemTime::try_from(d.estimated_start_time?).ok()?;
    Some(start.duration_since(SystemTime::now()).unwrap_or_default().as_secs())
}

/// What `ps` and `pull` say beside the bar: `12.3 MB of 64 MB  4.1 MB/s  9 s left`.
pub fn describe(d: &Download) -> String {
    let mut parts = Vec::new();
    match d.state() {
        State::Queued if d.queue_position > 0 => {
            parts.push(format!("place {} in the queue", d.queue_position));
            parts.extend(starts_in(d).map(|seconds| format!("begins in about {}", format::seconds(seconds))));
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
