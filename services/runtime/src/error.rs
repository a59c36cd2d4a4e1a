//! Converts errors of the model, engine and sandbox crates to errors of the table.

use millm_engine::{CaptureError, InvalidCapture, SubmitError};
use millm_kit::{Reason, ServiceError, format::gigabytes};
use millm_model::{Fault, UnknownHook};
use tokio::task::JoinError;

/// Returns the error for a checkpoint that cannot be read.
pub(crate) fn from_model(error: millm_model::Error) -> ServiceError {
    match error.into_fault() {
        Fault::InvalidModelFile { file, why } => ServiceError::invalid_model_file(file, why),
        Fault::UnsupportedArchitecture { architecture, supported } => {
            ServiceError::unsupported_architecture(architecture, supported)
        }
        Fault::InvalidLocalPath { why } => ServiceError::invalid_local_path(why),
        Fault::Cancelled => ServiceError::cancelled(),
        Fault::Io { path, source } => ServiceError::load_failed(format!("{}: {source}", path.display())),
    }
}

/// Returns the error for a failed load.
pub(crate) fn from_load(error: millm_engine::Error) -> ServiceError {
    use millm_engine::Error;
    match error {
        Error::Model(error) => from_model(error),
        error @ (Error::Shape { .. } | Error::Size { .. }) => {
            ServiceError::invalid_model_file("weights", error)
        }
        error @ (Error::OutOfMemory { .. } | Error::DeviceMemory(_)) => {
            tracing::error!("{error}");
            ServiceError::load_out_of_memory()
        }
        error => ServiceError::load_failed(error),
    }
}

/// Returns the error for a request that the engine refused. `handle` is the model's.
pub(crate) fn from_submit(error: &SubmitError, handle: &str) -> ServiceError {
    match error {
        SubmitError::QueueFull { waiting } => ServiceError::queue_full(*waiting),
        SubmitError::PromptTooLong { tokens, context } => {
            ServiceError::context_length_exceeded(*tokens, *context)
        }
        SubmitError::EmptyPrompt => ServiceError::invalid_argument("prompt", "must hold at least one token"),
        SubmitError::UnknownToken { id, vocabulary } => unknown_token("token_ids", *id, *vocabulary),
        SubmitError::InvalidSampling { field, why } => ServiceError::invalid_argument(field, why),
        SubmitError::InvalidCapture(invalid) => from_invalid_capture(invalid, handle),
        SubmitError::Stopped => ServiceError::not_loaded(handle),
    }
}

fn from_invalid_capture(invalid: &InvalidCapture, handle: &str) -> ServiceError {
    match invalid {
        InvalidCapture::SequenceTooLong { tokens, context, .. } => {
            ServiceError::context_length_exceeded(*tokens, *context)
        }
        InvalidCapture::UnknownToken { id, vocabulary, .. } => unknown_token("token_ids", *id, *vocabulary),
        InvalidCapture::Hook(unknown) => from_hook(unknown, handle),
        invalid @ (InvalidCapture::Empty { .. }
        | InvalidCapture::TooMany { .. }
        | InvalidCapture::EmptySequence { .. }) => {
            ServiceError::invalid_argument("prompts", format!("cannot be captured: {invalid}"))
        }
    }
}

/// Returns the error for a capture that ended early. `handle` is the model's.
pub(crate) fn from_capture(error: &CaptureError, handle: &str) -> ServiceError {
    match error {
        // The engine cancels captures when its model is unloaded.
        CaptureError::Cancelled => ServiceError::not_loaded(handle),
        CaptureError::OutOfMemory => ServiceError::new(
            Reason::InsufficientMemory,
            "Out of memory while reading activations. Try a smaller batch, or fewer points at once.",
        ),
        CaptureError::Failed(why) => ServiceError::extraction_failed(why),
    }
}

/// Returns the error for a hook point that the model does not have. `handle` is the model's.
pub(crate) fn from_hook(unknown: &UnknownHook, handle: &str) -> ServiceError {
    ServiceError::hook_point_unknown(&unknown.name, handle, &unknown.why, &unknown.nearest.join(", "))
}

/// Returns the error for an extraction that cannot be planned, written, finished or read.
pub(crate) fn from_extraction(error: millm_extraction::Error) -> ServiceError {
    use millm_extraction::Error;
    match error {
        Error::Setting { field, why } => ServiceError::invalid_argument(field, why),
        error @ Error::TooLarge { .. } => {
            ServiceError::invalid_argument("settings", format!("cannot be: {error}"))
        }
        Error::DiskFull { path } => {
            tracing::warn!(path = %path.display(), "disk full");
            disk_full()
        }
        Error::Cancelled => ServiceError::cancelled(),
        error => ServiceError::extraction_failed(error),
    }
}

/// Returns the error for a disk that filled up while activations were written. How much is missing is not known then.
pub(crate) fn disk_full() -> ServiceError {
    ServiceError::new(
        Reason::InsufficientDisk,
        "Insufficient disk space. The disk filled up while the extraction was written: make room, then resume it.",
    )
}

/// Returns the error for a machine whose memory is too little for an extraction.
pub(crate) fn extraction_memory(required_bytes: u64, available_bytes: u64) -> ServiceError {
    let (required, available) = (gigabytes(required_bytes), gigabytes(available_bytes));
    let message = format!("The extraction requires ~{required} GB of memory, only {available} GB available.");
    ServiceError::new(Reason::InsufficientMemory, message)
        .with("required_bytes", required_bytes)
        .with("available_bytes", available_bytes)
}

/// Returns the error for a dataset that cannot be read. `handle` is the dataset's.
pub(crate) fn from_dataset(handle: &str, error: &millm_dataset::Error) -> ServiceError {
    if matches!(error, millm_dataset::Error::Cancelled) {
        return ServiceError::cancelled();
    }
    let place = error.place();
    let place = if place.is_empty() { handle } else { &place };
    ServiceError::invalid_dataset(place, error.why())
}

/// Returns the error for a token id that the model does not have. `field` names the ids.
pub(crate) fn unknown_token(field: &str, id: u32, vocabulary: usize) -> ServiceError {
    ServiceError::invalid_argument(field, format!("has {id}, beyond the vocabulary of {vocabulary} tokens"))
}

/// Returns the error for a grammar that cannot be compiled. `field` names it.
pub(crate) fn from_grammar(field: &str, error: millm_sandbox::Error) -> ServiceError {
    match error {
        millm_sandbox::Error::Unavailable(why) => sandbox_unavailable(&why),
        error => ServiceError::invalid_argument(field, format!("cannot be enforced: {error}")),
    }
}

/// Returns the error for a constraint that cannot be satisfied during generation. `field` names it.
pub(crate) fn unsatisfiable(field: &str, why: &str) -> ServiceError {
    ServiceError::invalid_argument(field, format!("cannot be enforced: {why}"))
}

/// Returns the error for a tokenizer that cannot be built.
pub(crate) fn from_tokenizer(error: millm_sandbox::Error) -> ServiceError {
    match error {
        millm_sandbox::Error::Model(error) => from_model(error),
        millm_sandbox::Error::Unavailable(why) => sandbox_unavailable(&why),
        error => ServiceError::invalid_model_file("tokenizer", error),
    }
}

fn sandbox_unavailable(why: &str) -> ServiceError {
    tracing::warn!("the sandbox is not available: {why}");
    ServiceError::service_unavailable("sandbox")
}

/// Returns the error for a blocking task that panicked.
pub(crate) fn from_panic(error: JoinError) -> ServiceError {
    ServiceError::internal(error)
}

/// Returns the error for a text that cannot be tokenized. `field` names it.
pub(crate) fn from_encode(field: &str, error: millm_sandbox::Error) -> ServiceError {
    match error {
        millm_sandbox::Error::Unavailable(why) => sandbox_unavailable(&why),
        error => ServiceError::invalid_argument(field, format!("cannot be tokenized: {error}")),
    }
}

/// Returns the error for messages that the model's chat template refuses.
pub(crate) fn from_chat(error: millm_sandbox::Error) -> ServiceError {
    use millm_model::Error as Model;
    use millm_sandbox::Error;
    let unfit = |why: &dyn std::fmt::Display| {
        ServiceError::invalid_argument("messages", format!("do not fit the model's chat template: {why}"))
    };
    match error {
        Error::Unavailable(why) => sandbox_unavailable(&why),
        Error::Model(Model::Template(why)) => unfit(&why),
        Error::Model(error @ Model::Tokenizer(_)) => {
            ServiceError::invalid_argument("messages", format!("cannot be tokenized: {error}"))
        }
        Error::Model(error) => from_model(error),
        error => unfit(&error),
    }
}
