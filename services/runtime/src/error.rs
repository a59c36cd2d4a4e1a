//! Converts errors of the model, engine and sandbox crates to errors of the table.

use millm_engine::SubmitError;
use millm_kit::ServiceError;
use millm_model::Fault;
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
        SubmitError::InvalidCapture(invalid) => ServiceError::invalid_argument("prompts", invalid.to_string()),
        SubmitError::Stopped => ServiceError::not_loaded(handle),
    }
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
