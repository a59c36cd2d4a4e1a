//! Phase 3, fetch: the files that are not on this machine yet, from the hub, each hashed while it comes.
//!
//! After `kill -9`: files under their final names are verified and not fetched again. A partial file keeps the blocks
//! that its ledger notes; each is checked before it counts. Only the blocks on their way to the disk are lost.

use std::sync::Arc;

use futures::{StreamExt as _, TryStreamExt as _};
use millm_kit::{ServiceError, names::RepoId};
use millm_proto::downloader::v1::download::State;

use crate::{
    context::Context,
    error::from_disk,
    hub::api_types::RemoteFile,
    jobs::state::{JobState, Workspace},
    limits::{LARGE_FILES_AT_ONCE, SMALL_FILE_BYTES, SMALL_FILES_AT_ONCE},
    progress::{StageShares, TICK},
    resolve::plan::{DownloadPlan, check_room},
    transfer::{Transfer, shared_limits::SharedLimits},
};

/// Fetches and verifies all files of the plan: the small ones a few at a time, then the large ones in their order. A
/// large file begins when the one before it has no block left to hand out.
///
/// # Errors
///
/// The hub's errors, CHECKSUM_MISMATCH, MODEL_DOWNLOAD_FAILED, INSUFFICIENT_DISK, INTERNAL.
pub(crate) async fn run(
    context: &Context,
    job: &mut JobState,
    plan: &DownloadPlan,
    workspace: &Workspace,
    shares: StageShares,
) -> Result<(), ServiceError> {
    let Workspace { incoming, writers } = workspace;
    let repo = RepoId::parse(&plan.repo)?;
    incoming.create().map_err(|error| from_disk(&plan.repo, "making a folder", &error))?;
    // The job may have waited for long, so the free space is checked once more.
    check_room(plan.peak_bytes, incoming.bytes(), context.available_bytes()?)?;
    let sizes: Vec<_> = plan.files.iter().map(|file| (file.path.to_string(), file.size)).collect();
    let meters = job.reporter.transfer(&sizes, shares);
    job.reporter.stage(State::Downloading, "");
    let shared = SharedLimits::new();
    let (small, large): (Vec<_>, Vec<_>) = plan
        .files
        .iter()
        .zip(meters)
        .map(|(file, meter)| Transfer {
            hub: context.hub.clone(),
            repo: repo.clone(),
            commit: plan.commit.clone(),
            token: job.token.clone(),
            file: RemoteFile { path: file.path.clone(), size: file.size, digest: file.digest },
            partial: incoming.partials().join(&file.save_as),
            destination: incoming.path().join(&file.save_as),
            meter,
            shared: Arc::clone(&shared),
            writers: writers.clone(),
        })
        .partition(|transfer| transfer.file.size <= SMALL_FILE_BYTES);
    let all = async {
        let small = futures::stream::iter(small.into_iter().map(Transfer::run));
        small.buffer_unordered(SMALL_FILES_AT_ONCE).try_collect::<()>().await?;
        let large = futures::stream::iter(large.into_iter().map(Transfer::run));
        large.buffer_unordered(LARGE_FILES_AT_ONCE).try_collect::<()>().await
    };
    let mut all = std::pin::pin!(all);
    let mut ticks = tokio::time::interval(TICK);
    loop {
        tokio::select! {
            end = &mut all => {
                job.reporter.tick();
                return end;
            }
            _ = ticks.tick() => job.reporter.tick(),
        }
    }
}
