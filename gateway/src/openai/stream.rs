//! Answers that come as server-sent events: `data: {…}` until `data: [DONE]`.

use std::{convert::Infallible, panic::AssertUnwindSafe, time::Duration};

use axum::response::{
    IntoResponse, Response, Sse,
    sse::{Event, KeepAlive},
};
use futures::{Stream, StreamExt as _};
use millm_kit::{ServiceError, panics};
use serde_json::Value;

use crate::failure::openai_body;

/// An error becomes the last event: the status line has been sent already.
pub fn answer(chunks: impl Stream<Item = Result<Value, ServiceError>> + Send + 'static) -> Response {
    let events = async_stream::stream! {
        let mut chunks = std::pin::pin!(AssertUnwindSafe(chunks).catch_unwind());
        while let Some(chunk) = chunks.next().await {
            match chunk.unwrap_or_else(|panic| Err(ServiceError::internal(panics::said(&*panic)))) {
                Ok(chunk) => yield Ok(event(&chunk)),
                Err(error) => {
                    yield Ok(event(&openai_body(&error)));
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

fn event(value: &Value) -> Event {
    // JSON has no line breaks of its own.
    Event::default().data(value.to_string())
}
