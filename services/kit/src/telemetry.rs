//! Logging to stderr, as text for people or as JSON for programs.

use std::io::IsTerminal as _;

use tracing_subscriber::{EnvFilter, fmt, layer::SubscriberExt as _, util::SubscriberInitExt as _};

use crate::{Settings, settings::LogFormat};

/// Starts logging. The binary calls this once.
///
/// An invalid filter falls back to `info` and logs a warning.
pub fn init(settings: &Settings) {
    let (filter, invalid) = match EnvFilter::try_new(&settings.log_level) {
        Ok(filter) => (filter, None),
        Err(error) => (EnvFilter::new("info"), Some(error)),
    };
    let registry = tracing_subscriber::registry().with(filter);
    let initialized = match settings.log_format {
        LogFormat::Json => registry.with(fmt::layer().json().with_writer(std::io::stderr)).try_init(),
        LogFormat::Console => registry
            .with(
                fmt::layer()
                    .with_ansi(std::io::stderr().is_terminal())
                    .with_target(false)
                    .with_writer(std::io::stderr),
            )
            .try_init(),
    };
    if initialized.is_ok()
        && let Some(error) = invalid
    {
        tracing::warn!("LOG_LEVEL '{}' is not a valid filter ({error}); using info", settings.log_level);
    }
}
