//! Looking inside models: descriptions, activations of prompts, and extraction jobs over datasets.
//!
//! ```text
//! StartExtraction ─> request (checked) ─> jobs (a folder, a place in its model's queue)
//!                                           └─> run: texts (rows, tokens, plan) ─> batches (captures) ─> checksums
//! ```
//!
//! A job's folder below the setting `activations_dir` is all there is of it: `job.json` has its state, the rest is
//! `millm-extraction`'s. A job that ends early, in whatever way, can be resumed and ends with the same bytes.

mod activations;
mod batches;
mod describe;
mod facts;
mod files;
mod job;
mod jobs;
mod request;
mod run;
mod service;
mod texts;

pub(crate) use jobs::Jobs;
pub(crate) use service::Inspection;
pub(crate) use texts::DatasetsClient;
