//! Errors in the words of each protocol: OpenAI's body under `/v1`, the envelope under `/api` and elsewhere, a status for
//! gRPC. Handlers answer with a [`Failure`]; [`render`] writes it, with the request's id.

use std::{any::Any, time::Duration};

use axum::{
    Json,
    extract::{
        Request,
        rejection::{PathRejection, QueryRejection},
    },
    http::{HeaderMap, HeaderValue, StatusCode, header},
    middleware::Next,
    response::{IntoResponse, Response},
};
use millm_api::{Error, openai::ErrorBody};
use millm_kit::{Reason, RequestId, ServiceError, panics};
use tonic::Status;

/// The time after which a request for a model that is not loaded may succeed.
const RETRY_UNLOADED: Duration = Duration::from_secs(2);

/// A service's error with the HTTP status it gets: the table's, but for what only HTTP knows (405, 413, 415, 431).
#[derive(Debug, Clone)]
pub struct Failure {
    /// The HTTP status.
    pub status: StatusCode,
    /// The error.
    pub error: ServiceError,
}

impl Failure {
    /// Returns the failure with another status than the table's.
    pub fn with_status(status: StatusCode, error: ServiceError) -> Self {
        Self { status, error }
    }

    /// Answers a handler's panic. The message of the panic is for the log.
    #[expect(clippy::needless_pass_by_value, reason = "the signature that the layer asks for")]
    pub fn of_panic(panic: Box<dyn Any + Send>) -> Response {
        Self::from(ServiceError::internal(panics::message(&*panic))).into_response()
    }
}

impl From<ServiceError> for Failure {
    fn from(error: ServiceError) -> Self {
        let status = StatusCode::from_u16(error.http_status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        Self { status, error }
    }
}

impl From<PathRejection> for Failure {
    fn from(rejection: PathRejection) -> Self {
        let error = ServiceError::invalid_argument("path", format!("is wrong: {}", rejection.body_text()));
        Self::with_status(rejection.status(), error)
    }
}

impl From<QueryRejection> for Failure {
    /// Names the parameter that is wrong.
    fn from(rejection: QueryRejection) -> Self {
        type ParameterError = serde_path_to_error::Error<serde::de::value::Error>;
        let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(&rejection);
        while let Some(error) = cause {
            if let Some(parameter) = error.downcast_ref::<ParameterError>() {
                let why = format!("is wrong: {}", parameter.inner());
                return ServiceError::invalid_argument(&parameter.path().to_string(), why).into();
            }
            cause = error.source();
        }
        ServiceError::invalid_argument("query", format!("is wrong: {}", rejection.body_text())).into()
    }
}

impl IntoResponse for Failure {
    /// Returns an empty response that carries the failure to [`render`], which knows the caller's protocol.
    fn into_response(self) -> Response {
        let mut response = self.status.into_response();
        response.extensions_mut().insert(self);
        response
    }
}

/// The protocol of a caller, which decides the form of errors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// OpenAI's REST API: `/v1`.
    OpenAi,
    /// The management REST API, and everything else over plain HTTP.
    Management,
    /// gRPC and gRPC-web.
    Grpc,
}

impl Protocol {
    /// Returns the protocol of a request.
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

    fn answer(self, failure: Failure, id: Option<&str>) -> Response {
        let Failure { mut status, mut error } = failure;
        if self == Self::OpenAi && error.reason == Reason::ModelNotLoaded {
            // Not the request is wrong, but the moment: the same one works once the model is loaded.
            status = StatusCode::SERVICE_UNAVAILABLE;
            error = error.retry_after(RETRY_UNLOADED);
        }
        let retry_after = error.retry_after.map(|after| after.as_secs().max(1));
        let mut response = match self {
            Self::OpenAi => (status, Json(ErrorBody::new(&error, id))).into_response(),
            Self::Management => {
                let error = Error::from(&error).of_request(id);
                (status, Json(millm_api::Failure::new(error))).into_response()
            }
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

/// A middleware: writes the [`Failure`] that a handler answered with, in the caller's protocol. Headers that inner layers
/// have set stay.
pub async fn render(request: Request, next: Next) -> Response {
    let protocol = Protocol::of(request.uri().path(), request.headers());
    let id = RequestId::from_headers(request.headers());
    let mut response = next.run(request).await;
    let Some(failure) = response.extensions_mut().remove::<Failure>() else { return response };
    let mut answer = protocol.answer(failure, id.as_ref().map(RequestId::as_str));
    for (name, value) in response.headers() {
        if !matches!(*name, header::CONTENT_TYPE | header::CONTENT_LENGTH) {
            answer.headers_mut().append(name, value.clone());
        }
    }
    answer
}

/// Answers a known path that is asked with another method.
pub async fn method_not_allowed(request: Request) -> Failure {
    let error = ServiceError::not_found(format!("{} {}", request.method(), request.uri().path()));
    Failure::with_status(StatusCode::METHOD_NOT_ALLOWED, error)
}
