//! The one error type of the crate: what can go wrong while a model is loaded or run. What a request can be
//! refused for is [`crate::request::SubmitError`].

pub type Result<T, E = Error> = std::result::Result<T, E>;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Model(#[from] millm_model::Error),
    #[error("tensor '{name}' has shape {got:?} where this model needs {expected:?}")]
    Shape { name: String, expected: Vec<usize>, got: Vec<usize> },
    #[error("tensor '{name}' holds {got} bytes where {expected} are needed")]
    Size { name: String, expected: u64, got: u64 },
    #[error("out of memory: {what} needs {bytes} bytes")]
    OutOfMemory { what: &'static str, bytes: usize },
    #[error("option '{option}' is {value}: {why}")]
    Option { option: &'static str, value: usize, why: &'static str },
    /// A batch that does not fit the cache it is run with: a mistake of the caller, never of a request.
    #[error("batch: {0}")]
    Batch(String),
    #[error("the engine panicked: {0}")]
    Panicked(String),
    #[error("starting a thread: {0}")]
    Thread(std::io::Error),
}

/// What a caught panic said.
pub(crate) fn panic_message(payload: &(dyn std::any::Any + Send)) -> String {
    if let Some(text) = payload.downcast_ref::<&str>() {
        return (*text).to_string();
    }
    payload.downcast_ref::<String>().cloned().unwrap_or_else(|| "no message".to_string())
}
