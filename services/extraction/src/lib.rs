//! Extractions: the activations of a model over a dataset, as files that numpy opens.
//!
//! ```text
//! texts ─> Planner ─> tokens.npy, mask.npy, samples.jsonl
//!                          │ batches of samples
//!                          v
//!                   Engine::capture ─ BatchSink ─ queue ─> writer's thread ─> resid_post.layer3.npy.partial, …
//!                                                                │            statistics
//!                                                                └─> journal
//! all samples written ─> finish ─> final names, statistics.json, checksums, metadata.json
//! ```
//!
//! The crate has no async, no protobuf and no network. The Runtime runs its jobs; the command line merges and compares
//! folders.
//!
//! Three promises hold:
//!
//! - A file has its final name only when it is complete, and `metadata.json` is written last.
//! - A process may be killed at any moment. A resumed job ends with the bytes that an uninterrupted one would have made.
//! - Shards join to the bytes that one job would have made: samples are numbered before they are dealt out, and all sums
//!   of statistics are exact, so that their order does not matter.
//!
//! | module | holds |
//! |---|---|
//! | `plan`, `plan_file` | which tokens are in which row, in memory and on disk |
//! | `layout` | which arrays there are, and their shapes |
//! | `npy` | arrays on disk |
//! | `capture`, `writer` | from the engine's activations to arrays |
//! | [`statistics`] | sums of activations and what `statistics.json` says |
//! | `checkpoint` | the journal of finished batches |
//! | `metadata`, `finish` | checksums and `metadata.json` |
//! | `merge`, `compare` | shards into one folder; two folders |

#![warn(missing_docs, clippy::missing_errors_doc, clippy::too_many_lines)]

mod capture;
mod checkpoint;
mod compare;
mod error;
mod finish;
mod layout;
mod merge;
mod metadata;
mod npy;
mod plan;
mod plan_file;
pub mod statistics;
mod writer;

pub use capture::{BatchSink, Captured};
pub use checkpoint::{Checkpoint, Done};
pub use compare::{Comparison, Difference, compare};
pub use error::{Error, Result};
pub use finish::{STATISTICS, SUMS, finish, output_files};
pub use layout::{Layout, MAX_POINTS, Point};
pub use merge::merge;
pub use metadata::{
    Array, DatasetFacts, EngineFacts, Facts, FileFact, METADATA, Metadata, ModelFacts, OutputFile, RunFacts,
    SettingsFacts, hash_file,
};
pub use npy::{ArrayFile, DataType, Disk, Header, MAX_BYTES, RealDisk};
pub use plan::{
    MAX_POSITIONS, MAX_SHARDS, Part, PlanCounts, PlanSettings, Planner, Positions, RowLength, Sample, Shard,
};
pub use plan_file::{MASK, POSITIONS, Plan, PlanReader, PlanWriter, SAMPLES, SampleLine, TOKENS};
pub use writer::{Writer, WriterOptions};
