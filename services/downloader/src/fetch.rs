//! The network part of a job: its plan, and all its files.

use std::{fs, io, sync::Arc};

use futures::{StreamExt as _, TryStreamExt as _};
use millm_kit::{
    Secret, ServiceError,
    names::{RepoId, Revision},
};
use millm_proto::{catalog::v1::Model, downloader::v1::download::State};
use tokio_util::task::TaskTracker;

use crate::{
    cache::{Incoming, absent_is_fine},
    context::Context,
    error::of_disk,
    hub::RemoteFile,
    offline,
    plan::{Plan, check_room},
    policy::{LARGE_FILES_AT_ONCE, SMALL_FILE_BYTES, SMALL_FILES_AT_ONCE},
    progress::{Reporter, Shares, TICK},
    select::Choice,
    survey::Wish,
    transfer::{Lanes, Transfer},
};

/// Where kept sources go, so that they do not pass for the model's weights.
pub const SOURCE_FOLDER: &str = "source";

/// The plan that an earlier run or the request left, or a new one from the hub, at the row's pinned commit.
pub async fn plan(
    context: &Context,
    row: &Model,
    keep_source: bool,
    token: Option<&Secret>,
    incoming: &Incoming,
) -> Result<Plan, ServiceError> {
    if let Some(plan) = Plan::load(incoming, &row.commit) {
        return Ok(plan);
    }
    let repo = RepoId::parse(&row.repo_id)?;
    let revision =
        if row.commit.is_empty() { Revision::parse(&row.revision)?.to_string() } else { row.commit.clone() };
    let wish = Wish {
        repo: &repo,
        revision: &revision,
        choice: Choice { file: &row.file, quantization: row.requested_quantization(), ..Choice::default() },
        token,
    };
    let survey = offline::survey(context, &wish).await?;
    let spec = survey.permitted_spec(row.trust_remote_code)?;
    let plan = Plan::new(&survey, &spec, row.requested_quantization(), keep_source);
    plan.save(incoming).map_err(|error| of_disk(&row.repo_id, "writing the plan", &error))?;
    Ok(plan)
}

/// Fetches and verifies all files: the small ones a few at a time, then the large ones in their order, each beginning
/// when the one before has nothing left to hand out.
pub async fn files(
    context: &Context,
    plan: &Plan,
    token: Option<&Secret>,
    incoming: &Incoming,
    reporter: &mut Reporter,
    shares: Shares,
    writers: &TaskTracker,
) -> Result<(), ServiceError> {
    let repo = RepoId::parse(&plan.repo)?;
    incoming.create().map_err(|error| of_disk(&plan.repo, "making a folder", &error))?;
    // The queue may have been long: the disk is looked at once more.
    check_room(plan.peak_bytes, incoming.bytes(), context.available_bytes()?)?;
    let sizes: Vec<_> = plan.files.iter().map(|file| (file.path.to_string(), file.size)).collect();
    let meters = reporter.transfer(&sizes, shares);
    reporter.stage(State::Downloading, "");
    let lanes = Lanes::new();
    let (small, large): (Vec<_>, Vec<_>) = plan
        .files
        .iter()
        .zip(meters)
        .map(|(file, meter)| Transfer {
            hub: context.hub.clone(),
            repo: repo.clone(),
            commit: plan.commit.clone(),
            token: token.cloned(),
            file: RemoteFile { path: file.path.clone(), size: file.size, digest: file.digest },
            partial: incoming.partials().join(&file.save_as),
            destination: incoming.path().join(&file.save_as),
            meter,
            lanes: Arc::clone(&lanes),
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
                reporter.tick();
                return end;
            }
            _ = ticks.tick() => reporter.tick(),
        }
    }
}

/// Removes the published weights, or puts them aside, once the model made from them is there. Goes on where a crash
/// interrupted it.
pub fn clear_sources(plan: &Plan, incoming: &Incoming) -> io::Result<()> {
    let folder = incoming.path().join(SOURCE_FOLDER);
    if plan.keep_source {
        fs::create_dir_all(&folder)?;
    }
    for file in plan.weights() {
        let from = incoming.path().join(&file.save_as);
        if plan.keep_source {
            absent_is_fine(fs::rename(from, folder.join(&file.save_as)))?;
        } else {
            absent_is_fine(fs::remove_file(from))?;
        }
    }
    Ok(())
}
