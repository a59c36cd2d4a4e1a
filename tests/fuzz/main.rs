//! Fuzz targets, each through the real server and its real protocols: every input gets a typed answer, the process
//! stays the same, and memory does not grow.
//!
//! `MILLM_FUZZ_SECONDS` is the time for which each target mutates (60 unless set; 0 only replays the corpus). With
//! `MILLM_FUZZ_SAVE`, inputs with a new kind of answer or a slow one join the corpus. An input that fails always
//! joins it, and its path is printed. `MILLM_SEED` repeats a run.

#[allow(dead_code, unused_imports, unused_macros, reason = "the scenarios use more of it")]
#[path = "../harness/mod.rs"]
mod harness;
#[allow(dead_code, reason = "the scenarios use more of it")]
#[path = "../hostile_inputs/mod.rs"]
mod hostile_inputs;

mod corpus;
mod json_tree;
mod judge;
mod mutator;
mod runner;
mod smaller;
mod targets;
