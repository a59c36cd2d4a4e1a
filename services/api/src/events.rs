//! The events of `GET /api/events`, a stream of server-sent events: `event: NAME`, `data: JSON`.

use serde::Serialize;
use utoipa::ToSchema;

use crate::{
    Error, Model,
    download::Download,
    inspection::extraction::{ExtractionCompleted, ExtractionFailed, ExtractionProgress},
    load::{LoadProgress, UnloadProgress},
};

/// The data of an event. [`Event::name`] is the event's name.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[serde(untagged)]
pub enum Event {
    /// `model:download:progress`.
    DownloadProgress(Download),
    /// `model:download:complete`.
    DownloadComplete(Completed),
    /// `model:download:error`.
    DownloadError(Failed),
    /// `model:load:progress`.
    LoadProgress(LoadProgress),
    /// `model:load:complete`.
    LoadComplete(Completed),
    /// `model:load:error`.
    LoadError(Failed),
    /// `model:unload:progress`.
    UnloadProgress(UnloadProgress),
    /// `model:unload:complete`.
    UnloadComplete(Completed),
    /// `extraction:progress`.
    ExtractionProgress(ExtractionProgress),
    /// `extraction:complete`.
    ExtractionComplete(ExtractionCompleted),
    /// `extraction:error`.
    ExtractionError(ExtractionFailed),
}

/// The end of successful work on a model.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct Completed {
    /// The model's id.
    pub model_id: i64,
    /// The model as it is now; null if it has been removed since.
    pub model: Option<Box<Model>>,
}

/// The end of failed work on a model.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct Failed {
    /// The model's id.
    pub model_id: i64,
    /// The reason of the failure.
    pub error: Error,
}

impl Event {
    /// Returns the event's name.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::DownloadProgress(_) => "model:download:progress",
            Self::DownloadComplete(_) => "model:download:complete",
            Self::DownloadError(_) => "model:download:error",
            Self::LoadProgress(_) => "model:load:progress",
            Self::LoadComplete(_) => "model:load:complete",
            Self::LoadError(_) => "model:load:error",
            Self::UnloadProgress(_) => "model:unload:progress",
            Self::UnloadComplete(_) => "model:unload:complete",
            Self::ExtractionProgress(_) => "extraction:progress",
            Self::ExtractionComplete(_) => "extraction:complete",
            Self::ExtractionError(_) => "extraction:error",
        }
    }

    /// Returns the end of successful work, whose `model` is filled in before the event is sent.
    pub const fn completed_mut(&mut self) -> Option<&mut Completed> {
        match self {
            Self::DownloadComplete(completed)
            | Self::LoadComplete(completed)
            | Self::UnloadComplete(completed) => Some(completed),
            _ => None,
        }
    }
}
