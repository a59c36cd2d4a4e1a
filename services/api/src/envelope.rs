//! The envelope of every answer of the management API: `{"success", "data", "error"}`.

use std::collections::BTreeMap;

use millm_kit::ServiceError;
use serde::Serialize;
use utoipa::ToSchema;

/// An answer: `{"success": true, "data": …, "error": null}`.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct Success<T> {
    /// Always true.
    success: bool,
    /// The result.
    data: T,
    /// Always null.
    #[schema(value_type = Option<Error>)]
    error: (),
}

impl<T> Success<T> {
    /// Wraps an answer.
    pub const fn new(data: T) -> Self {
        Self { success: true, data, error: () }
    }
}

/// The `data` of a call without a result: null.
#[derive(Debug, Clone, Copy, Serialize, ToSchema)]
pub struct Nothing;

/// A failure: `{"success": false, "data": null, "error": …}`.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct Failure {
    /// Always false.
    success: bool,
    /// Always null.
    #[schema(value_type = Option<Object>)]
    data: (),
    /// The error.
    error: Error,
}

impl Failure {
    /// Wraps an error.
    pub const fn new(error: Error) -> Self {
        Self { success: false, data: (), error }
    }
}

/// The error of a failed call.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct Error {
    /// The error's machine-readable reason, such as `MODEL_NOT_FOUND`.
    pub code: &'static str,
    /// The error as a sentence.
    pub message: String,
    /// Machine-readable details: `field`, `required_bytes`, `model_id`, …, and `request_id`, which is also in the log.
    pub details: BTreeMap<String, Detail>,
}

/// A detail of an error.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[serde(untagged)]
pub enum Detail {
    /// An amount or an id.
    Number(i64),
    /// Any other text.
    Text(String),
}

impl Error {
    /// Returns the error with the id of the request that it answers.
    #[must_use]
    pub fn of_request(mut self, id: Option<&str>) -> Self {
        self.details.extend(id.map(|id| ("request_id".to_owned(), Detail::Text(id.to_owned()))));
        self
    }
}

impl From<&ServiceError> for Error {
    /// Converts a service's error. Details that are numbers become numbers in JSON.
    fn from(error: &ServiceError) -> Self {
        let detail = |(key, text): (&String, &String)| {
            let is_id = key == "request_id";
            let number = if is_id { None } else { text.parse().ok() };
            (key.clone(), number.map_or_else(|| Detail::Text(text.clone()), Detail::Number))
        };
        Self {
            code: error.reason.name(),
            message: error.message.clone(),
            details: error.details.iter().map(detail).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{json, to_value};

    use super::*;

    #[test]
    fn answers_and_failures_have_the_same_members() {
        assert_eq!(
            to_value(Success::new([1, 2])).unwrap(),
            json!({"success": true, "data": [1, 2], "error": null})
        );
        let error = ServiceError::insufficient_memory(9_000_000_000, 5).with("field", "x");
        let error = Error::from(&error).of_request(Some("123"));
        let message = error.message.clone();
        assert_eq!(
            to_value(Failure::new(error)).unwrap(),
            json!({"success": false, "data": null, "error": {
                "code": "INSUFFICIENT_MEMORY",
                "message": message,
                "details": {"available_bytes": 5, "field": "x", "request_id": "123",
                    "required_bytes": 9_000_000_000_i64},
            }})
        );
    }
}
