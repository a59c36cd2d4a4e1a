//! Phase 4, verify: the fetched files make a model that can be loaded. Their digests were checked while they came; this
//! phase opens the checkpoint and checks every tensor's name, type and shape.
//!
//! After `kill -9`: nothing is written here except that an old `model.gguf` is removed, so the phase runs again.

use millm_kit::ServiceError;
use millm_model::quantize::Scheme;
use millm_proto::downloader::v1::download::State;

use crate::{
    context::Context,
    error::from_disk,
    jobs::{
        catalog_row::row_from_files,
        state::{JobState, Workspace},
    },
    resolve::plan::DownloadPlan,
    store::{atomic_file::ignore_not_found, models_dir::QUANTIZED_FILE},
};

/// Opens and checks the fetched checkpoint. `scheme` is how it is quantized next, if at all.
///
/// # Errors
///
/// INVALID_MODEL_FILE, UNSUPPORTED_ARCHITECTURE, INTERNAL.
pub(crate) async fn run(
    context: &Context,
    job: &mut JobState,
    plan: &DownloadPlan,
    workspace: &Workspace,
    scheme: Option<Scheme>,
) -> Result<(), ServiceError> {
    let Workspace { incoming, writers } = workspace;
    job.reporter.stage(State::Verifying, "");
    if scheme.is_some() {
        // An old quantized file without its record is not finished, and must not pass for the model.
        ignore_not_found(std::fs::remove_file(incoming.path().join(QUANTIZED_FILE)))
            .map_err(|error| from_disk(&plan.repo, "removing an old file", &error))?;
    }
    let (path, name, workload) = (incoming.path().to_owned(), plan.repo.clone(), context.workload);
    let checked = writers.spawn_blocking(move || row_from_files(&path, &name, workload)).await;
    checked.map_err(ServiceError::internal)?.map(drop)
}
