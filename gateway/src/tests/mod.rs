//! The gateway over fake services: each protocol's clients get what they expect.

// A body written as json!({…}) reads better without a reference.
#![allow(clippy::needless_pass_by_value)]

mod documents;
mod extraction_files;
mod fake_inspection;
mod fixture;
mod inspection;
mod management;
mod memory_bounds;
mod mutations;
mod openai;
mod protocols;
mod request_ids;
mod statuses;
mod trouble;
