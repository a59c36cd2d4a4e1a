//! Downloads: the request that starts one, and its progress.

use millm_kit::{ServiceError, quantization};
use millm_proto::{
    catalog::v1::Quantization,
    downloader::v1::{
        self as downloader, HubSource, StartDownloadRequest, download::State, start_download_request,
    },
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{Source, percent, time};

/// The body of `POST /api/models`: a repository to download, or a local model to register.
#[derive(Debug, Clone, Default, Deserialize, ToSchema)]
pub struct StartDownload {
    /// `local` when only a `local_path` is given, `huggingface` otherwise.
    pub source: Option<Source>,
    /// The repository, with the source `huggingface`.
    #[schema(example = "owner/name")]
    pub repo_id: Option<String>,
    /// The absolute path of a folder with config.json and safetensors, or of a GGUF file, with the source `local`.
    pub local_path: Option<String>,
    /// A branch, tag or commit; `main` unless given.
    pub revision: Option<String>,
    /// A Hugging Face token for this download alone.
    pub hf_token: Option<String>,
    /// One file of a repository of GGUF files, or the weights of a model in a folder of the repository.
    pub file: Option<String>,
    /// Selects one of several GGUF files by a part of its name: `Q4_K_M`.
    pub variant: Option<String>,
    /// The repository's folder that holds the model.
    pub subfolder: Option<String>,
    /// Q2, Q4, Q8, FP16 or NATIVE (as published); Q4 unless given, NATIVE for GGUF files and local models.
    #[schema(example = "Q4")]
    pub quantization: Option<String>,
    /// The model's name. The default is made from the repository's or file's name.
    pub custom_name: Option<String>,
    /// Agrees to use miLLM's own implementation for a repository that asks for custom code. The custom code never runs.
    pub trust_remote_code: Option<bool>,
    /// Keeps the published files beside the quantized one.
    pub keep_source: Option<bool>,
}

impl TryFrom<StartDownload> for StartDownloadRequest {
    type Error = ServiceError;

    /// # Errors
    ///
    /// INVALID_ARGUMENT for `repo_id` or `local_path`, whichever the source needs, and for `quantization`.
    fn try_from(start: StartDownload) -> Result<Self, ServiceError> {
        let missing = |field| ServiceError::invalid_argument(field, "must be given");
        let otherwise = if start.local_path.is_some() { Source::Local } else { Source::Huggingface };
        let source = match start.source.unwrap_or(otherwise) {
            Source::Huggingface => start_download_request::Source::Hub(HubSource {
                repo_id: start.repo_id.ok_or_else(|| missing("repo_id"))?,
                revision: start.revision.unwrap_or_default(),
                hf_token: start.hf_token.unwrap_or_default(),
                file: start.file.unwrap_or_default(),
                variant: start.variant.unwrap_or_default(),
                subfolder: start.subfolder.unwrap_or_default(),
            }),
            Source::Local => start_download_request::Source::LocalPath(
                start.local_path.ok_or_else(|| missing("local_path"))?,
            ),
        };
        Ok(Self {
            source: Some(source),
            quantization: parse_quantization(start.quantization.as_deref())?.into(),
            handle: start.custom_name.unwrap_or_default(),
            trust_remote_code: start.trust_remote_code.unwrap_or(false),
            keep_source: start.keep_source.unwrap_or(false),
        })
    }
}

/// Returns the quantization that a request names, or `Unspecified` if it leaves the choice to the server.
pub(crate) fn parse_quantization(text: Option<&str>) -> Result<Quantization, ServiceError> {
    text.map_or(Ok(Quantization::Unspecified), quantization::parse)
}

/// A download in progress: an event of `/api/events`, a line of `millm pull --json`, a part of `millm ps --json`.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct Download {
    /// The id of the model that is downloaded.
    pub model_id: i64,
    /// The model's name.
    pub name: String,
    /// The current stage.
    pub stage: Stage,
    /// Progress of the whole work, including quantization, from 0 to 100.
    pub progress: f64,
    /// Bytes on disk.
    pub bytes_downloaded: i64,
    /// Bytes that will be on disk.
    pub total_bytes: i64,
    /// Bytes that were on disk when this run began.
    pub resumed_bytes: i64,
    /// Speed in decimal megabytes per second.
    pub speed_mbps: f64,
    /// Speed in bytes per second, smoothed.
    pub speed_bytes_per_second: i64,
    /// Estimated seconds to the end; null while unknown.
    pub seconds_left: Option<i64>,
    /// Place in the queue: 1 is next. Null if the download is not queued.
    pub queue_position: Option<u32>,
    /// Estimated start of a queued download (RFC 3339); null while unknown.
    pub estimated_start_at: Option<String>,
    /// Attempts that failed so far.
    pub retries: u32,
    /// True if no data has arrived for a while.
    pub stalled: bool,
    /// The current step as text.
    pub detail: String,
}

/// The stage of a download.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// Not known yet.
    Unknown,
    /// Waits in the queue.
    Queued,
    /// Asks the hub for the list of files.
    Resolving,
    /// Fetches files.
    Downloading,
    /// Compares checksums.
    Verifying,
    /// Quantizes the weights.
    Quantizing,
    /// Moves the model into its final folder.
    Finalizing,
    /// Ended successfully.
    Succeeded,
    /// Ended with an error.
    Failed,
    /// Cancelled on request.
    Cancelled,
}

impl Stage {
    /// Returns the stage's name in JSON.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Queued => "queued",
            Self::Resolving => "resolving",
            Self::Downloading => "downloading",
            Self::Verifying => "verifying",
            Self::Quantizing => "quantizing",
            Self::Finalizing => "finalizing",
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }
}

impl From<State> for Stage {
    fn from(state: State) -> Self {
        match state {
            State::Unspecified => Self::Unknown,
            State::Queued => Self::Queued,
            State::Resolving => Self::Resolving,
            State::Downloading => Self::Downloading,
            State::Verifying => Self::Verifying,
            State::Quantizing => Self::Quantizing,
            State::Finalizing => Self::Finalizing,
            State::Succeeded => Self::Succeeded,
            State::Failed => Self::Failed,
            State::Cancelled => Self::Cancelled,
        }
    }
}

/// Returns whether a download is queued or running.
pub const fn is_running(state: State) -> bool {
    !matches!(state, State::Succeeded | State::Failed | State::Cancelled | State::Unspecified)
}

impl From<&downloader::Download> for Download {
    fn from(d: &downloader::Download) -> Self {
        Self {
            model_id: d.model_id,
            name: d.handle.clone(),
            stage: d.state().into(),
            progress: percent(d.fraction),
            bytes_downloaded: d.downloaded_bytes,
            total_bytes: d.total_bytes,
            resumed_bytes: d.resumed_bytes,
            speed_mbps: (d.speed_bytes_per_second as f64 / 10_000.0).round() / 100.0,
            speed_bytes_per_second: d.speed_bytes_per_second,
            seconds_left: (d.seconds_left > 0).then_some(d.seconds_left),
            queue_position: (d.queue_position > 0).then_some(d.queue_position),
            estimated_start_at: time(d.estimated_start_time.as_ref()),
            retries: d.retries,
            stalled: d.stalled,
            detail: d.detail.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_those_of_json() {
        for state in (0..=9).map(|n| State::try_from(n).unwrap()) {
            let stage = Stage::from(state);
            assert_eq!(serde_json::to_value(stage).unwrap(), stage.as_str());
        }
    }
}
