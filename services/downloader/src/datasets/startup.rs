//! What an earlier process left: datasets that were being added, and folders without a row.

use std::collections::HashSet;

use millm_kit::ServiceError;
use millm_proto::catalog::v1::dataset::State;

use crate::{context::Context, store::datasets_dir::DatasetsDir};

/// Sets PENDING datasets to ERROR, and removes folders of this catalogue that have no row. The fetched bytes of a dataset
/// with a row stay, for the next attempt. It runs before a dataset can be added.
pub(crate) async fn run(context: &Context) {
    let rows = match context.datasets.list_with_retry(&context.shutdown).await {
        None => return,
        Some(Ok(rows)) => rows,
        Some(Err(error)) => {
            tracing::warn!(error = error.message, "the datasets could not be checked");
            return;
        }
    };
    for row in rows.iter().filter(|row| row.state() == State::Pending) {
        let why = "it was interrupted: add it again to continue";
        let error = ServiceError::dataset_not_ready(&row.handle, why);
        match context.datasets.fail_with_retry(&context.shutdown, row.id, &error).await {
            None => return,
            Some(Ok(_)) => tracing::info!(id = row.id, handle = row.handle, "dataset was interrupted"),
            Some(Err(error)) => tracing::warn!(id = row.id, error = error.message, "row not written"),
        }
    }
    let present: HashSet<i64> = rows.iter().map(|row| row.id).collect();
    let datasets = DatasetsDir::new(&context.models_dir);
    for id in datasets.ids().unwrap_or_default() {
        if !present.contains(&id) {
            match datasets.folder(id).remove() {
                Ok(()) => tracing::info!(id, "removed the files of a dataset without a row"),
                Err(error) => tracing::warn!(id, %error, "files of a dataset without a row were not removed"),
            }
        }
    }
}
