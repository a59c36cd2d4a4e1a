//! Watches the catalog for renamed models, so that loaded models are listed under their present handles.

use std::time::Duration;

use backon::{BackoffBuilder as _, ExponentialBuilder};
use millm_proto::catalog::v1::{Model, watch_models_response::Kind};

use crate::{catalog_client::CatalogClient, loader::Loader};

const MIN_PAUSE: Duration = Duration::from_millis(500);
const MAX_PAUSE: Duration = Duration::from_secs(10);

/// Watches the catalog forever. Watches again when the stream ends.
pub(crate) async fn follow_renames(catalog: CatalogClient, loader: Loader) {
    let backoff = ExponentialBuilder::new().with_min_delay(MIN_PAUSE).with_max_delay(MAX_PAUSE);
    let backoff = backoff.without_max_times();
    let mut pauses = backoff.build();
    loop {
        if let Ok(mut changes) = catalog.watch().await {
            while let Ok(Some(change)) = changes.message().await {
                pauses = backoff.build();
                if change.kind() == Kind::Put
                    && let Some(model) = change.model
                    && is_renamed(&loader, &model)
                {
                    loader.rename(model.id, model.handle).await;
                }
            }
        }
        tokio::time::sleep(pauses.next().unwrap_or(MAX_PAUSE)).await;
    }
}

fn is_renamed(loader: &Loader, model: &Model) -> bool {
    loader.models().borrow().get(&model.id).is_some_and(|entry| entry.handle != model.handle)
}
