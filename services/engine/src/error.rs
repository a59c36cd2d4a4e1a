//! The error type of the crate: what can go wrong while a model is loaded or run. The reasons for refusing a request
//! are [`crate::request::SubmitError`].

use crate::device::Device;

/// A result with this crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An error while loading or running a model.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The checkpoint cannot be read.
    #[error(transparent)]
    Model(#[from] millm_model::Error),
    /// A tensor does not have the shape that the config asks for.
    #[error("tensor '{name}' has shape {got:?} where this model needs {expected:?}")]
    Shape {
        /// The tensor's canonical name.
        name: String,
        /// The shape that the model needs.
        expected: Vec<usize>,
        /// The shape in the file.
        got: Vec<usize>,
    },
    /// A tensor does not have the length that its shape and type give.
    #[error("tensor '{name}' holds {got} bytes where {expected} are needed")]
    Size {
        /// The tensor's canonical name.
        name: String,
        /// The bytes that its shape and type give.
        expected: u64,
        /// The bytes in the file.
        got: u64,
    },
    /// The host has too little memory.
    #[error("out of memory: {what} needs {bytes} bytes")]
    OutOfMemory {
        /// The purpose of the memory.
        what: &'static str,
        /// The bytes asked for.
        bytes: usize,
    },
    /// The device does not exist or this build cannot use it.
    #[error("device '{device}' cannot be used: {why}")]
    NoDevice {
        /// The device asked for.
        device: Device,
        /// The reason, as the driver gives it.
        why: String,
    },
    /// This machine cannot execute the kernels asked for.
    #[error("kernels '{kernels}' cannot be used: this machine has {available}")]
    NoKernels {
        /// The kernel set asked for.
        kernels: &'static str,
        /// The kernel sets of this machine, comma-separated.
        available: String,
    },
    /// The device has too little memory.
    #[error("the device is out of memory: {0}")]
    DeviceMemory(String),
    /// The device or its driver failed.
    #[error("the device failed: {0}")]
    Device(String),
    /// An option or a number of the model's config is out of range.
    #[error("option '{option}' is {value}: {why}")]
    Option {
        /// The option's name.
        option: &'static str,
        /// The value.
        value: usize,
        /// The values that are allowed.
        why: &'static str,
    },
    /// A batch does not fit the KV cache that it is run with: a mistake of the caller, never of a request.
    #[error("batch: {0}")]
    Batch(String),
    /// The engine panicked: a bug.
    #[error("the engine panicked: {0}")]
    Panicked(String),
    /// The operating system refused a thread.
    #[error("starting a thread: {0}")]
    Thread(std::io::Error),
}

impl From<candle_core::Error> for Error {
    fn from(error: candle_core::Error) -> Self {
        let why = first_line(&error);
        // candle passes the driver's message on as text.
        if why.contains("OUT_OF_MEMORY") || why.contains("out of memory") {
            return Self::DeviceMemory(why);
        }
        Self::Device(why)
    }
}

/// Returns candle's message without the backtrace that may follow it.
pub(crate) fn first_line(error: &candle_core::Error) -> String {
    error.to_string().lines().next().unwrap_or_default().to_owned()
}

/// Turns a caught panic into an error: the error that unwound, or else the panic's message.
pub(crate) fn from_panic(payload: Box<dyn std::any::Any + Send>) -> Error {
    match payload.downcast::<Error>() {
        Ok(error) => *error,
        Err(payload) => Error::Panicked(panic_message(&*payload)),
    }
}

/// Returns the message of a caught panic.
pub(crate) fn panic_message(payload: &(dyn std::any::Any + Send)) -> String {
    if let Some(text) = payload.downcast_ref::<&str>() {
        return (*text).to_string();
    }
    payload.downcast_ref::<String>().cloned().unwrap_or_else(|| "no message".to_string())
}
