//! Who may be loaded now, and who must leave for it: decided from the present state alone.

use std::time::SystemTime;

use millm_kit::ServiceError;
use millm_proto::runtime::v1::LoadState;

/// What matters of an entry here.
#[derive(Debug, Clone, PartialEq)]
pub struct Seat {
    pub id: i64,
    pub handle: String,
    pub state: LoadState,
    /// What it gives back when it leaves; 0 when it is not in memory.
    pub bytes: u64,
    pub last_used: SystemTime,
}

/// What a load finds.
#[derive(Debug, PartialEq)]
pub enum Admission {
    /// These must be gone before.
    Go { leaving: Vec<Seat> },
    /// The model itself is being unloaded.
    Wait,
}

/// MODEL_ALREADY_LOADED; MODEL_LOADING for whatever is loading, since loads come one at a time.
pub fn admit(seats: Vec<Seat>, id: i64, capacity: usize) -> Result<Admission, ServiceError> {
    for Seat { handle, state, .. } in seats.iter().filter(|seat| seat.id == id) {
        match state {
            LoadState::Loaded => return Err(ServiceError::already_loaded(handle)),
            LoadState::Unloading => return Ok(Admission::Wait),
            _ => {}
        }
    }
    match seats.iter().find(|seat| seat.state == LoadState::Loading) {
        Some(seat) => Err(ServiceError::loading(&seat.handle)),
        None => Ok(Admission::Go { leaving: leaving(seats, id, capacity) }),
    }
}

/// Who leaves for model `id`: first what is on its way out, then the least recently used. A model that is loaded
/// would be loaded anew.
pub fn leaving(mut seats: Vec<Seat>, id: i64, capacity: usize) -> Vec<Seat> {
    seats.retain(|seat| matches!(seat.state, LoadState::Loaded | LoadState::Unloading));
    seats.sort_by_key(|seat| (seat.id != id, seat.state == LoadState::Loaded, seat.last_used));
    let again = usize::from(seats.first().is_some_and(|seat| seat.id == id));
    let too_many = (seats.len() + 1).saturating_sub(capacity).max(again);
    seats.truncate(too_many);
    seats
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use LoadState::{Failed, Loaded, Loading, Unloading};
    use millm_kit::Reason;

    use super::*;

    /// In the order given, the first used longest ago; ids from 1.
    fn seats(states: &[LoadState]) -> Vec<Seat> {
        let seat = |(id, state): (i64, &LoadState)| Seat {
            id,
            handle: format!("model-{id}"),
            state: *state,
            bytes: 0,
            last_used: SystemTime::UNIX_EPOCH + Duration::from_secs(id as u64),
        };
        (1..).zip(states).map(seat).collect()
    }

    fn check(states: &[LoadState], id: i64, capacity: usize, expected: &[i64]) {
        let Ok(Admission::Go { leaving }) = admit(seats(states), id, capacity) else {
            panic!("{states:?} must let {id} in")
        };
        assert_eq!(leaving.iter().map(|seat| seat.id).collect::<Vec<_>>(), expected, "{states:?}");
    }

    #[test]
    fn the_least_recently_used_makes_room() {
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
    fn one_load_at_a_time_and_no_model_twice() {
        let refused = |states: &[LoadState], id| admit(seats(states), id, 2).unwrap_err();
        assert_eq!(refused(&[Loaded], 1).reason, Reason::ModelAlreadyLoaded);
        assert_eq!(refused(&[Loading], 1).reason, Reason::ModelLoading);
        assert_eq!(refused(&[Loaded, Loading], 9).message, "'model-2' is loading.");
        assert_eq!(admit(seats(&[Unloading]), 1, 2).unwrap(), Admission::Wait);
    }

    #[test]
    fn an_estimate_counts_what_loading_anew_gives_back() {
        let ids = |states: &[LoadState], id, capacity| {
            leaving(seats(states), id, capacity).into_iter().map(|seat| seat.id).collect::<Vec<_>>()
        };
        assert_eq!(ids(&[Loaded], 1, 1), [1]);
        assert_eq!(ids(&[Loaded, Loaded], 2, 3), [2]);
    }
}
