//! The management REST's envelope: `{success, data, error{code, message, details}}`.

use axum::{
    Json,
    extract::{FromRequest, Request, rejection::JsonRejection},
    response::{IntoResponse, Response},
};
use http::{HeaderValue, StatusCode, header};
use millm_kit::{Reason, ServiceError};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};

pub type Reply<T> = Result<Success<T>, Failure>;

/// 200 with `data`.
#[derive(Debug)]
pub struct Success<T>(pub T);

/// The error's own HTTP status, with `Retry-After` when there is one.
#[derive(Debug)]
pub struct Failure(pub ServiceError, Option<StatusCode>);

impl<T: Serialize> IntoResponse for Success<T> {
    fn into_response(self) -> Response {
        Json(json!({ "success": true, "data": self.0, "error": null })).into_response()
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let Self(error, status) = self;
        let status = status
            .or_else(|| StatusCode::from_u16(error.http_status()).ok())
            .unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let body = Json(json!({ "success": false, "data": null, "error": error_json(&error) }));
        let mut response = (status, body).into_response();
        if let Some(after) = error.retry_after {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(after.as_secs().max(1)));
        }
        response
    }
}

/// `{code, message, details}`; details that are numbers come as numbers.
pub fn error_json(error: &ServiceError) -> Value {
    let number = |text: &String| text.parse::<i64>().map_or_else(|_| json!(text), |n| json!(n));
    let details: serde_json::Map<_, _> = error.details.iter().map(|(key, text)| (key.clone(), number(text))).collect();
    json!({ "code": error.reason.name(), "message": error.message, "details": details })
}

impl From<ServiceError> for Failure {
    fn from(error: ServiceError) -> Self {
        Self(error, None)
    }
}

impl From<tonic::Status> for Failure {
    fn from(status: tonic::Status) -> Self {
        Self(status.into(), None)
    }
}

/// A JSON body whose mistakes come back in the envelope, naming the place.
pub struct Body<T>(pub T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for Body<T> {
    type Rejection = Failure;

    async fn from_request(request: Request, state: &S) -> Result<Self, Failure> {
        match Json::from_request(request, state).await {
            Ok(Json(value)) => Ok(Self(value)),
            Err(rejection) => {
                let status = match &rejection {
                    JsonRejection::MissingJsonContentType(_) => StatusCode::UNSUPPORTED_MEDIA_TYPE,
                    JsonRejection::BytesRejection(cause) => cause.status(),
                    _ => StatusCode::BAD_REQUEST,
                };
                let error = ServiceError::new(Reason::InvalidArgument, format!("{}.", rejection.body_text()));
                Err(Failure(error, Some(status)))
            }
        }
    }
}
