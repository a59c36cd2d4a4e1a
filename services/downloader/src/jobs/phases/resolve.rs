//! Phase 1, resolve: the job's download plan, which [`resolve`](crate::resolve) makes.
//!
//! A plan that the request or an earlier run left is used as it is. Otherwise the hub is asked at the row's pinned
//! commit, and the plan is saved beside the files.
//!
//! After `kill -9`: the plan is either saved whole or missing. A missing plan is made again at the same commit.

use millm_kit::{
    ServiceError,
    names::{RepoId, Revision},
};
use millm_proto::downloader::v1::download::State;

use crate::{
    context::Context,
    error::from_disk,
    jobs::state::JobState,
    resolve::{inspect::RepoQuery, offline, plan::DownloadPlan, select::Selection},
    store::models_dir::Incoming,
};

/// Returns the job's plan, and pins the row's commit to it.
///
/// # Errors
///
/// The hub's errors; INVALID_MODEL_FILE, UNSUPPORTED_ARCHITECTURE, REMOTE_CODE_REQUIRED, INSUFFICIENT_DISK.
pub(crate) async fn run(
    context: &Context,
    job: &mut JobState,
    incoming: &Incoming,
) -> Result<DownloadPlan, ServiceError> {
    job.reporter.stage(State::Resolving, "");
    let plan = match DownloadPlan::load(incoming, &job.row.commit) {
        Some(plan) => plan,
        None => ask_hub(context, job, incoming).await?,
    };
    job.row.commit.clone_from(&plan.commit);
    Ok(plan)
}

async fn ask_hub(
    context: &Context,
    job: &JobState,
    incoming: &Incoming,
) -> Result<DownloadPlan, ServiceError> {
    let row = &job.row;
    let repo = RepoId::parse(&row.repo_id)?;
    let revision =
        if row.commit.is_empty() { Revision::parse(&row.revision)?.to_string() } else { row.commit.clone() };
    let query = RepoQuery {
        repo: &repo,
        revision: &revision,
        selection: Selection {
            file: &row.file,
            quantization: row.requested_quantization(),
            ..Selection::default()
        },
        token: job.token.as_ref(),
    };
    let inspection = offline::inspect(context, &query).await?;
    let spec = inspection.allowed_spec(row.trust_remote_code)?;
    let plan = DownloadPlan::new(&inspection, &spec, row.requested_quantization(), job.keep_source);
    plan.save(incoming).map_err(|error| from_disk(&row.repo_id, "writing the plan", &error))?;
    Ok(plan)
}
