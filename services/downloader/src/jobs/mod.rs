//! Jobs: the queue decides which downloads run, and a job runs through its phases, one file each in [`phases`].

pub(crate) mod catalog_row;
pub(crate) mod eta;
pub(crate) mod job;
pub(crate) mod local;
pub(crate) mod phases;
pub(crate) mod queue;
pub(crate) mod state;
