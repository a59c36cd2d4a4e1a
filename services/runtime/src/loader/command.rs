//! The commands that the actor carries out, and its replies.

use std::{sync::Arc, time::Duration};

use millm_kit::ServiceError;
use millm_proto::{
    catalog::v1::Model,
    runtime::v1::{LoadProgress, UnloadProgress},
};
use tokio::sync::{oneshot, watch};

use super::{loaded_model::LoadedModel, requests::Activity};

/// A model to load.
#[derive(Debug, Clone)]
pub(crate) struct LoadRequest {
    /// The catalog's row.
    pub model: Model,
    /// Tokens of the context; `None` is the server's setting. The model's own limit applies too.
    pub context_length: Option<u32>,
    /// Load the model even if memory seems too short.
    pub allow_insufficient_memory: bool,
    /// The maximum time to wait for the requests of a model that is evicted; [`Duration::MAX`] has no limit.
    pub drain: Duration,
}

/// Takes the reply to a command.
pub(super) type Reply<T> = oneshot::Sender<Result<T, ServiceError>>;

/// The receiver of a load's progress, or the reason why it did not begin.
pub(super) type LoadStarted = Result<watch::Receiver<LoadProgress>, ServiceError>;

pub(super) enum Command {
    Load {
        request: Box<LoadRequest>,
        reply: Reply<LoadReply>,
    },
    Unload {
        id: i64,
        handle: String,
        drain: Duration,
        reply: Reply<watch::Receiver<UnloadProgress>>,
    },
    /// Unloads the model unless it was used since `seen`.
    UnloadIdle {
        id: i64,
        seen: Activity,
        reply: Reply<bool>,
    },
    Rename {
        id: i64,
        handle: String,
    },
    /// A job has ended. `done` is sent when the outcome is visible to all.
    Commit {
        id: i64,
        outcome: Outcome,
        done: oneshot::Sender<()>,
    },
}

/// The reply to [`Command::Load`].
pub(super) enum LoadReply {
    /// The job runs. The receiver gets a value when the checkpoint has been examined.
    Started(oneshot::Receiver<LoadStarted>),
    /// The model is being unloaded: send the command again when that is done.
    Unloading,
}

/// The end of a job.
pub(super) enum Outcome {
    Loaded(Arc<LoadedModel>),
    /// The load did not begin; nothing was changed.
    Refused,
    Failed(Box<LoadProgress>),
    Unloaded,
}
