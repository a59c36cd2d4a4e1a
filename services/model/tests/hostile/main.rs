//! Hostile files: parsing any file stays within limits of memory and time, and never panics.
//!
//! `MILLM_FUZZ_UNTIL` (seconds of the Unix clock) runs mutations until then (`make fuzz`);
//! `MILLM_FUZZ_CASE` runs the one case that a failure named.

mod budget;
mod large;
mod mutate;
mod parsers;
mod sizes;
mod survive;

use budget::Budgeted;

#[global_allocator]
static ALLOCATOR: Budgeted<std::alloc::System> = Budgeted(std::alloc::System);
