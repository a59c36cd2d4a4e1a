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
    #[error("device '{device}' cannot be used: {why}")]
    NoDevice { device: crate::device::Device, why: String },
    #[error("the device is out of memory: {0}")]
    DeviceMemory(String),
    #[error("the device failed: {0}")]
    Device(String),
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

impl From<candle_core::Error> for Error {
    fn from(error: candle_core::Error) -> Self {
        let why = said(&error);
        // candle passes on what the driver said, as text.
        if why.contains("OUT_OF_MEMORY") || why.contains("out of memory") {
            return Self::DeviceMemory(why);
        }
        Self::Device(why)
    }
}

/// What candle has to say, without the backtrace that it may carry.
pub(crate) fn said(error: &candle_core::Error) -> String {
    error.to_string().lines().next().unwrap_or_default().to_owned()
}

/// What a caught panic was: an error that unwound, or a mistake of ours.
pub(crate) fn of_panic(payload: Box<dyn std::any::Any + Send>) -> Error {
    match payload.downcast::<Error>() {
        Ok(error) => *error,
        Err(payload) => Error::Panicked(panic_message(&*payload)),
    }
}

/// What a caught panic said.
pub(crate) fn panic_message(payload: &(dyn std::any::Any + Send)) -> String {
    if let Some(text) = payload.downcast_ref::<&str>() {
        return (*text).to_string();
    }
    payload.downcast_ref::<String>().cloned().unwrap_or_else(|| "no message".to_string())
}
