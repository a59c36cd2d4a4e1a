//! The base of the black-box tests: the real `millm` binary in one process or four, a fake hub, and the clients that
//! people use: REST, gRPC and the command line.

pub mod asking;
mod cli;
mod downloads;
pub mod grpc_web;
mod hub;
mod journal;
mod local;
mod process;
mod published;
mod rest;
mod rng;
mod server;
mod shards;
mod verdict;

use std::path::PathBuf;
use std::time::Duration;

pub use asking::{TINY, everyday, generate, generate_over_web, greedy, post, post_bytes};
pub use cli::Cli;
pub use downloads::quick;
pub use hub::{Fixture, MEMBER, Tiny, hub, large, model_hub};
pub use journal::{LOOKED_AT, ON_THE_LINE, asked, assert_covered, bytes_sent, fetches};
pub use local::LocalModel;
pub use process::tree::{ProcessTree, Seen};
pub use published::{Published, files_below};
pub use rest::Rest;
pub use rng::{Rng, number_from};
pub use server::{Layout, Options, Role, Server, is_final};
pub use verdict::{Judged, Verdict, judge_status};

/// The deadline of every wait. It is longer than anything takes on a slow machine, so reaching it means a hang.
pub const DEADLINE: Duration = Duration::from_secs(120);

/// Returns the path of a file or folder in `tests/fixtures`.
pub fn fixture(name: &str) -> PathBuf {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fixtures").join(name);
    assert!(path.exists(), "{} is missing", path.display());
    path
}

/// Returns the output of `future`, and panics at the deadline.
pub async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(DEADLINE, future).await {
        Ok(value) => value,
        Err(_) => panic!("{what}: nothing within {} s", DEADLINE.as_secs()),
    }
}

/// Runs scenarios in both layouts. Each is an `async fn(Layout)` of the calling module.
macro_rules! in_both_layouts {
    ($($scenario:ident),+ $(,)?) => {
        mod one_process {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $scenario() { super::$scenario($crate::harness::Layout::OneProcess).await })+
        }
        mod four_processes {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $scenario() { super::$scenario($crate::harness::Layout::FourProcesses).await })+
        }
    };
}
pub(crate) use in_both_layouts;
