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
    /// What it was promised beyond that and has not taken yet.
    pub promised: u64,
    /// Requests wait or run.
    pub in_use: bool,
    pub last_used: SystemTime,
}

/// What a load finds.
#[derive(Debug, PartialEq)]
pub enum Admission {
    Go,
    /// The model itself is being unloaded.
    Wait,
}

/// What a load needs, and what there is.
#[derive(Debug, Clone, Copy)]
pub struct Need {
    /// Models in memory at once.
    pub capacity: usize,
    pub bytes: u64,
    /// Free now.
    pub free: u64,
}

/// Who leaves for a load, and what it has then.
#[derive(Debug)]
pub struct Room {
    pub leaving: Vec<Seat>,
    pub available: u64,
}

/// MODEL_ALREADY_LOADED; MODEL_LOADING for whatever is loading, since loads come one at a time.
pub fn admit(seats: &[Seat], id: i64) -> Result<Admission, ServiceError> {
    for Seat { handle, state, .. } in seats.iter().filter(|seat| seat.id == id) {
        match state {
            LoadState::Loaded => return Err(ServiceError::already_loaded(handle)),
            LoadState::Unloading => return Ok(Admission::Wait),
            _ => {}
        }
    }
    match seats.iter().find(|seat| seat.state == LoadState::Loading) {
        Some(seat) => Err(ServiceError::loading(&seat.handle)),
        None => Ok(Admission::Go),
    }
}

/// Makes room for model `id`: first what is on its way out leaves, then the least recently used, idle ones before
/// those in use, until both their number and the memory allow it. A model that is loaded would be loaded anew.
pub fn room(mut seats: Vec<Seat>, id: i64, need: Need) -> Room {
    seats.retain(|seat| matches!(seat.state, LoadState::Loaded | LoadState::Unloading));
    seats.sort_by_key(|seat| (seat.id != id, seat.state == LoadState::Loaded, seat.in_use, seat.last_used));
    let again = usize::from(seats.first().is_some_and(|seat| seat.id == id));
    let too_many = (seats.len() + 1).saturating_sub(need.capacity).max(again);
    let available = |leaving: usize| {
        let back: u64 = seats[..leaving].iter().map(|seat| seat.bytes).sum();
        let promised: u64 = seats[leaving..].iter().map(|seat| seat.promised).sum();
        need.free.saturating_add(back).saturating_sub(promised)
    };
    // If even all of them are too few, all leave: only who insists is loaded then.
    let leaving = (too_many..seats.len()).find(|leaving| available(*leaving) >= need.bytes);
    let leaving = leaving.unwrap_or(seats.len());
    let available = available(leaving);
    seats.truncate(leaving);
    Room { leaving: seats, available }
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
            bytes: 10,
            promised: 0,
            in_use: false,
            last_used: SystemTime::UNIX_EPOCH + Duration::from_secs(id as u64),
        };
        (1..).zip(states).map(seat).collect()
    }

    fn ids(room: &Room) -> Vec<i64> {
        room.leaving.iter().map(|seat| seat.id).collect()
    }

    fn check(states: &[LoadState], id: i64, capacity: usize, expected: &[i64]) {
        assert_eq!(admit(&seats(states), id).unwrap(), Admission::Go, "{states:?}");
        let room = room(seats(states), id, Need { capacity, bytes: 5, free: 5 });
        assert_eq!(ids(&room), expected, "{states:?}");
        assert_eq!(room.available, 5 + 10 * expected.len() as u64);
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
    fn memory_decides_where_their_number_does_not() {
        let leaving = |bytes| room(seats(&[Loaded, Loaded, Loaded]), 9, Need { capacity: 9, bytes, free: 5 });
        assert_eq!(ids(&leaving(5)), Vec::<i64>::new());
        assert_eq!(ids(&leaving(6)), [1]);
        assert_eq!(ids(&leaving(16)), [1, 2]);
        assert_eq!((ids(&leaving(99)), leaving(99).available), (vec![1, 2, 3], 35));
        // Those who stay may still take what they were promised.
        let mut promised = seats(&[Loaded, Loaded]);
        promised[1].promised = 4;
        let need = Need { capacity: 9, bytes: 12, free: 6 };
        let room = room(promised, 9, need);
        assert_eq!((ids(&room), room.available), (vec![1], 12));
    }

    #[test]
    fn idle_ones_leave_before_those_in_use() {
        let mut seats = seats(&[Loaded, Loaded]);
        seats[0].in_use = true;
        assert_eq!(ids(&room(seats, 9, Need { capacity: 2, bytes: 0, free: 0 })), [2]);
    }

    #[test]
    fn one_load_at_a_time_and_no_model_twice() {
        let refused = |states: &[LoadState], id| admit(&seats(states), id).unwrap_err();
        assert_eq!(refused(&[Loaded], 1).reason, Reason::ModelAlreadyLoaded);
        assert_eq!(refused(&[Loading], 1).reason, Reason::ModelLoading);
        assert_eq!(refused(&[Loaded, Loading], 9).message, "'model-2' is loading.");
        assert_eq!(admit(&seats(&[Unloading]), 1).unwrap(), Admission::Wait);
    }

    #[test]
    fn an_estimate_counts_what_loading_anew_gives_back() {
        let leaving = |states: &[LoadState], id, capacity| {
            ids(&room(seats(states), id, Need { capacity, bytes: 0, free: 0 }))
        };
        assert_eq!(leaving(&[Loaded], 1, 1), [1]);
        assert_eq!(leaving(&[Loaded, Loaded], 2, 3), [2]);
    }
}
