//! Hostile files: what strangers publish is read within bounds of memory and time, and never panics.
//!
//! `MILLM_FUZZ_UNTIL` (seconds of the Unix clock) lets the mutations go on until then (`make fuzz`);
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
