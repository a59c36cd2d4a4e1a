//! Errors on each face: OpenAI's body under `/v1`, the envelope under `/api` and elsewhere, gRPC's own for gRPC.

use std::{
    future::{Ready, ready},
    time::Duration,
};

use axum::{
    Json,
    extract::Request,
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use millm_kit::{Reason, ServiceError};
use serde_json::{Map, Value, json};
use tonic::Status;

/// When to ask again for a model that is not loaded.
const UNTIL_LOADED: Duration = Duration::from_secs(2);

/// A service's error with the HTTP status it gets: the table's, but for what only HTTP knows (405, 413, 415).
#[derive(Debug)]
pub struct Failure {
    pub status: StatusCode,
    pub error: ServiceError,
}

impl Failure {
    pub fn with_status(status: StatusCode, error: ServiceError) -> Self {
        Self { status, error }
    }
}

impl From<ServiceError> for Failure {
    fn from(error: ServiceError) -> Self {
        let status = StatusCode::from_u16(error.http_status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        Self { status, error }
    }
}

/// How the caller reads errors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Face {
    OpenAi,
    Management,
    Grpc,
}

impl Face {
    pub fn of(path: &str, headers: &HeaderMap) -> Self {
        let content_type = headers.get(header::CONTENT_TYPE).map_or(&b""[..], HeaderValue::as_bytes);
        if content_type.starts_with(b"application/grpc") {
            Self::Grpc
        } else if path == "/v1" || path.starts_with("/v1/") {
            Self::OpenAi
        } else {
            Self::Management
        }
    }

    pub fn answer(self, failure: Failure) -> Response {
        let Failure { mut status, mut error } = failure;
        if self == Self::OpenAi && error.reason == Reason::ModelNotLoaded {
            // Not the request is wrong, but the moment: the same one works once the model is loaded.
            status = StatusCode::SERVICE_UNAVAILABLE;
            error = error.retry_after(UNTIL_LOADED);
        }
        let retry_after = error.retry_after.map(|after| after.as_secs().max(1));
        let mut response = match self {
            Self::OpenAi => (status, Json(openai_body(&error))).into_response(),
            Self::Management => (status, Json(envelope(&error))).into_response(),
            Self::Grpc => Status::from(error).into_http::<axum::body::Body>(),
        };
        if self == Self::Grpc && status == StatusCode::FORBIDDEN {
            *response.status_mut() = status;
        }
        if let Some(seconds) = retry_after {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }
}

/// `{"error": {"message", "type", "param", "code"}}`.
pub fn openai_body(error: &ServiceError) -> Value {
    let kind = match error.reason {
        Reason::QueueFull => "rate_limit_error",
        Reason::Forbidden => "permission_error",
        Reason::ModelNotLoaded => "server_error",
        _ if error.http_status() < 500 => "invalid_request_error",
        _ => "server_error",
    };
    json!({"error": {
        "message": error.message,
        "type": kind,
        "param": error.details.get("field"),
        "code": error.reason.name().to_ascii_lowercase(),
    }})
}

/// `{"code", "message", "details"}`; details that are numbers come as numbers.
pub fn error_value(error: &ServiceError) -> Value {
    let details = error.details.iter().map(|(key, text)| {
        let value = text.parse::<i64>().map_or_else(|_| Value::from(text.as_str()), Value::from);
        (key.clone(), value)
    });
    let mut details: Map<String, Value> = details.collect();
    details.sort_keys();
    json!({"code": error.reason.name(), "message": error.message, "details": details})
}

fn envelope(error: &ServiceError) -> Value {
    json!({"success": false, "data": null, "error": error_value(error)})
}

macro_rules! failure_of {
    ($(#[$doc:meta])* $name:ident = $face:ident) => {
        $(#[$doc])*
        pub struct $name(Failure);

        impl From<Failure> for $name {
            fn from(failure: Failure) -> Self {
                Self(failure)
            }
        }

        impl From<ServiceError> for $name {
            fn from(error: ServiceError) -> Self {
                Self(error.into())
            }
        }

        impl IntoResponse for $name {
            fn into_response(self) -> Response {
                Face::$face.answer(self.0)
            }
        }
    };
}

failure_of! {
    /// Of handlers under `/v1`.
    OpenAiFailure = OpenAi
}
failure_of! {
    /// Of handlers under `/api`.
    ApiFailure = Management
}

#[expect(clippy::needless_pass_by_value, reason = "a handler's signature")]
pub fn wrong_method(request: Request) -> Ready<Response> {
    let face = Face::of(request.uri().path(), request.headers());
    let error = ServiceError::not_found(format!("{} {}", request.method(), request.uri().path()));
    ready(face.answer(Failure::with_status(StatusCode::METHOD_NOT_ALLOWED, error)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bodies_of_both_rest_faces() {
        let error = ServiceError::insufficient_memory(9_000_000_000, 5).with("field", "x");
        assert_eq!(
            envelope(&error)["error"]["details"],
            json!({"available_bytes": 5, "field": "x", "required_bytes": 9_000_000_000_i64})
        );
        let body = openai_body(&ServiceError::model_not_found("x"));
        assert_eq!(
            body,
            json!({"error": {"message": "Model not found: 'x'.", "type": "invalid_request_error",
                "param": null, "code": "model_not_found"}})
        );
        assert_eq!(openai_body(&ServiceError::queue_full(3))["error"]["type"], "rate_limit_error");
    }
}
