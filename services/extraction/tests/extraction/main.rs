//! Tests of whole extractions, with an engine that computes made-up activations: no model is needed.

mod failures;
mod fixture;
mod output;
mod shards;
