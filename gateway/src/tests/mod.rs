//! The faces over services that are played: what goes out is what the clients of each face expect.

// A body written as json!({…}) reads better without a reference.
#![allow(clippy::needless_pass_by_value)]

mod bounds;
mod faces;
mod management;
mod mutations;
mod openai;
mod trouble;
mod world;
