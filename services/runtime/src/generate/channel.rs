//! From the engine's thread to a request's stream: a queue that the engine never waits for, bounded by its bytes. When
//! the stream is dropped, or its reader falls too far behind, the engine sees it and stops that generation.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

use millm_engine::{Event, Sink, Token};
use millm_kit::ServiceError;
use tokio::sync::Notify;

use crate::loader::Turn;

/// Of one answer that waits to be read: some hundred thousand tokens, or twenty thousand with the likeliest beside each.
pub const MOST_UNREAD: usize = 8 << 20;
/// Of all of them in this process.
const MOST_UNREAD_IN_ALL: usize = 256 << 20;
/// Of one answer while they are more than that: a reader that keeps up never has so much.
const LEAST_UNREAD: usize = 64 << 10;

/// Bytes that wait in all queues.
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
    /// The engine has let go of it; what is queued may still be read.
    Ended,
    /// More than this many bytes were not read.
    Overrun(usize),
    /// Nobody reads any more.
    Gone,
}

impl Queue {
    /// Whether the receiver is there to read it.
    fn push(&mut self, event: Event) -> bool {
        if self.state != State::Open {
            return false;
        }
        let size = bytes(&event);
        let crowded = UNREAD.load(Ordering::Relaxed) + size > MOST_UNREAD_IN_ALL;
        let most = if crowded { LEAST_UNREAD } else { MOST_UNREAD };
        let is_end = matches!(event, Event::End { .. });
        if !self.events.is_empty() && self.bytes + size > most && !is_end {
            self.clear();
            self.state = State::Overrun(most);
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

/// What an event takes of memory.
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
    news: Notify,
}

impl Shared {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct Channel<T> {
    shared: Arc<Shared>,
    /// The request counts as pending until its end is sent, or the engine lets go of it.
    turn: Option<T>,
}

impl<T: Send> Sink for Channel<T> {
    fn send(&mut self, event: Event) -> bool {
        if matches!(event, Event::End { .. }) {
            // First: who hears of the end finds the model free.
            self.turn = None;
        }
        let sent = self.shared.queue().push(event);
        self.shared.news.notify_one();
        sent
    }

    fn closed(&self) -> bool {
        self.shared.queue().state != State::Open
    }
}

impl<T> Drop for Channel<T> {
    fn drop(&mut self) {
        let mut queue = self.shared.queue();
        if queue.state == State::Open {
            queue.state = State::Ended;
        }
        drop(queue);
        self.shared.news.notify_one();
    }
}

/// Where a request's events arrive.
pub struct Receiver(Arc<Shared>);

impl Receiver {
    /// `None` after the last event. CANCELLED when too much was left unread.
    pub async fn recv(&mut self) -> Result<Option<Event>, ServiceError> {
        loop {
            {
                let mut queue = self.0.queue();
                if let Some(event) = queue.pop() {
                    return Ok(Some(event));
                }
                match queue.state {
                    State::Open => {}
                    State::Overrun(most) => return Err(ServiceError::answer_not_read(most)),
                    State::Ended | State::Gone => return Ok(None),
                }
            }
            self.0.news.notified().await;
        }
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        let mut queue = self.0.queue();
        queue.clear();
        queue.state = State::Gone;
    }
}

pub fn channel(turn: Turn) -> (Box<dyn Sink>, Receiver) {
    let (channel, receiver) = pair(turn);
    (Box::new(channel), receiver)
}

fn pair<T>(turn: T) -> (Channel<T>, Receiver) {
    let shared = Arc::new(Shared::default());
    (Channel { shared: Arc::clone(&shared), turn: Some(turn) }, Receiver(shared))
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
    async fn what_is_sent_arrives_and_leaves_nothing_behind() {
        let turn = Arc::new(());
        let (mut sink, mut receiver) = pair(Arc::clone(&turn));
        let events = [Event::Started { prompt: None }, token(20), token(0), end()];
        for event in &events {
            assert!(sink.send(event.clone()) && !sink.closed());
        }
        assert_eq!(Arc::strong_count(&turn), 1, "the end gives up the turn");
        drop(sink);
        for event in events {
            assert_eq!(receiver.recv().await.unwrap(), Some(event));
        }
        assert_eq!(receiver.recv().await.unwrap(), None);
        assert_eq!(UNREAD.load(Ordering::Relaxed), 0);
    }

    #[tokio::test]
    async fn an_answer_that_nobody_reads_is_cancelled_and_forgotten() {
        let (mut sink, mut receiver) = pair(());
        let mut sent = 0;
        while sink.send(token(20)) {
            sent += bytes(&token(20));
            assert!(sent <= MOST_UNREAD);
        }
        assert!(sink.closed() && !sink.send(end()));
        assert!(sent > MOST_UNREAD - 1000);
        assert_eq!((UNREAD.load(Ordering::Relaxed), sink.shared.queue().events.capacity()), (0, 0));
        let error = receiver.recv().await.unwrap_err();
        assert_eq!(error.reason, Reason::Cancelled);
        assert!(error.message.contains("8388608"), "{}", error.message);
    }

    #[tokio::test]
    async fn many_answers_that_nobody_reads_share_a_bound() {
        let fill = || {
            let (mut sink, receiver) = pair(());
            let mut full = 0;
            while full + bytes(&token(20)) < MOST_UNREAD && sink.send(token(20)) {
                full += bytes(&token(20));
            }
            (sink, receiver)
        };
        let held: Vec<_> = (0..72).map(|_| fill()).collect();
        assert!(UNREAD.load(Ordering::Relaxed) <= MOST_UNREAD_IN_ALL + 72 * LEAST_UNREAD);
        assert!(held[0].1.0.queue().bytes > LEAST_UNREAD && !held[0].0.closed());
        // Who reads is not hurt by those who do not.
        let (mut sink, mut receiver) = pair(());
        for _ in 0..10_000 {
            assert!(sink.send(token(20)));
            receiver.recv().await.unwrap();
        }
        drop((held, sink, receiver));
        assert_eq!(UNREAD.load(Ordering::Relaxed), 0);
    }

    #[tokio::test]
    async fn a_reader_that_leaves_is_seen() {
        let (mut sink, receiver) = pair(());
        assert!(sink.send(token(1)));
        drop(receiver);
        assert!(sink.closed() && !sink.send(token(1)));
        assert_eq!(UNREAD.load(Ordering::Relaxed), 0);
    }
}
