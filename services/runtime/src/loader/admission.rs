//! Who may be loaded now, and who must leave for it: decided from the present state alone.

use millm_kit::ServiceError;

use super::entry::{Entry, Models, Phase};

/// What a load finds.
#[derive(Debug, PartialEq)]
pub enum Admission {
    /// These must be gone before.
    Go { leaving: Vec<Leaving> },
    /// The model itself is being unloaded.
    Wait,
}

/// A model that makes room.
#[derive(Debug, Clone, PartialEq)]
pub struct Leaving {
    pub id: i64,
    pub handle: String,
    /// What it gives back.
    pub bytes: u64,
}

pub fn admit(models: &Models, id: i64, capacity: usize) -> Result<Admission, ServiceError> {
    match models.get(&id) {
        Some(Entry { phase: Phase::Loaded(_), handle }) => return Err(ServiceError::already_loaded(handle)),
        Some(Entry { phase: Phase::Unloading(..), .. }) => return Ok(Admission::Wait),
        _ => {}
    }
    let loading = models.values().find(|entry| matches!(entry.phase, Phase::Loading(_)));
    match loading {
        Some(entry) => Err(ServiceError::loading(&entry.handle)),
        None => Ok(Admission::Go { leaving: leaving(models, id, capacity) }),
    }
}

/// Who would leave for model `id`, least recently used first. A model that is loaded would be loaded anew.
pub fn leaving(models: &Models, id: i64, capacity: usize) -> Vec<Leaving> {
    let mut residents: Vec<_> =
        models.values().filter_map(|entry| Some((entry, entry.resident()?))).collect();
    // Those on their way out count as leaving before anyone else does.
    residents.sort_by_key(|(entry, resident)| {
        let stays = resident.id != id && matches!(entry.phase, Phase::Loaded(_));
        (stays, resident.requests.last_used().unwrap_or(resident.load_time))
    });
    let too_many = (residents.len() + 1).saturating_sub(capacity);
    let leave = residents.into_iter().take(too_many).map(|(entry, resident)| Leaving {
        id: resident.id,
        handle: entry.handle.clone(),
        bytes: resident.held_bytes(),
    });
    leave.collect()
}
