//! `GET /v1/models`.

use serde::Serialize;
use utoipa::ToSchema;

/// The models that can be asked now.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct ModelList {
    /// Always `list`.
    object: &'static str,
    /// Loaded ones, and where requests load models every model that is ready.
    data: Vec<ModelCard>,
}

/// A model that can be asked.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct ModelCard {
    /// The model's name.
    id: String,
    /// Always `model`.
    object: &'static str,
    /// Since when it is loaded, or registered, in seconds since 1970.
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
    /// Returns the card of the model with this name; `created` is in seconds since 1970.
    pub const fn new(id: String, created: i64) -> Self {
        Self { id, object: "model", created, owned_by: "miLLM" }
    }
}
