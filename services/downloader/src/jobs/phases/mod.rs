//! The phases of a job, in their order: resolve, reuse, fetch, verify, quantize, seal. Each file says what a `kill -9`
//! in its phase leaves, and what the next run does with it. A person's own model skips to quantize.

pub(crate) mod fetch;
pub(crate) mod quantize;
pub(crate) mod resolve;
pub(crate) mod reuse;
pub(crate) mod seal;
pub(crate) mod verify;
