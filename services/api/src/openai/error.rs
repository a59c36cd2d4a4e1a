//! `{"error": {"message", "type", "param", "code"}}`.

use millm_kit::{Reason, ServiceError};
use serde::Serialize;
use utoipa::ToSchema;

/// The body of every error under `/v1`, and the last event of a stream that fails.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[schema(as = OpenAiErrorBody)]
pub struct ErrorBody {
    error: Error,
}

/// The error of a failed request.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[schema(as = OpenAiError)]
struct Error {
    /// The error as a sentence.
    message: String,
    /// The kind of error.
    r#type: ErrorType,
    /// The field that is wrong.
    param: Option<String>,
    /// The error's machine-readable reason, such as `model_not_found`.
    code: String,
    /// The request's id, which is also in the header `x-request-id` and in the log. An extension of OpenAI's API.
    #[serde(skip_serializing_if = "Option::is_none")]
    request_id: Option<String>,
}

/// OpenAI's kinds of errors.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[schema(as = OpenAiErrorType)]
enum ErrorType {
    #[serde(rename = "invalid_request_error")]
    InvalidRequest,
    #[serde(rename = "permission_error")]
    Permission,
    #[serde(rename = "rate_limit_error")]
    RateLimit,
    #[serde(rename = "server_error")]
    Server,
}

impl ErrorBody {
    /// Returns the body for an error of the request with this id.
    pub fn new(error: &ServiceError, request_id: Option<&str>) -> Self {
        let kind = match error.reason {
            Reason::QueueFull => ErrorType::RateLimit,
            Reason::Forbidden => ErrorType::Permission,
            // The same request succeeds once the model is loaded.
            Reason::ModelNotLoaded => ErrorType::Server,
            _ if error.http_status() < 500 => ErrorType::InvalidRequest,
            _ => ErrorType::Server,
        };
        Self {
            error: Error {
                message: error.message.clone(),
                r#type: kind,
                param: error.details.get("field").cloned(),
                code: error.reason.name().to_ascii_lowercase(),
                request_id: request_id.map(ToOwned::to_owned),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{json, to_value};

    use super::*;

    #[test]
    fn bodies() {
        assert_eq!(
            to_value(ErrorBody::new(&ServiceError::model_not_found("x"), None)).unwrap(),
            json!({"error": {"message": "Model not found: 'x'.", "type": "invalid_request_error",
                "param": null, "code": "model_not_found"}})
        );
        let full = to_value(ErrorBody::new(&ServiceError::queue_full(3), Some("mine"))).unwrap();
        assert_eq!(
            (&full["error"]["type"], &full["error"]["request_id"]),
            (&json!("rate_limit_error"), &json!("mine"))
        );
    }
}
