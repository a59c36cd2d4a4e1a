//! From the engine's thread to a request's stream: a channel with room for the whole answer, so the engine never
//! waits. When the stream is dropped the engine sees it and stops that generation.

use millm_engine::{Event, Sink};
use tokio::sync::mpsc;

use crate::loader::Turn;

/// Room beside the tokens: `Started` and `End`.
const FRAME: usize = 2;

struct Channel {
    events: mpsc::Sender<Event>,
    /// The request counts as pending until its end is sent, or the engine lets go of it.
    turn: Option<Turn>,
}

impl Sink for Channel {
    fn send(&mut self, event: Event) -> bool {
        if matches!(event, Event::End { .. }) {
            // First: who hears of the end finds the model free.
            self.turn = None;
        }
        self.events.try_send(event).is_ok()
    }

    fn closed(&self) -> bool {
        self.events.is_closed()
    }
}

/// For an answer of at most `tokens` tokens.
pub fn channel(tokens: usize, turn: Turn) -> (Box<dyn Sink>, mpsc::Receiver<Event>) {
    let (events, received) = mpsc::channel(tokens + FRAME);
    (Box::new(Channel { events, turn: Some(turn) }), received)
}
