//! The source of a model's files.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// The source of a model's files.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// A repository of the hub.
    Huggingface,
    /// A folder or file on the server's machine.
    Local,
}
