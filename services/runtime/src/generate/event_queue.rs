//! The queue of events from the engine's thread to a request's stream.
//!
//! The engine never waits for the queue, whose bytes are limited. If the stream is dropped, or its reader is too slow,
//! the queue closes and the engine stops the generation.

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use millm_engine::{Event, Sink, Token};
use millm_kit::ServiceError;
use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::loader::RequestGuard;

/// The most unread bytes of a queue: about a hundred thousand tokens, or twenty thousand with their alternatives.
pub(crate) const MAX_UNREAD_BYTES: usize = 8 << 20;
/// The unread bytes of all queues of the process above which each queue is limited to [`MIN_UNREAD_BYTES`].
const MAX_TOTAL_UNREAD_BYTES: usize = 256 << 20;
/// The unread bytes that every queue may have. A reader that keeps up never has as many.
const MIN_UNREAD_BYTES: usize = 64 << 10;

/// The unread bytes of all queues.
static UNREAD: AtomicUsize = AtomicUsize::new(0);

#[derive(Default)]
struct Queue {
    events: VecDeque<Event>,
    bytes: usize,
    state: State,
}

#[derive(Default, Clone, Copy, PartialEq, Eq)]
enum State {
    #[default]
    Open,
    /// The engine has dropped its end. Queued events may still be read.
    Ended,
    /// More than this limit of bytes was unread.
    Overrun(usize),
    /// The reader has dropped its end.
    Abandoned,
}

impl Queue {
    /// Appends an event. Returns false if nobody will read it.
    fn push(&mut self, event: Event) -> bool {
        if self.state != State::Open {
            return false;
        }
        let size = bytes(&event);
        let is_crowded = UNREAD.load(Ordering::Relaxed) + size > MAX_TOTAL_UNREAD_BYTES;
        let limit = if is_crowded { MIN_UNREAD_BYTES } else { MAX_UNREAD_BYTES };
        let is_end = matches!(event, Event::End { .. });
        if !self.events.is_empty() && self.bytes + size > limit && !is_end {
            self.clear();
            self.state = State::Overrun(limit);
            return false;
        }
        self.bytes += size;
        UNREAD.fetch_add(size, Ordering::Relaxed);
        self.events.push_back(event);
        true
    }

    fn pop(&mut self) -> Option<Event> {
        let event = self.events.pop_front()?;
        let size = bytes(&event);
        self.bytes -= size;
        UNREAD.fetch_sub(size, Ordering::Relaxed);
        Some(event)
    }

    fn clear(&mut self) {
        UNREAD.fetch_sub(self.bytes, Ordering::Relaxed);
        (self.events, self.bytes) = (VecDeque::new(), 0);
    }
}

/// Returns the bytes of memory of an event.
fn bytes(event: &Event) -> usize {
    let of = |token: &Token| size_of::<Token>() + size_of_val(token.top.as_slice());
    size_of::<Event>()
        + match event {
            Event::Started { prompt } => prompt.iter().flatten().map(of).sum(),
            Event::Token(token) => size_of_val(token.top.as_slice()),
            Event::End { .. } => 0,
        }
}

#[derive(Default)]
struct Shared {
    queue: Mutex<Queue>,
    changed: Notify,
}

/// The engine's end of the queue.
struct Sender<T> {
    shared: Arc<Shared>,
    /// The request counts as pending until its end is sent, or the engine drops this.
    guard: Option<T>,
}

impl<T: Send> Sink for Sender<T> {
    fn send(&mut self, event: Event) -> bool {
        if matches!(event, Event::End { .. }) {
            // Dropped before the end is sent, so that the model is not in use when the end is seen.
            self.guard = None;
        }
        let sent = self.shared.queue.lock().push(event);
        self.shared.changed.notify_one();
        sent
    }

    fn closed(&self) -> bool {
        self.shared.queue.lock().state != State::Open
    }
}

impl<T> Drop for Sender<T> {
    fn drop(&mut self) {
        let mut queue = self.shared.queue.lock();
        if queue.state == State::Open {
            queue.state = State::Ended;
        }
        drop(queue);
        self.shared.changed.notify_one();
    }
}

/// The reader's end of the queue.
pub(crate) struct Receiver(Arc<Shared>);

impl Receiver {
    /// Waits for the next event. Returns `None` after the last one.
    ///
    /// # Errors
    ///
    /// CANCELLED if too many bytes were unread.
    pub async fn recv(&mut self) -> Result<Option<Event>, ServiceError> {
        loop {
            {
                let mut queue = self.0.queue.lock();
                if let Some(event) = queue.pop() {
                    return Ok(Some(event));
                }
                match queue.state {
                    State::Open => {}
                    State::Overrun(limit) => return Err(ServiceError::response_not_read(limit)),
                    State::Ended | State::Abandoned => return Ok(None),
                }
            }
            self.0.changed.notified().await;
        }
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        let mut queue = self.0.queue.lock();
        queue.clear();
        queue.state = State::Abandoned;
    }
}

/// Returns both ends of an empty queue. `guard` keeps the model in use.
pub(crate) fn event_queue(guard: RequestGuard) -> (Box<dyn Sink>, Receiver) {
    let (sender, receiver) = pair(guard);
    (Box::new(sender), receiver)
}

fn pair<T>(guard: T) -> (Sender<T>, Receiver) {
    let shared = Arc::new(Shared::default());
    (Sender { shared: Arc::clone(&shared), guard: Some(guard) }, Receiver(shared))
}

#[cfg(test)]
mod tests {
    use millm_engine::EndReason;
    use millm_kit::Reason;

    use super::*;

    fn token(top: usize) -> Event {
        Event::Token(Token { id: 7, logprob: Some(-1.0), top: vec![(1, -2.0); top] })
    }

    fn end() -> Event {
        Event::End { reason: EndReason::Length, prompt_tokens: 1, cached: 0, generated: 1 }
    }

    #[tokio::test]
    async fn sent_events_arrive_and_leave_no_bytes_behind() {
        let guard = Arc::new(());
        let (mut sink, mut receiver) = pair(Arc::clone(&guard));
        let events = [Event::Started { prompt: None }, token(20), token(0), end()];
        for event in &events {
            assert!(sink.send(event.clone()) && !sink.closed());
        }
        assert_eq!(Arc::strong_count(&guard), 1, "the end drops the guard");
        drop(sink);
        for event in events {
            assert_eq!(receiver.recv().await.unwrap(), Some(event));
        }
        assert_eq!(receiver.recv().await.unwrap(), None);
        assert_eq!(UNREAD.load(Ordering::Relaxed), 0);
    }

    #[tokio::test]
    async fn an_unread_response_is_cancelled_and_freed() {
        let (mut sink, mut receiver) = pair(());
        let mut sent = 0;
        while sink.send(token(20)) {
            sent += bytes(&token(20));
            assert!(sent <= MAX_UNREAD_BYTES);
        }
        assert!(sink.closed() && !sink.send(end()));
        assert!(sent > MAX_UNREAD_BYTES - 1000);
        assert_eq!((UNREAD.load(Ordering::Relaxed), sink.shared.queue.lock().events.capacity()), (0, 0));
        let error = receiver.recv().await.unwrap_err();
        assert_eq!(error.reason, Reason::Cancelled);
        assert!(error.message.contains("8388608"), "{}", error.message);
    }

    #[tokio::test]
    async fn many_unread_responses_share_a_limit() {
        let fill = || {
            let (mut sink, receiver) = pair(());
            let mut full = 0;
            while full + bytes(&token(20)) < MAX_UNREAD_BYTES && sink.send(token(20)) {
                full += bytes(&token(20));
            }
            (sink, receiver)
        };
        let held: Vec<_> = (0..72).map(|_| fill()).collect();
        assert!(UNREAD.load(Ordering::Relaxed) <= MAX_TOTAL_UNREAD_BYTES + 72 * MIN_UNREAD_BYTES);
        assert!(held[0].1.0.queue.lock().bytes > MIN_UNREAD_BYTES && !held[0].0.closed());
        // A fast reader is not affected by slow ones.
        let (mut sink, mut receiver) = pair(());
        for _ in 0..10_000 {
            assert!(sink.send(token(20)));
            receiver.recv().await.unwrap();
        }
        drop((held, sink, receiver));
        assert_eq!(UNREAD.load(Ordering::Relaxed), 0);
    }

    #[tokio::test]
    async fn a_dropped_reader_closes_the_queue() {
        let (mut sink, receiver) = pair(());
        assert!(sink.send(token(1)));
        drop(receiver);
        assert!(sink.closed() && !sink.send(token(1)));
        assert_eq!(UNREAD.load(Ordering::Relaxed), 0);
    }
}
