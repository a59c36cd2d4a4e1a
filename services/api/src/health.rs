//! `GET /healthz` and `GET /readyz`.

use std::collections::BTreeMap;

use serde::Serialize;
use utoipa::ToSchema;

/// The answer of a running process.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct Health {
    /// Always `ok`.
    pub status: &'static str,
}

/// The readiness of the server to answer requests.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct Readiness {
    /// True if all services are serving.
    pub ready: bool,
    /// The state of each service, by its name.
    pub services: BTreeMap<&'static str, ServiceState>,
}

/// The state of a service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum ServiceState {
    /// The service is ready.
    Serving,
    /// The service reports that it is not ready.
    #[serde(rename = "not serving")]
    NotServing,
    /// The service did not answer in time.
    #[serde(rename = "not answering")]
    NotAnswering,
    /// The server is shutting down and takes no new requests.
    Stopping,
}
