//! What the services of all resources share: pages, times, and writes that run to their end.

use std::time::SystemTime;

use millm_kit::{ServiceError, request_id};
use prost_types::Timestamp;
use tokio_util::task::TaskTracker;

/// A page has fewer resources rather than more bytes: gRPC clients refuse messages over 4 MiB by default.
pub(crate) const MAX_PAGE_BYTES: usize = 2 << 20;
/// Attempts while other catalogs write the same row or handle.
pub(crate) const MAX_ATTEMPTS: usize = 16;

/// Returns the number of resources that a page may have.
///
/// # Errors
///
/// INVALID_ARGUMENT for a negative number.
pub(crate) fn page_size(asked: i32) -> Result<usize, ServiceError> {
    match asked {
        0 => Ok(100),
        size if size < 0 => Err(ServiceError::invalid_argument("page_size", "must not be negative")),
        size => Ok(size.min(1000) as usize),
    }
}

/// Returns the token of the page after the resource with this id.
pub(crate) fn page_token(last: i64) -> String {
    format!("p{last:x}")
}

/// Returns the id after which a page begins.
///
/// # Errors
///
/// INVALID_ARGUMENT for a token that [`page_token`] did not make.
pub(crate) fn page_start(token: &str) -> Result<i64, ServiceError> {
    if token.is_empty() {
        return Ok(0);
    }
    token_id(token, 'p').ok_or_else(invalid_token)
}

/// Returns the id in a token that begins with `kind`.
pub(crate) fn token_id(token: &str, kind: char) -> Option<i64> {
    i64::from_str_radix(token.strip_prefix(kind)?, 16).ok().filter(|id| *id >= 0)
}

/// Returns the error for a token that no list returned.
pub(crate) fn invalid_token() -> ServiceError {
    ServiceError::invalid_argument("page_token", "is not one that a list returned")
}

/// Returns the time in whole microseconds, the precision of both databases.
pub(crate) fn now() -> Timestamp {
    let mut now = Timestamp::from(SystemTime::now());
    now.nanos -= now.nanos % 1000;
    now
}

/// Runs `write` to its end even if the caller cancels the call, so that each written change is also published.
///
/// # Errors
///
/// The error of `write`, or INTERNAL if it panicked.
pub(crate) async fn run_to_completion<T: Send + 'static>(
    tasks: &TaskTracker,
    write: impl Future<Output = Result<T, ServiceError>> + Send + 'static,
) -> Result<T, ServiceError> {
    tasks.spawn(request_id::inherit(write)).await.unwrap_or_else(|panic| Err(ServiceError::internal(panic)))
}
