//! The whole service against a fake hub, with a Catalog and a Runtime in memory.

mod cancel_and_remove;
mod datasets;
mod faults;
mod fixture;
mod hub_calls;
mod hub_models;
mod idle_runtime;
mod local_models;
mod memory_catalog;
mod previews;
mod refusals;
mod restarts;
mod reuse;
mod storage;
mod two_servers;
