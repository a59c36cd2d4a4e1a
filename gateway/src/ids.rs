//! The time and random ids, as answers carry them.

use std::time::{SystemTime, UNIX_EPOCH};

use uuid::Uuid;

/// Returns the seconds since 1970.
pub fn unix_seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// Returns 32 random hex digits.
pub fn random_id() -> String {
    Uuid::new_v4().simple().to_string()
}
