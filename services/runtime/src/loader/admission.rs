//! Admission and eviction: which model may be loaded now, and which models are evicted for it.

use std::time::SystemTime;

use millm_kit::ServiceError;
use millm_proto::runtime::v1::LoadState;

/// The facts of an entry that admission and eviction depend on.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct EvictionCandidate {
    pub id: i64,
    pub handle: String,
    pub state: LoadState,
    /// Bytes that unloading the model frees; 0 if it is not in memory.
    pub bytes: u64,
    /// Bytes that the model may still allocate.
    pub reserved: u64,
    /// True if requests wait or run.
    pub in_use: bool,
    pub last_used: SystemTime,
}

/// The answer to a load.
#[derive(Debug, PartialEq)]
pub(crate) enum Admission {
    /// The load may begin.
    Admitted,
    /// The model is being unloaded: the load must wait.
    Unloading,
}

/// The memory that a load needs, and the memory that is free.
#[derive(Debug, Clone, Copy)]
pub(crate) struct MemoryDemand {
    /// Models in memory at the same time.
    pub max_models: usize,
    /// Bytes that the model needs.
    pub bytes: u64,
    /// Bytes that are free now.
    pub free: u64,
}

/// The models that are evicted for a load.
#[derive(Debug)]
pub(crate) struct Eviction {
    /// The models, in the order of their eviction.
    pub evicted: Vec<EvictionCandidate>,
    /// Bytes that are available to the load afterwards.
    pub available: u64,
}

/// Decides whether model `id` may be loaded now. Only one model loads at a time.
///
/// # Errors
///
/// MODEL_ALREADY_LOADED, or MODEL_LOADING while any model loads.
pub(crate) fn admit(candidates: &[EvictionCandidate], id: i64) -> Result<Admission, ServiceError> {
    for EvictionCandidate { handle, state, .. } in candidates.iter().filter(|candidate| candidate.id == id) {
        match state {
            LoadState::Loaded => return Err(ServiceError::already_loaded(handle)),
            LoadState::Unloading => return Ok(Admission::Unloading),
            _ => {}
        }
    }
    match candidates.iter().find(|candidate| candidate.state == LoadState::Loading) {
        Some(candidate) => Err(ServiceError::loading(&candidate.handle)),
        None => Ok(Admission::Admitted),
    }
}

/// Chooses the models to evict for model `id`, until both their number and the free memory allow the load.
///
/// The order is: the model itself if it is loaded, models that are unloading, then the least recently used, idle models
/// before models in use.
pub(crate) fn choose_evictions(
    mut candidates: Vec<EvictionCandidate>,
    id: i64,
    demand: MemoryDemand,
) -> Eviction {
    candidates.retain(|candidate| matches!(candidate.state, LoadState::Loaded | LoadState::Unloading));
    candidates.sort_by_key(|candidate| {
        (candidate.id != id, candidate.state == LoadState::Loaded, candidate.in_use, candidate.last_used)
    });
    let reloaded = usize::from(candidates.first().is_some_and(|candidate| candidate.id == id));
    let too_many = (candidates.len() + 1).saturating_sub(demand.max_models).max(reloaded);
    let available = |evicted: usize| {
        let freed: u64 = candidates[..evicted].iter().map(|candidate| candidate.bytes).sum();
        let reserved: u64 = candidates[evicted..].iter().map(|candidate| candidate.reserved).sum();
        demand.free.saturating_add(freed).saturating_sub(reserved)
    };
    // If evicting all of them is not enough, all are evicted: the load goes on only if its caller allows it.
    let evicted = (too_many..candidates.len()).find(|evicted| available(*evicted) >= demand.bytes);
    let evicted = evicted.unwrap_or(candidates.len());
    let available = available(evicted);
    candidates.truncate(evicted);
    Eviction { evicted: candidates, available }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use LoadState::{Failed, Loaded, Loading, Unloading};
    use millm_kit::Reason;

    use super::*;

    /// Returns candidates with ids from 1, the first one used longest ago.
    fn candidates(states: &[LoadState]) -> Vec<EvictionCandidate> {
        let candidate = |(id, state): (i64, &LoadState)| EvictionCandidate {
            id,
            handle: format!("model-{id}"),
            state: *state,
            bytes: 10,
            reserved: 0,
            in_use: false,
            last_used: SystemTime::UNIX_EPOCH + Duration::from_secs(id as u64),
        };
        (1..).zip(states).map(candidate).collect()
    }

    fn ids(eviction: &Eviction) -> Vec<i64> {
        eviction.evicted.iter().map(|candidate| candidate.id).collect()
    }

    fn check(states: &[LoadState], id: i64, max_models: usize, expected: &[i64]) {
        assert_eq!(admit(&candidates(states), id).unwrap(), Admission::Admitted, "{states:?}");
        let eviction =
            choose_evictions(candidates(states), id, MemoryDemand { max_models, bytes: 5, free: 5 });
        assert_eq!(ids(&eviction), expected, "{states:?}");
        assert_eq!(eviction.available, 5 + 10 * expected.len() as u64);
    }

    #[test]
    fn the_least_recently_used_model_is_evicted() {
        check(&[], 9, 1, &[]);
        check(&[Loaded], 9, 1, &[1]);
        check(&[Failed], 9, 1, &[]);
        check(&[Failed], 1, 1, &[]);
        check(&[Loaded], 9, 2, &[]);
        check(&[Loaded, Loaded], 9, 2, &[1]);
        check(&[Loaded, Unloading], 9, 2, &[2]);
        check(&[Loaded, Unloading], 9, 1, &[2, 1]);
    }

    #[test]
    fn models_are_evicted_when_memory_is_short() {
        let evicted = |bytes| {
            choose_evictions(
                candidates(&[Loaded, Loaded, Loaded]),
                9,
                MemoryDemand { max_models: 9, bytes, free: 5 },
            )
        };
        assert_eq!(ids(&evicted(5)), Vec::<i64>::new());
        assert_eq!(ids(&evicted(6)), [1]);
        assert_eq!(ids(&evicted(16)), [1, 2]);
        assert_eq!((ids(&evicted(99)), evicted(99).available), (vec![1, 2, 3], 35));
        // Models that stay may still allocate what is reserved for them.
        let mut reserved = candidates(&[Loaded, Loaded]);
        reserved[1].reserved = 4;
        let demand = MemoryDemand { max_models: 9, bytes: 12, free: 6 };
        let eviction = choose_evictions(reserved, 9, demand);
        assert_eq!((ids(&eviction), eviction.available), (vec![1], 12));
    }

    #[test]
    fn idle_models_are_evicted_before_models_in_use() {
        let mut candidates = candidates(&[Loaded, Loaded]);
        candidates[0].in_use = true;
        assert_eq!(
            ids(&choose_evictions(candidates, 9, MemoryDemand { max_models: 2, bytes: 0, free: 0 })),
            [2]
        );
    }

    #[test]
    fn one_load_at_a_time_and_no_model_twice() {
        let refused = |states: &[LoadState], id| admit(&candidates(states), id).unwrap_err();
        assert_eq!(refused(&[Loaded], 1).reason, Reason::ModelAlreadyLoaded);
        assert_eq!(refused(&[Loading], 1).reason, Reason::ModelLoading);
        assert_eq!(refused(&[Loaded, Loading], 9).message, "'model-2' is loading.");
        assert_eq!(admit(&candidates(&[Unloading]), 1).unwrap(), Admission::Unloading);
    }

    #[test]
    fn reloading_evicts_the_model_itself() {
        let evicted = |states: &[LoadState], id, max_models| {
            ids(&choose_evictions(candidates(states), id, MemoryDemand { max_models, bytes: 0, free: 0 }))
        };
        assert_eq!(evicted(&[Loaded], 1, 1), [1]);
        assert_eq!(evicted(&[Loaded, Loaded], 2, 3), [2]);
    }
}
