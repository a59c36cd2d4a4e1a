//! From what `model` and `engine` report to the error table's reasons.

use millm_engine::SubmitError;
use millm_kit::ServiceError;
use tokio::task::JoinError;

/// A checkpoint that cannot be read.
pub fn of_model(error: millm_model::Error) -> ServiceError {
    use millm_model::Error;
    match error {
        Error::InvalidFile { file, why } => ServiceError::invalid_model_file(file, why),
        Error::UnsupportedArchitecture { architecture, supported } => {
            ServiceError::unsupported_architecture(architecture, supported)
        }
        Error::UnsupportedField { field, value } => {
            ServiceError::invalid_model_file("config.json", format!("{field} = {value} is not supported"))
        }
        Error::PickleOnly { file } => {
            ServiceError::invalid_model_file(file, "pickled weights are refused: unpickling runs code")
        }
        Error::InvalidPath { why } => ServiceError::invalid_local_path(why),
        Error::Template(why) => ServiceError::invalid_model_file("chat template", why),
        Error::Tokenizer(why) => ServiceError::invalid_model_file("tokenizer", why),
        Error::Cancelled => ServiceError::cancelled(),
        error @ Error::Io { .. } => ServiceError::load_failed(error),
    }
}

/// A load that did not end well.
pub fn of_load(error: millm_engine::Error) -> ServiceError {
    use millm_engine::Error;
    match error {
        Error::Model(error) => of_model(error),
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

/// A request that the engine of `handle` did not take.
pub fn of_submit(error: &SubmitError, handle: &str) -> ServiceError {
    match error {
        SubmitError::QueueFull { waiting } => ServiceError::queue_full(*waiting),
        SubmitError::PromptTooLong { tokens, context } => {
            ServiceError::context_length_exceeded(*tokens, *context)
        }
        SubmitError::EmptyPrompt => ServiceError::invalid_argument("prompt", "must hold at least one token"),
        SubmitError::UnknownToken { id, vocabulary } => unknown_token("token_ids", *id, *vocabulary),
        SubmitError::InvalidSampling { field, why } => ServiceError::invalid_argument(field, why),
        SubmitError::Stopped => ServiceError::not_loaded(handle),
    }
}

pub fn unknown_token(field: &str, id: u32, vocabulary: usize) -> ServiceError {
    ServiceError::invalid_argument(field, format!("has {id}, beyond the vocabulary of {vocabulary} tokens"))
}

/// What an answer should look like cannot be held.
pub fn of_grammar(field: &str, error: millm_sandbox::Error) -> ServiceError {
    match error {
        millm_sandbox::Error::Unavailable(why) => sandbox_unavailable(&why),
        error => ServiceError::invalid_argument(field, format!("cannot be held: {error}")),
    }
}

/// The same, found out in the middle of an answer.
pub fn of_held(field: &str, why: &str) -> ServiceError {
    ServiceError::invalid_argument(field, format!("cannot be held: {why}"))
}

/// A tokenizer that cannot be built.
pub fn of_opening(error: millm_sandbox::Error) -> ServiceError {
    match error {
        millm_sandbox::Error::Model(error) => of_model(error),
        millm_sandbox::Error::Unavailable(why) => sandbox_unavailable(&why),
        error => ServiceError::invalid_model_file("tokenizer", error),
    }
}

fn sandbox_unavailable(why: &str) -> ServiceError {
    tracing::warn!("the sandbox does not answer: {why}");
    ServiceError::service_unavailable("sandbox")
}

/// A blocking task that panicked.
pub fn of_panic(error: JoinError) -> ServiceError {
    ServiceError::internal(error)
}

/// A text that could not be cut into tokens.
pub fn of_text(field: &str, error: millm_sandbox::Error) -> ServiceError {
    match error {
        millm_sandbox::Error::Unavailable(why) => sandbox_unavailable(&why),
        error => ServiceError::invalid_argument(field, format!("cannot be tokenized: {error}")),
    }
}

/// Messages that the model's template did not take: it says why.
pub fn of_chat(error: millm_sandbox::Error) -> ServiceError {
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
        Error::Model(error) => of_model(error),
        error => unfit(&error),
    }
}
