//! The parts that all services share: errors and their table, settings, secrets, gRPC channels, the host that serves
//! the roles, telemetry, names, and the ids of requests.

#![warn(missing_docs, clippy::missing_errors_doc, clippy::too_many_lines)]

pub mod channel;
mod deadline;
mod decode_errors;
pub mod error;
pub mod format;
pub mod host;
pub mod names;
pub mod panics;
pub mod quantization;
pub mod request_id;
pub mod secret;
pub mod settings;
pub mod telemetry;

pub use channel::Channel;
pub use error::{Reason, ServiceError};
pub use host::{Host, Shutdown};
pub use names::ModelRef;
pub use request_id::RequestId;
pub use secret::Secret;
pub use settings::Settings;
