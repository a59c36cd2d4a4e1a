//! The phases of a job, in their order: resolve, reuse, fetch, verify, quantize, seal. Each file says what a `kill -9`
//! in its phase leaves, and what becomes of it. The next start returns the job
//! ([`repair::startup`](crate::repair::startup)), which runs its phases again from the first. A person's own model
//! skips to quantize.

pub(crate) mod fetch;
pub(crate) mod quantize;
pub(crate) mod resolve;
pub(crate) mod reuse;
pub(crate) mod seal;
pub(crate) mod verify;
