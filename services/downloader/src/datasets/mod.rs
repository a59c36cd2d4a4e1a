//! Datasets: registered where they lie on this machine, or fetched from the hub, then scanned.
//!
//! A request is resolved first: which files make the dataset, and which column is read. It gets a PENDING row in the
//! Catalog, and a job. The job fetches the files (verified and resumable, as a model's), scans them, and writes the row,
//! which becomes READY last. A job ends with its dataset, whoever watches it.
//!
//! After a `kill -9`, the next start sets PENDING rows to ERROR (`startup`). The fetched bytes stay; adding the dataset
//! again continues from them. Folders without a row are removed.
//!
//! | file | content |
//! |---|---|
//! | `add`, `remove`, `rows` | the gRPC calls |
//! | `resolve`, `select` | which files of a repository make a configuration's split |
//! | `jobs`, `job` | the jobs that run, and what one does |
//! | `catalog` | the rows |
//! | `startup` | what an earlier process left |

pub(crate) mod add;
mod catalog;
mod convert;
mod job;
pub(crate) mod jobs;
pub(crate) mod remove;
mod resolve;
pub(crate) mod rows;
mod select;
pub(crate) mod startup;

pub(crate) use catalog::DatasetsCatalog;
