//! Messages that could not be read, in the codes of the contract: what is too large is RESOURCE_EXHAUSTED, what is
//! malformed INVALID_ARGUMENT. tonic says OUT_OF_RANGE and INTERNAL, which blames the server.

use axum::{extract::Request, middleware::Next, response::Response};
use http::HeaderValue;
use tonic::{Code, Status};

/// A middleware around tonic's own routes. Errors of handlers carry their reason and pass.
pub(crate) async fn judge(request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    let headers = response.headers_mut();
    let is_ours = headers.contains_key(Status::GRPC_STATUS_DETAILS);
    let code = match headers.get(Status::GRPC_STATUS).map(HeaderValue::as_bytes) {
        Some(b"11") if !is_ours => Code::ResourceExhausted,
        Some(b"13" | b"15") if !is_ours => Code::InvalidArgument,
        _ => return response,
    };
    headers.insert(Status::GRPC_STATUS, HeaderValue::from(code as i32));
    response
}
