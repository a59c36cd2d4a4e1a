//! Follows the Catalog, so that what is loaded is listed by the name that people gave it last.

use std::time::Duration;

use millm_proto::catalog::v1::watch_models_response::Kind;

use crate::{catalog::Catalog, loader::Loader};

const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// Without end; a Catalog that goes away is watched again when it is back.
pub async fn follow(catalog: Catalog, loader: Loader) {
    let mut pause = FIRST_PAUSE;
    loop {
        if let Ok(mut changes) = catalog.watch().await {
            while let Ok(Some(change)) = changes.message().await {
                pause = FIRST_PAUSE;
                if change.kind() == Kind::Put
                    && let Some(model) = change.model
                    && loader
                        .state()
                        .borrow()
                        .get(&model.id)
                        .is_some_and(|entry| entry.handle != model.handle)
                {
                    loader.rename(model.id, model.handle).await;
                }
            }
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}
