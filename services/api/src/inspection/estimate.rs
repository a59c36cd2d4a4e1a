//! The needs of an extraction: `POST /api/models/{id}/extract/estimate` and `millm extract --dry-run --json`.

use millm_kit::ServiceError;
use millm_proto::inspection::v1 as inspection;
use serde::Serialize;
use utoipa::ToSchema;

use super::whole_seconds;
use crate::preview::Obstacle;

/// The needs of an extraction.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct ExtractionEstimate {
    /// Rows of the files.
    pub samples: u64,
    /// Tokens of a row.
    pub sequence_length: u32,
    /// Rows that would be computed at once.
    pub batch_size: u32,
    /// Hook points with their layers, in the order of the files.
    pub points: Vec<String>,
    /// Of all files.
    pub disk_bytes: i64,
    /// Free for extractions.
    pub available_disk_bytes: i64,
    /// Beyond the loaded model.
    pub memory_bytes: i64,
    /// At the rate of the model's latest prompts; null before there is one.
    pub seconds: Option<i64>,
    /// Why it would be refused now; empty when it would not.
    pub obstacles: Vec<Obstacle>,
}

impl From<&inspection::ExtractionEstimate> for ExtractionEstimate {
    fn from(e: &inspection::ExtractionEstimate) -> Self {
        let obstacle = |error: ServiceError| Obstacle { code: error.reason.name(), message: error.message };
        Self {
            samples: e.samples,
            sequence_length: e.sequence_length,
            batch_size: e.batch_size,
            points: e.points.clone(),
            disk_bytes: e.disk_bytes,
            available_disk_bytes: e.available_disk_bytes,
            memory_bytes: e.memory_bytes,
            seconds: e.time.as_ref().map(whole_seconds),
            obstacles: e.obstacles.iter().map(ServiceError::from_rpc).map(obstacle).collect(),
        }
    }
}
