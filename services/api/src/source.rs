//! Where a model's files come from.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Where a model's files came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// A repository of the hub.
    Huggingface,
    /// A folder or file of this machine.
    Local,
}
