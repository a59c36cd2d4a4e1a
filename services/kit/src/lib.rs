//! What all services share: errors with their table, settings, secrets, connections, the host that serves
//! them, telemetry, names, and the one function that joins the three states a person sees.

pub mod conn;
mod deadline;
pub mod error;
pub mod format;
pub mod host;
pub mod names;
pub mod panics;
pub mod secret;
pub mod settings;
pub mod status;
pub mod telemetry;
pub mod view;
mod wire;

pub use conn::Conn;
pub use error::{Reason, ServiceError};
pub use host::{Host, Shutdown};
pub use names::ModelRef;
pub use secret::Secret;
pub use settings::Settings;
