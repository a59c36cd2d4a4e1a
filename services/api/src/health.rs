//! `GET /healthz` and `GET /readyz`.

use std::collections::BTreeMap;

use serde::Serialize;
use utoipa::ToSchema;

/// The process lives.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct Health {
    /// Always `ok`.
    pub status: &'static str,
}

/// Whether requests can be answered now.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct Readiness {
    /// Whether all services are serving.
    pub ready: bool,
    /// By service.
    pub services: BTreeMap<&'static str, ServiceState>,
}

/// How a service answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum ServiceState {
    /// It is ready.
    Serving,
    /// It says that it is not ready.
    #[serde(rename = "not serving")]
    NotServing,
    /// It says nothing in time.
    #[serde(rename = "not answering")]
    NotAnswering,
    /// The server ends: new requests go elsewhere.
    Stopping,
}
