//! Logs: to stderr, as text for people or JSON for machines.

use std::io::IsTerminal as _;

use tracing_subscriber::{EnvFilter, fmt, layer::SubscriberExt as _, util::SubscriberInitExt as _};

use crate::{Settings, settings::LogFormat};

/// Called once, by the binary. An unreadable filter falls back to `info` and says so.
pub fn init(settings: &Settings) {
    let (filter, mistake) = match EnvFilter::try_new(&settings.log_level) {
        Ok(filter) => (filter, None),
        Err(mistake) => (EnvFilter::new("info"), Some(mistake)),
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
        && let Some(mistake) = mistake
    {
        tracing::warn!("LOG_LEVEL '{}' is not a filter ({mistake}); using info", settings.log_level);
    }
}
