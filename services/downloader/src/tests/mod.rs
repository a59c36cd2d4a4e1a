//! The whole service against a fake hub, with a catalogue and a runtime in memory.

mod catalog;
mod ends;
mod faults;
mod hub_models;
mod local_models;
mod refusals;
mod restarts;
mod runtime;
mod world;
