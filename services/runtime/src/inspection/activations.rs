//! Activations of prompts: computed by the serving path, and streamed as they come.
//!
//! The engine holds a capture back while its stream has too much to send, so a slow reader costs no memory.

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use async_stream::try_stream;
use futures::Stream;
use millm_engine::{CaptureError, CaptureRequest, CaptureRows, CaptureSink, MAX_CAPTURE_SEQUENCES};
use millm_extraction::DataType;
use millm_kit::ServiceError;
use millm_model::Hook;
use millm_proto::{
    catalog::v1::ActivationType,
    inspection::v1::{ActivationChunk, Prompt, Prompts, prompt},
    runtime::v1::generate_request,
};
use parking_lot::Mutex;
use tokio::sync::Notify;
use tonic::Status;

use super::request::resolve_points;
use crate::{
    error,
    generate::prompt_tokens,
    loader::RequestGuard,
    model_finder::{Acquired, ModelFinder},
};

/// The most bytes of activations that wait to be sent, unless a single delivery is larger.
const MAX_WAITING_BYTES: usize = 16 << 20;
/// The most bytes of activations in a message, unless a single token has more.
const MESSAGE_BYTES: usize = 1 << 20;

/// Returns the type as the API names it.
pub(super) fn wire_type(dtype: DataType) -> ActivationType {
    match dtype {
        DataType::F32 => ActivationType::F32,
        DataType::F16 => ActivationType::F16,
        DataType::Bf16 => ActivationType::Bf16,
        DataType::I32 | DataType::Bool => ActivationType::Unspecified,
    }
}

/// Computes the activations of prompts at points. Dropping the stream cancels the rest.
///
/// # Errors
///
/// Errors before the first activation: INVALID_ARGUMENT with the field, HOOK_POINT_UNKNOWN, CONTEXT_LENGTH_EXCEEDED,
/// QUEUE_FULL, or the errors of a model that cannot be used.
pub(super) async fn of_prompts(
    models: &ModelFinder,
    prompts: Prompts,
    points: &[String],
    dtype: DataType,
) -> Result<impl Stream<Item = Result<ActivationChunk, Status>> + Send + use<>, ServiceError> {
    let Prompts { model, prompts } = prompts;
    let count = prompts.len();
    if count == 0 || count > MAX_CAPTURE_SEQUENCES {
        let why = format!("has {count} prompts: 1 to {MAX_CAPTURE_SEQUENCES} are possible");
        return Err(ServiceError::invalid_argument("prompts", why));
    }
    let Acquired { model, guard, handle } = models.acquire(&model).await?;
    let points = resolve_points(points, "", model.engine.spec(), &handle)?;
    let context = model.engine.context_length();
    let mut sequences = Vec::with_capacity(count);
    for (index, prompt) in prompts.into_iter().enumerate() {
        let tokens = prompt_tokens(&model.tokenizer, request_prompt(prompt), context).await;
        sequences.push(tokens.map_err(|error| in_prompt(index, error))?);
    }
    let shared = Arc::new(Shared::default());
    let hooks = points.iter().map(|point| point.hook).collect();
    let request = CaptureRequest { sequences: sequences.clone(), hooks };
    let sink = StreamSink { shared: Arc::clone(&shared), guard: Some(guard) };
    model.engine.capture(request, Box::new(sink)).map_err(|error| error::from_submit(&error, &handle))?;
    // The stream must not keep the model in memory.
    drop(model);
    let shapes: Vec<(Hook, Vec<usize>)> = points.into_iter().map(|point| (point.hook, point.shape)).collect();
    let reader = Reader { shared, shapes, sequences, dtype };
    Ok(try_stream! {
        while let Some(delivery) = reader.next().await.map_err(|error| error::from_capture(&error, &handle))? {
            for chunk in reader.chunks(&delivery) {
                yield chunk;
            }
        }
    })
}

/// Returns a prompt as requests have it.
fn request_prompt(prompt: Prompt) -> Option<generate_request::Prompt> {
    Some(match prompt.kind? {
        prompt::Kind::Text(text) => generate_request::Prompt::Text(text),
        prompt::Kind::TokenIds(ids) => generate_request::Prompt::TokenIds(ids),
        prompt::Kind::Messages(messages) => generate_request::Prompt::Messages(messages),
    })
}

/// Names the prompt in an error.
fn in_prompt(index: usize, error: ServiceError) -> ServiceError {
    ServiceError { message: format!("prompts[{index}]: {}", error.message), ..error }
}

/// Activations of consecutive tokens of one sequence.
struct Delivery {
    hook: Hook,
    sequence: usize,
    position: usize,
    /// Numbers of a token. Of attention: heads and keys.
    width: usize,
    /// Of attention; 0 for other points.
    keys: usize,
    values: Vec<f32>,
}

#[derive(Default)]
struct Queue {
    deliveries: VecDeque<Delivery>,
    /// Bytes that wait, with those that are being sent.
    bytes: usize,
    end: Option<Result<(), CaptureError>>,
}

#[derive(Default)]
struct Shared {
    queue: Mutex<Queue>,
    changed: Notify,
    abandoned: AtomicBool,
}

/// The engine's end.
struct StreamSink {
    shared: Arc<Shared>,
    /// The model is in use until the capture ends.
    guard: Option<RequestGuard>,
}

impl StreamSink {
    fn push(&self, delivery: Delivery) {
        if self.closed() {
            return;
        }
        let mut queue = self.shared.queue.lock();
        queue.bytes += size_of_val(delivery.values.as_slice());
        queue.deliveries.push_back(delivery);
        drop(queue);
        self.shared.changed.notify_one();
    }

    fn finish(&mut self, result: Result<(), CaptureError>) {
        // Dropped before the end is seen, so that the model is not in use then.
        self.guard = None;
        self.shared.queue.lock().end.get_or_insert(result);
        self.shared.changed.notify_one();
    }
}

impl CaptureSink for StreamSink {
    fn has_room(&self, bytes: usize) -> bool {
        let held = self.shared.queue.lock().bytes;
        held == 0 || held.saturating_add(bytes) <= MAX_WAITING_BYTES
    }

    fn receive(&mut self, hook: Hook, rows: &[CaptureRows], width: usize, states: &[f32]) {
        for CaptureRows { sequence, position, rows } in rows {
            let values = states[rows.start * width..rows.end * width].to_vec();
            self.push(Delivery { hook, sequence: *sequence, position: *position, width, keys: 0, values });
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
        let (sequence, position) = (rows.sequence, rows.position);
        let values = values.to_vec();
        self.push(Delivery { hook, sequence, position, width: heads * keys, keys, values });
    }

    fn end(mut self: Box<Self>, result: Result<(), CaptureError>) {
        self.finish(result);
    }

    fn closed(&self) -> bool {
        self.shared.abandoned.load(Ordering::Relaxed)
    }
}

impl Drop for StreamSink {
    fn drop(&mut self) {
        self.finish(Err(CaptureError::Failed("the engine dropped the capture without an end".to_owned())));
    }
}

/// The stream's end.
struct Reader {
    shared: Arc<Shared>,
    /// The shape of a token at each hook.
    shapes: Vec<(Hook, Vec<usize>)>,
    sequences: Vec<Vec<u32>>,
    dtype: DataType,
}

impl Reader {
    /// Waits for the next delivery; `None` after the last.
    async fn next(&self) -> Result<Option<Delivery>, CaptureError> {
        loop {
            {
                let mut queue = self.shared.queue.lock();
                if let Some(delivery) = queue.deliveries.pop_front() {
                    return Ok(Some(delivery));
                }
                if let Some(end) = &queue.end {
                    return end.clone().map(|()| None);
                }
                // Everything before has been sent.
                queue.bytes = 0;
            }
            self.shared.changed.notified().await;
        }
    }

    /// Cuts a delivery into messages, and makes room for others.
    fn chunks(&self, delivery: &Delivery) -> Vec<ActivationChunk> {
        let chunks = if delivery.keys > 0 { self.attention(delivery) } else { self.states(delivery) };
        let mut queue = self.shared.queue.lock();
        queue.bytes = queue.bytes.saturating_sub(size_of_val(delivery.values.as_slice()));
        chunks
    }

    fn states(&self, delivery: &Delivery) -> Vec<ActivationChunk> {
        let width = delivery.width.max(1);
        let rows = (MESSAGE_BYTES / (width * self.dtype.bytes())).max(1);
        let shape = self.shape(delivery.hook);
        let chunk = |(index, values): (usize, &[f32])| {
            let position = delivery.position + index * rows;
            let tokens = values.len() / width;
            let shape = std::iter::once(tokens).chain(shape.iter().copied()).collect::<Vec<_>>();
            self.chunk(delivery, position, &shape, values)
        };
        delivery.values.chunks(width * rows).enumerate().map(chunk).collect()
    }

    /// Sends a token of attention at a time, with the keys up to itself: more depends on how the engine cut the prompt.
    fn attention(&self, delivery: &Delivery) -> Vec<ActivationChunk> {
        let heads = delivery.width / delivery.keys;
        let rows = delivery.values.chunks(delivery.width.max(1)).enumerate();
        let chunk = |(offset, row): (usize, &[f32])| {
            let position = delivery.position + offset;
            let keys = (position + 1).min(delivery.keys);
            let values: Vec<f32> =
                row.chunks(delivery.keys).flat_map(|head| head[..keys].iter().copied()).collect();
            self.chunk(delivery, position, &[1, heads, keys], &values)
        };
        rows.map(chunk).collect()
    }

    fn chunk(
        &self,
        delivery: &Delivery,
        position: usize,
        shape: &[usize],
        values: &[f32],
    ) -> ActivationChunk {
        let mut data = Vec::new();
        self.dtype.encode(values, &mut data);
        let tokens = &self.sequences[delivery.sequence];
        let end = (position + shape[0]).min(tokens.len());
        ActivationChunk {
            point: delivery.hook.name(),
            sample: delivery.sequence as u64,
            position: position as u32,
            shape: shape.iter().map(|size| *size as u64).collect(),
            dtype: wire_type(self.dtype).into(),
            data,
            token_ids: tokens[position.min(end)..end].to_vec(),
        }
    }

    fn shape(&self, hook: Hook) -> &[usize] {
        self.shapes.iter().find(|(found, _)| *found == hook).map_or(&[], |(_, shape)| shape)
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.shared.abandoned.store(true, Ordering::Relaxed);
        let mut queue = self.shared.queue.lock();
        (queue.deliveries, queue.bytes) = (VecDeque::new(), 0);
    }
}

#[cfg(test)]
mod tests {
    use millm_model::HookPoint;

    use super::*;

    fn pair(dtype: DataType, shape: &[usize], hook: Hook) -> (StreamSink, Reader) {
        let shared = Arc::new(Shared::default());
        let sink = StreamSink { shared: Arc::clone(&shared), guard: None };
        let sequences = vec![(0..600).collect()];
        (sink, Reader { shared, shapes: vec![(hook, shape.to_vec())], sequences, dtype })
    }

    #[tokio::test]
    async fn deliveries_are_cut_into_messages() {
        let hook = Hook::at(HookPoint::HeadOutput, 0);
        let (mut sink, reader) = pair(DataType::F16, &[2, 512], hook);
        let states = vec![1.5f32; 1000 * 1024];
        let rows = [CaptureRows { sequence: 0, position: 0, rows: 100..700 }];
        sink.receive(hook, &rows, 1024, &states);
        assert!(sink.has_room(1 << 20) && !sink.has_room(MAX_WAITING_BYTES));
        let delivery = reader.next().await.unwrap().unwrap();
        let chunks = reader.chunks(&delivery);
        assert!(sink.has_room(usize::MAX), "everything is sent");
        assert_eq!(chunks.iter().map(|chunk| chunk.shape[0]).collect::<Vec<_>>(), [512, 88]);
        assert_eq!((chunks[1].position, chunks[1].token_ids[0]), (512, 512));
        assert_eq!((chunks[1].shape[1..].to_vec(), &chunks[1].data[..2]), (vec![2, 512], &[0x00, 0x3e][..]));
    }

    #[tokio::test]
    async fn attention_has_the_keys_up_to_its_token() {
        let hook = Hook::at(HookPoint::AttnPattern, 0);
        let (mut sink, reader) = pair(DataType::F32, &[2, 0], hook);
        let values: Vec<f32> = (0..2 * 2 * 3).map(|value| value as f32).collect();
        sink.receive_attention(hook, &CaptureRows { sequence: 0, position: 1, rows: 0..2 }, 2, 3, &values);
        let delivery = reader.next().await.unwrap().unwrap();
        let chunks = reader.chunks(&delivery);
        assert_eq!(chunks[0].shape, [1, 2, 2]);
        assert_eq!(chunks[1].shape, [1, 2, 3]);
        let mut numbers = Vec::new();
        DataType::F32.decode(&chunks[0].data, &mut numbers);
        assert_eq!(numbers, [0.0, 1.0, 3.0, 4.0]);
    }

    #[tokio::test]
    async fn a_dropped_reader_cancels_the_capture() {
        let hook = Hook::at(HookPoint::ResidPost, 0);
        let (mut sink, reader) = pair(DataType::F32, &[4], hook);
        assert!(!sink.closed());
        drop(reader);
        assert!(sink.closed());
        sink.receive(hook, &[CaptureRows { sequence: 0, position: 0, rows: 0..1 }], 4, &[0.0; 4]);
        assert!(sink.has_room(1));
    }

    #[tokio::test]
    async fn the_end_comes_after_all_deliveries() {
        let hook = Hook::at(HookPoint::ResidPost, 0);
        let (mut sink, reader) = pair(DataType::F32, &[4], hook);
        sink.receive(hook, &[CaptureRows { sequence: 0, position: 0, rows: 0..1 }], 4, &[0.0; 4]);
        Box::new(sink).end(Err(CaptureError::OutOfMemory));
        assert!(reader.next().await.unwrap().is_some());
        assert_eq!(reader.next().await.err(), Some(CaptureError::OutOfMemory));
        let (sink, reader) = pair(DataType::F32, &[4], hook);
        drop(sink);
        assert!(matches!(reader.next().await.err(), Some(CaptureError::Failed(_))));
    }
}
