//! Answers that come as server-sent events: `data: {…}` until `data: [DONE]`.

use std::{convert::Infallible, panic::AssertUnwindSafe, time::Duration};

use axum::response::{
    IntoResponse, Response, Sse,
    sse::{Event, KeepAlive},
};
use futures::{Stream, StreamExt as _};
use millm_api::openai::ErrorBody;
use millm_kit::{RequestId, ServiceError, panics, request_id};
use serde::Serialize;

/// Returns the text of an event: a chunk as JSON.
///
/// # Errors
///
/// INTERNAL when the chunk cannot be written.
pub fn text(chunk: &impl Serialize) -> Result<String, ServiceError> {
    serde_json::to_string(chunk).map_err(ServiceError::internal)
}

/// Returns the answer that sends each chunk (JSON) as an event. An error becomes the last event: the status line has been
/// sent already.
pub fn answer(chunks: impl Stream<Item = Result<String, ServiceError>> + Send + 'static) -> Response {
    let events = async_stream::stream! {
        let mut chunks = std::pin::pin!(AssertUnwindSafe(chunks).catch_unwind());
        while let Some(chunk) = chunks.next().await {
            match chunk.unwrap_or_else(|panic| Err(ServiceError::internal(panics::message(&*panic)))) {
                Ok(chunk) => yield Ok(Event::default().data(chunk)),
                Err(error) => {
                    // JSON has no line breaks of its own.
                    yield Ok(Event::default().data(error_text(&error)));
                    return;
                }
            }
        }
        yield Ok::<_, Infallible>(Event::default().data("[DONE]"));
    };
    let keep_alive = KeepAlive::new().interval(Duration::from_secs(15));
    // Proxies must not wait for more.
    ([("x-accel-buffering", "no")], Sse::new(events).keep_alive(keep_alive)).into_response()
}

fn error_text(error: &ServiceError) -> String {
    let id = request_id::current();
    let body = ErrorBody::new(error, id.as_ref().map(RequestId::as_str));
    serde_json::to_string(&body).expect("an error's body has texts alone")
}
