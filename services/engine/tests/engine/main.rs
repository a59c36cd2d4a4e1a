//! The engine against other people's numbers (transformers, llama.cpp) and against itself (batched or alone),
//! through the path that serves.

mod arrivals;
mod batching;
mod config_keys;
mod constraints;
mod crowding;
mod device;
mod failures;
mod families;
mod fixtures;
mod greedy;
mod guessing;
mod packed;
mod sharing;
mod stretching;
mod wrapped;
