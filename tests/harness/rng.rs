//! A random generator with a seed, so that a run can be repeated.

use std::time::SystemTime;

/// SplitMix64 (Steele, Lea, Flood 2014).
#[derive(Debug)]
pub struct Rng(u64);

impl Rng {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// Returns the seed of MILLM_SEED, or else a new one, and prints it, so that a failing test shows it.
    pub fn seed() -> u64 {
        let now =
            SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("after 1970").as_nanos() as u64;
        let seed = number_from("MILLM_SEED", now % 1_000_000);
        eprintln!("MILLM_SEED={seed} repeats this");
        seed
    }

    /// Returns a number from 0 to `end`, which is excluded.
    pub fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % end.max(1)
    }
}

/// Reads a number from the environment.
pub fn number_from(variable: &str, default: u64) -> u64 {
    match std::env::var(variable) {
        Ok(text) => text.parse().unwrap_or_else(|e| panic!("{variable}={text}: {e}")),
        Err(_) => default,
    }
}
