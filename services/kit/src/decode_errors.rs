//! Status codes for request messages that cannot be decoded.
//!
//! tonic answers OUT_OF_RANGE to an oversized message and INTERNAL to a malformed one, which blames the server. This
//! middleware turns them into RESOURCE_EXHAUSTED and INVALID_ARGUMENT, as the API contract says.

use axum::{extract::Request, middleware::Next, response::Response};
use http::HeaderValue;
use tonic::{Code, Status};

/// Corrects the status code of decoding failures.
///
/// Errors that a handler raised carry error details and pass unchanged.
pub(crate) async fn correct_status(request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    let headers = response.headers_mut();
    let has_details = headers.contains_key(Status::GRPC_STATUS_DETAILS);
    let code = match headers.get(Status::GRPC_STATUS).map(HeaderValue::as_bytes) {
        Some(b"11") if !has_details => Code::ResourceExhausted,
        Some(b"13" | b"15") if !has_details => Code::InvalidArgument,
        _ => return response,
    };
    headers.insert(Status::GRPC_STATUS, HeaderValue::from(code as i32));
    response
}
