//! Finds the model that a request names: in the catalog, and among the loaded models.

use std::sync::Arc;

use millm_kit::{ModelRef, Reason, ServiceError};

use crate::{
    catalog_client::CatalogClient,
    loader::{LoadedModel, Loader, Lookup, Phase, RequestGuard},
};

/// Finds models by their names. Cheap to clone.
#[derive(Clone)]
pub(crate) struct ModelFinder {
    pub catalog: CatalogClient,
    pub loader: Loader,
}

/// A loaded model that a request uses while it keeps the guard.
pub(crate) struct Acquired {
    pub model: Arc<LoadedModel>,
    pub guard: RequestGuard,
    /// The model's handle now.
    pub handle: String,
}

impl ModelFinder {
    /// Returns the model that an empty name means: the loaded model that was used last, else the one that is loading.
    ///
    /// # Errors
    ///
    /// MODEL_NOT_LOADED if there is none.
    pub fn default_model(&self) -> Result<(i64, String), ServiceError> {
        let list = self.loader.models();
        let models = list.borrow();
        let rank = |phase: &Phase| match phase {
            Phase::Loaded(model) => Some((3, Some(model.last_used()))),
            Phase::Unloading(model, _) => Some((2, Some(model.last_used()))),
            Phase::Loading(..) => Some((1, None)),
            Phase::Failed(_) => None,
        };
        let ranked = models.iter().filter_map(|(id, entry)| Some((rank(&entry.phase)?, *id, entry)));
        let latest = ranked.max_by_key(|(rank, ..)| *rank);
        latest.map(|(_, id, entry)| (id, entry.handle.clone())).ok_or_else(ServiceError::nothing_loaded)
    }

    /// Returns the id and handle of the model that a name means now.
    ///
    /// Models in the list are found by their ids, and by their handles while the catalog does not answer.
    ///
    /// # Errors
    ///
    /// MODEL_NOT_FOUND, or SERVICE_UNAVAILABLE if the catalog does not answer.
    pub async fn resolve(&self, name: &str) -> Result<(i64, String), ServiceError> {
        let reference = ModelRef::parse(name)?;
        let find_listed = |matches: &dyn Fn(i64, &str) -> bool| {
            let list = self.loader.models();
            let models = list.borrow();
            let mut found = models.iter().filter(|(id, entry)| matches(**id, &entry.handle));
            found.next().map(|(id, entry)| (*id, entry.handle.clone()))
        };
        if let ModelRef::Id(id) = reference
            && let Some(found) = find_listed(&|listed, _| listed == id)
        {
            return Ok(found);
        }
        match self.catalog.find(name).await {
            Ok(model) => Ok((model.id, model.handle)),
            Err(error) if error.reason == Reason::ServiceUnavailable => {
                find_listed(&|_, handle| handle == name).ok_or(error)
            }
            Err(error) => Err(error),
        }
    }

    /// Returns the loaded model that a name means, for one request. Loads it first if the settings allow that. An empty
    /// name means the default model.
    ///
    /// # Errors
    ///
    /// MODEL_NOT_FOUND, MODEL_NOT_LOADED or MODEL_LOADING; on demand also the errors of a load.
    pub async fn acquire(&self, name: &str) -> Result<Acquired, ServiceError> {
        let (id, handle) = if name.is_empty() { self.default_model()? } else { self.resolve(name).await? };
        let (model, guard) = match self.loader.lookup(id) {
            Lookup::Loaded(model, guard) => (model, guard),
            _ if self.loader.options.load_on_demand => {
                self.loader.load_on_demand(self.catalog.ready(&id.to_string()).await?).await?
            }
            Lookup::Loading(..) => return Err(ServiceError::loading(handle)),
            Lookup::Unloading | Lookup::NotLoaded => return Err(ServiceError::not_loaded(handle)),
        };
        Ok(Acquired { model, guard, handle })
    }

    /// Returns the model with this id if it is loaded now, for a part of a longer job. `handle` names it in errors.
    ///
    /// # Errors
    ///
    /// MODEL_NOT_LOADED or MODEL_LOADING.
    pub fn loaded(&self, id: i64, handle: &str) -> Result<(Arc<LoadedModel>, RequestGuard), ServiceError> {
        match self.loader.lookup(id) {
            Lookup::Loaded(model, guard) => Ok((model, guard)),
            Lookup::Loading(..) => Err(ServiceError::loading(handle)),
            Lookup::Unloading | Lookup::NotLoaded => Err(ServiceError::not_loaded(handle)),
        }
    }
}
