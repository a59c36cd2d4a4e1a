//! The whole service against a fake hub, with a catalogue and a runtime in memory.

mod asking;
mod catalog;
mod ends;
mod faults;
mod hub_models;
mod local_models;
mod previews;
mod refusals;
mod restarts;
mod reuse;
mod runtime;
mod storage;
mod two_servers;
mod world;
