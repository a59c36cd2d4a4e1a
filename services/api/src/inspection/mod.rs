//! Looking inside models: their layers and hook points, datasets, extraction templates, and extractions.

pub mod dataset;
pub mod estimate;
pub mod extraction;
pub mod layers;
pub mod settings;
pub mod template;

/// Returns a duration in whole seconds, rounded up: what is left is not nothing.
fn whole_seconds(duration: &prost_types::Duration) -> i64 {
    duration.seconds.saturating_add(i64::from(duration.nanos > 0)).max(0)
}
