//! `GET /v1/models`.

use serde::Serialize;
use utoipa::ToSchema;

/// The models that accept requests now.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct ModelList {
    /// Always `list`.
    object: &'static str,
    /// The loaded models. With the setting `load_on_demand`, every model that is ready.
    data: Vec<ModelCard>,
}

/// A model that accepts requests.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct ModelCard {
    /// The model's name.
    id: String,
    /// Always `model`.
    object: &'static str,
    /// The time of the load, or else of the registration, in seconds since 1970.
    created: i64,
    /// Always `miLLM`.
    owned_by: &'static str,
}

impl ModelList {
    /// Returns the list of these models.
    pub const fn new(data: Vec<ModelCard>) -> Self {
        Self { object: "list", data }
    }
}

impl ModelCard {
    /// Returns the entry of a model; `created` is in seconds since 1970.
    pub const fn new(id: String, created: i64) -> Self {
        Self { id, object: "model", created, owned_by: "miLLM" }
    }
}
