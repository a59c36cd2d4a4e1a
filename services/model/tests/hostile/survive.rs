//! Runs a parser over thousands of damaged files, within limits of memory and time.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use crate::budget::{self, Budget, Stopped};
use crate::mutate::{Rng, mutated};

/// Bytes that a parser may hold at once beyond its input: far more than a valid file of this size takes.
const MEMORY: usize = 96 << 20;
/// Cases between two checks of the clock.
const ROUND: u64 = 50;

/// The cases to run.
enum Plan {
    These(std::ops::Range<u64>),
    Until(SystemTime),
}

impl Plan {
    fn of_environment(cases: u64) -> Self {
        let number = |name: &str| std::env::var(name).ok()?.parse::<u64>().ok();
        if let Some(case) = number("MILLM_FUZZ_CASE") {
            return Self::These(case..case + 1);
        }
        match number("MILLM_FUZZ_UNTIL") {
            Some(until) => Self::Until(SystemTime::UNIX_EPOCH + Duration::from_secs(until)),
            None => Self::These(0..cases),
        }
    }
}

/// Checks that `parse` returns, with whatever result, for each of `cases` damaged copies of `good` files.
pub fn survives(cases: u64, good: Vec<Vec<u8>>, parse: fn(&[u8])) {
    assert!(!good.is_empty(), "something to damage");
    let good = Arc::new(good);
    match Plan::of_environment(cases) {
        Plan::These(range) => round(&good, range, parse),
        Plan::Until(end) => {
            // Different cases each time; a failure names its case.
            let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("after 1970");
            let mut next = now.as_nanos() as u64;
            while SystemTime::now() < end {
                round(&good, next..next + ROUND, parse);
                next += ROUND;
            }
        }
    }
}

fn round(good: &Arc<Vec<Vec<u8>>>, cases: std::ops::Range<u64>, parse: fn(&[u8])) {
    let present = Arc::new(AtomicU64::new(cases.start));
    let (own, files) = (Arc::clone(&present), Arc::clone(good));
    let budget = Budget { memory: MEMORY, time: Duration::from_secs(120), stack: 8 << 20 };
    let done = budget::run(budget, "hostile", move || {
        for case in cases {
            own.store(case, Ordering::Relaxed);
            let mut rng = Rng::new(case);
            let file = &files[rng.below(files.len())];
            parse(&mutated(file, &mut rng));
        }
    });
    let case = present.load(Ordering::Relaxed);
    match done {
        Ok(()) => {}
        Err(Stopped::Panicked(panic)) => {
            let words = panic.downcast_ref::<String>().map(String::as_str);
            let words = words.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no words");
            panic!("MILLM_FUZZ_CASE={case} panicked: {words}");
        }
        Err(stopped) => panic!("MILLM_FUZZ_CASE={case}: {stopped:?}"),
    }
}
