//! From the engine to the writer: a sink for the activations of one batch, and the bounded queue behind it.
//!
//! The engine's thread copies what is kept and goes on. It holds the capture back while the queue is full, so memory does
//! not grow with the samples or with a slow disk.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
};

use millm_engine::{CaptureError, CaptureRows, CaptureSink};
use millm_model::hooks::Hook;
use parking_lot::{Condvar, Mutex};

use crate::{checkpoint::Done, error::Error, layout::Layout, plan::Positions};

/// The samples of a batch.
#[derive(Debug)]
pub(crate) struct BatchRows {
    /// The first sample's index within the job.
    pub first: u64,
    /// The tokens of each sample.
    pub tokens: Vec<Vec<u32>>,
}

/// Activations of consecutive tokens of one sample.
#[derive(Debug)]
pub(crate) struct Delivery {
    /// The point's index in the layout.
    pub point: usize,
    /// The sample's index within the batch.
    pub sample: usize,
    /// Of the first token.
    pub position: usize,
    /// Numbers of a token, or of one of its heads.
    pub width: usize,
    /// `[tokens, width]`, or `[tokens, heads, keys]` with the keys as width.
    pub values: Vec<f32>,
}

#[derive(Debug)]
pub(crate) enum Message {
    Begin(Arc<BatchRows>),
    Rows(Delivery),
    /// All activations of the batch have come.
    Commit,
    /// The batch ended early: nothing of it counts.
    Abort,
    /// No batch follows.
    Close,
}

#[derive(Debug, Default)]
struct State {
    messages: VecDeque<Message>,
    /// Bytes of activations that are not written yet.
    bytes: usize,
    /// Buffers for later deliveries.
    spare: Vec<Vec<f32>>,
    spare_bytes: usize,
}

/// The queue between the engine's thread and the writer's.
#[derive(Debug)]
pub(crate) struct Queue {
    state: Mutex<State>,
    pushed: Condvar,
    /// The most bytes, unless a single delivery is larger.
    limit: usize,
}

impl Queue {
    pub fn new(limit: usize) -> Self {
        Self { state: Mutex::default(), pushed: Condvar::new(), limit }
    }

    /// Returns whether `bytes` may come. An empty queue takes any delivery, so that none waits forever.
    pub fn has_room(&self, bytes: usize) -> bool {
        let held = self.state.lock().bytes;
        held == 0 || held.saturating_add(bytes) <= self.limit
    }

    /// Adds a message. Never waits: callers ask [`Queue::has_room`] first.
    pub fn push(&self, message: Message) {
        let mut state = self.state.lock();
        if let Message::Rows(delivery) = &message {
            state.bytes += size_of_val(delivery.values.as_slice());
        }
        state.messages.push_back(message);
        drop(state);
        self.pushed.notify_one();
    }

    /// Waits for the next message.
    pub fn pop(&self) -> Message {
        let mut state = self.state.lock();
        loop {
            if let Some(message) = state.messages.pop_front() {
                return message;
            }
            self.pushed.wait(&mut state);
        }
    }

    /// Gives the memory of a delivery back, after it was written. Some of it is kept for later ones.
    pub fn release(&self, mut values: Vec<f32>) {
        let mut state = self.state.lock();
        state.bytes -= size_of_val(values.as_slice());
        let bytes = buffer_bytes(&values);
        if state.spare_bytes + bytes <= self.limit / 4 {
            values.clear();
            state.spare_bytes += bytes;
            state.spare.push(values);
        }
    }

    /// Returns an empty buffer.
    fn buffer(&self) -> Vec<f32> {
        let mut state = self.state.lock();
        let Some(buffer) = state.spare.pop() else { return Vec::new() };
        state.spare_bytes -= buffer_bytes(&buffer);
        buffer
    }
}

fn buffer_bytes(buffer: &Vec<f32>) -> usize {
    buffer.capacity() * size_of::<f32>()
}

/// The state that batches and the writer's thread share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub queue: Queue,
    pub layout: Layout,
    /// The index of each hook in the layout.
    points: HashMap<Hook, usize>,
    progress: Mutex<Progress>,
}

#[derive(Debug, Default)]
struct Progress {
    done: Done,
    /// The first error of the writer. Nothing is written after it.
    error: Option<Error>,
    failed: bool,
}

impl Shared {
    pub fn new(layout: Layout, queue_bytes: usize, done: Done) -> Self {
        let points = layout.points.iter().enumerate().map(|(index, point)| (point.hook, index)).collect();
        let progress = Mutex::new(Progress { done, ..Progress::default() });
        Self { queue: Queue::new(queue_bytes), layout, points, progress }
    }

    /// Returns what is in the arrays and noted in the journal.
    pub fn done(&self) -> Done {
        self.progress.lock().done
    }

    pub fn set_done(&self, done: Done) {
        self.progress.lock().done = done;
    }

    pub fn fail(&self, error: Error) {
        let mut progress = self.progress.lock();
        progress.failed = true;
        progress.error.get_or_insert(error);
    }

    pub fn has_failed(&self) -> bool {
        self.progress.lock().failed
    }

    pub fn take_error(&self) -> Option<Error> {
        self.progress.lock().error.take()
    }
}

/// Is called when the engine has ended a batch. What it has computed may not be on the disk yet.
pub type Captured = Box<dyn FnOnce(Result<(), CaptureError>) + Send>;

/// The sink for the activations of one batch.
pub struct BatchSink {
    shared: Arc<Shared>,
    batch: Arc<BatchRows>,
    /// Why the engine's deliveries cannot be written.
    wrong: Option<String>,
    /// `None` when the batch has ended.
    captured: Option<Captured>,
    is_cancelled: Box<dyn Fn() -> bool + Send>,
}

impl BatchSink {
    pub(crate) fn new(
        shared: Arc<Shared>,
        batch: BatchRows,
        is_cancelled: Box<dyn Fn() -> bool + Send>,
        captured: Captured,
    ) -> Self {
        let batch = Arc::new(batch);
        shared.queue.push(Message::Begin(Arc::clone(&batch)));
        Self { shared, batch, wrong: None, captured: Some(captured), is_cancelled }
    }

    /// Returns the index of a point and the length of the sample that rows belong to, if the deliveries are as expected.
    fn check(
        &mut self,
        hook: Hook,
        rows: &CaptureRows,
        width: usize,
        values: usize,
    ) -> Option<(usize, usize)> {
        let why = self.check_rows(hook, rows, width, values);
        match why {
            Ok(found) => Some(found),
            Err(why) => {
                self.wrong.get_or_insert(why);
                None
            }
        }
    }

    fn check_rows(
        &self,
        hook: Hook,
        rows: &CaptureRows,
        width: usize,
        values: usize,
    ) -> Result<(usize, usize), String> {
        let Some(index) = self.shared.points.get(&hook).copied() else {
            return Err(format!("{} was not asked for", hook.name()));
        };
        let expected = self.shared.layout.points[index].dimensions();
        if width != expected {
            return Err(format!("{} has {width} numbers a token where {expected} are expected", hook.name()));
        }
        let length = self.batch.tokens.get(rows.sequence).map_or(0, Vec::len);
        let end = rows.position.saturating_add(rows.rows.len());
        if end > length {
            return Err(format!("{}: position {end} is beyond the sample's {length} tokens", hook.name()));
        }
        if rows.rows.end > values {
            return Err(format!(
                "{}: row {} is beyond the {values} rows that came",
                hook.name(),
                rows.rows.end
            ));
        }
        Ok((index, length))
    }

    /// Queues the rows that are kept: all in one delivery, or each chosen one in its own.
    fn queue(&self, kept: Kept, values: &[f32]) {
        let Kept { point, sample, position, length, row_numbers, width } = kept;
        let push = |position: usize, values: &[f32]| {
            let mut buffer = self.shared.queue.buffer();
            buffer.extend_from_slice(values);
            let delivery = Delivery { point, sample, position, width, values: buffer };
            self.shared.queue.push(Message::Rows(delivery));
        };
        let positions = &self.shared.layout.positions;
        if *positions == Positions::All {
            push(position, values);
            return;
        }
        for (offset, row) in values.chunks(row_numbers.max(1)).enumerate() {
            if positions.keep(position + offset, length) {
                push(position + offset, row);
            }
        }
    }

    fn finish(&mut self, result: Result<(), CaptureError>) {
        let Some(captured) = self.captured.take() else { return };
        let result = match self.wrong.take() {
            Some(why) => Err(CaptureError::Failed(why)),
            None => result,
        };
        self.shared.queue.push(if result.is_ok() { Message::Commit } else { Message::Abort });
        captured(result);
    }
}

/// Rows of one delivery, and where they belong.
struct Kept {
    point: usize,
    sample: usize,
    position: usize,
    /// Tokens of the sample.
    length: usize,
    row_numbers: usize,
    width: usize,
}

impl CaptureSink for BatchSink {
    fn has_room(&self, bytes: usize) -> bool {
        self.shared.has_failed() || self.shared.queue.has_room(bytes)
    }

    fn receive(&mut self, hook: Hook, rows: &[CaptureRows], width: usize, states: &[f32]) {
        let count = states.len() / width.max(1);
        for rows in rows {
            let Some((point, length)) = self.check(hook, rows, width, count) else { return };
            let (sample, position) = (rows.sequence, rows.position);
            let kept = Kept { point, sample, position, length, row_numbers: width, width };
            self.queue(kept, &states[rows.rows.start * width..rows.rows.end * width]);
        }
    }

    fn receive_attention(
        &mut self,
        hook: Hook,
        rows: &CaptureRows,
        heads: usize,
        keys: usize,
        values: &[f32],
    ) {
        let count = rows.rows.len();
        let row_numbers = heads.saturating_mul(keys);
        let own = CaptureRows { sequence: rows.sequence, position: rows.position, rows: 0..count };
        let came = values.len() / row_numbers.max(1);
        let Some((point, length)) = self.check(hook, &own, heads, came) else { return };
        if keys < rows.position + count {
            let why = format!("{} has {keys} keys at position {}", hook.name(), rows.position + count);
            self.wrong.get_or_insert(why);
            return;
        }
        let (sample, position) = (rows.sequence, rows.position);
        let kept = Kept { point, sample, position, length, row_numbers, width: keys };
        self.queue(kept, &values[..count * row_numbers]);
    }

    fn end(mut self: Box<Self>, result: Result<(), CaptureError>) {
        self.finish(result);
    }

    fn closed(&self) -> bool {
        self.wrong.is_some() || self.shared.has_failed() || (self.is_cancelled)()
    }
}

impl Drop for BatchSink {
    fn drop(&mut self) {
        self.finish(Err(CaptureError::Failed("the engine dropped the capture without an end".to_owned())));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(values: usize) -> Message {
        Message::Rows(Delivery { point: 0, sample: 0, position: 0, width: 1, values: vec![0.0; values] })
    }

    #[test]
    fn the_queue_is_bounded_by_bytes() {
        let queue = Queue::new(400);
        assert!(queue.has_room(1000), "an empty queue takes anything");
        queue.push(rows(20));
        assert!(queue.has_room(320) && !queue.has_room(321));
        let Message::Rows(delivery) = queue.pop() else { panic!("the first message") };
        assert!(!queue.has_room(321), "it is not written yet");
        queue.release(delivery.values);
        assert!(queue.has_room(1000));
        assert!(queue.buffer().capacity() >= 20, "memory is used again");
        queue.push(rows(60));
        let Message::Rows(delivery) = queue.pop() else { panic!("the next message") };
        queue.release(delivery.values);
        assert_eq!(queue.buffer().capacity(), 0, "not too much of it is kept");
    }

    #[test]
    fn messages_keep_their_order() {
        let queue = Queue::new(1);
        queue.push(rows(1));
        queue.push(Message::Commit);
        queue.push(Message::Close);
        assert!(matches!(queue.pop(), Message::Rows(_)));
        assert!(matches!(queue.pop(), Message::Commit));
        assert!(matches!(queue.pop(), Message::Close));
    }
}
