//! The engine: a thread that owns the model, its KV cache and its device. Callers send requests through a bounded
//! channel and receive events through their sinks. Nothing here is async.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TryRecvError, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use millm_model::{Checkpoint, ModelSpec};

use crate::candle::CandleDecoder;
use crate::capture::{CaptureError, CaptureOutput, CaptureRequest, CaptureSink, MAX_CAPTURES};
use crate::device::Device;
use crate::error::{Error, Result, from_panic};
use crate::forward::Forward;
use crate::forward::decoder::Decoder;
use crate::forward::load::{LoadProgress, LoadStage};
use crate::kv_cache::BlockPool;
use crate::options::EngineOptions;
use crate::request::{EndReason, Event, MAX_DRAFT_TOKENS, Request, Sink, SubmitError};
use crate::scheduler::Scheduler;
use crate::scheduler::core_budget::CoreBudget;
use crate::scheduler::sequence::send_end;
use crate::stats::{Counters, Stats};
use crate::sys::thread_pool::ThreadPool;

/// The most log-probabilities that a request can ask for with each token.
const MAX_TOP_LOGPROBS: usize = 128;

/// How long the thread waits before it asks the sink of a capture for room again, if there is nothing else to do. The
/// wait doubles each time.
const CAPTURE_WAIT: Duration = Duration::from_millis(1);
/// The longest such wait.
const MAX_CAPTURE_WAIT: Duration = Duration::from_millis(5);

/// A loaded, running model. Dropping it stops the thread and cancels all requests and captures.
pub struct Engine {
    spec: ModelSpec,
    context_length: usize,
    slots: usize,
    queue_capacity: usize,
    weight_bytes: u64,
    counters: Arc<Counters>,
    commands: SyncSender<Command>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

enum Command {
    Submit(Box<Request>, Box<dyn Sink>),
    Capture(Box<CaptureRequest>, CaptureOutput),
    CancelAll,
    Stop,
}

impl Engine {
    /// Reads the model into memory and starts its thread; blocks until then. Weights are copied: the checkpoint may
    /// be dropped afterwards. `progress` receives each tensor that is read.
    ///
    /// # Errors
    /// Returns an error if an option is out of range, the device cannot be used, memory is too little, or the
    /// checkpoint is damaged. A panic while loading is [`Error::Panicked`].
    pub fn load(
        checkpoint: &Checkpoint,
        options: &EngineOptions,
        progress: &mut dyn FnMut(LoadProgress<'_>),
    ) -> Result<Self> {
        let loaded = catch_unwind(AssertUnwindSafe(|| load_model(checkpoint, options, progress)));
        let model = loaded.unwrap_or_else(|panic| Err(from_panic(panic)))?;
        let spec = model.spec().clone();
        let blocks = BlockPool::new(options.kv_blocks(&spec));
        let context_length = options.context_length(&spec);
        let weight_bytes = model.weight_bytes();
        let counters = Arc::new(Counters::default());
        let scheduler = Scheduler::new(model, blocks, Arc::clone(&counters), options.limits(&spec));
        // Room for every request and capture that may be accepted, and some for control: sending hardly ever waits.
        let (commands, received) = sync_channel(options.slots + options.queue_capacity + MAX_CAPTURES + 4);
        let threads = options.threads();
        let thread = std::thread::Builder::new()
            .name("millm-engine".to_string())
            .spawn(move || serve(scheduler, &received, threads))
            .map_err(Error::Thread)?;
        progress(LoadProgress { stage: LoadStage::Ready, fraction: 1.0, tensor: None });
        let (slots, queue_capacity) = (options.slots, options.queue_capacity);
        let thread = Mutex::new(Some(thread));
        Ok(Self { spec, context_length, slots, queue_capacity, weight_bytes, counters, commands, thread })
    }

    /// Submits a request without waiting.
    ///
    /// # Errors
    /// Returns an error if the request is invalid, the queue is full, or the engine has stopped. The sink has then
    /// received nothing.
    pub fn submit(&self, request: Request, sink: Box<dyn Sink>) -> Result<(), SubmitError> {
        self.check(&request)?;
        let limit = self.slots + self.queue_capacity;
        let full = |accepted: usize| SubmitError::QueueFull { waiting: accepted.saturating_sub(self.slots) };
        self.counters.accept_request(limit).map_err(full)?;
        self.commands.try_send(Command::Submit(Box::new(request), sink)).map_err(|error| {
            self.counters.finish_request();
            match error {
                TrySendError::Full(_) => full(limit),
                TrySendError::Disconnected(_) => SubmitError::Stopped,
            }
        })
    }

    /// Captures the states of sequences at hook points, without waiting. Captures run when requests leave room, one
    /// after the other. The states are those that the same tokens have as a prompt, to the bit on the host.
    ///
    /// # Errors
    /// Returns an error if the capture is invalid, [`MAX_CAPTURES`] captures run or wait, or the engine has stopped.
    /// The sink has then received nothing.
    pub fn capture(&self, request: CaptureRequest, sink: Box<dyn CaptureSink>) -> Result<(), SubmitError> {
        request.check(&self.spec, self.context_length)?;
        let full = |accepted: usize| SubmitError::QueueFull { waiting: accepted.saturating_sub(1) };
        self.counters.accept_capture(MAX_CAPTURES).map_err(full)?;
        let command = Command::Capture(Box::new(request), CaptureOutput::new(sink));
        self.commands.try_send(command).map_err(|error| {
            self.counters.finish_capture();
            let (command, refused) = match error {
                TrySendError::Full(command) => (command, full(MAX_CAPTURES)),
                TrySendError::Disconnected(command) => (command, SubmitError::Stopped),
            };
            if let Command::Capture(_, output) = command {
                output.refuse();
            }
            refused
        })
    }

    fn check(&self, request: &Request) -> Result<(), SubmitError> {
        let tokens = request.prompt.len();
        if tokens == 0 {
            return Err(SubmitError::EmptyPrompt);
        }
        let room = usize::from(request.max_tokens != Some(0));
        if tokens + room > self.context_length {
            return Err(SubmitError::PromptTooLong { tokens, context: self.context_length });
        }
        let vocabulary = self.spec.vocabulary_size;
        if let Some(id) = request.prompt.iter().find(|id| **id as usize >= vocabulary) {
            return Err(SubmitError::UnknownToken { id: *id, vocabulary });
        }
        if request.logprobs.is_some_and(|top| top > MAX_TOP_LOGPROBS) {
            return Err(SubmitError::InvalidSampling { field: "logprobs", why: "must be at most 128" });
        }
        if request.max_draft_tokens > MAX_DRAFT_TOKENS {
            return Err(SubmitError::InvalidSampling { field: "speculate", why: "must be at most 16" });
        }
        Ok(request.sampling.check()?)
    }

    /// Returns the model's spec.
    pub fn spec(&self) -> &ModelSpec {
        &self.spec
    }

    /// Returns the tokens of prompt and answer that one request may have.
    pub fn context_length(&self) -> usize {
        self.context_length
    }

    /// Returns the bytes that the weights take as they are held.
    pub fn weight_bytes(&self) -> u64 {
        self.weight_bytes
    }

    /// Returns the counters as they are now.
    pub fn stats(&self) -> Stats {
        self.counters.stats()
    }

    /// Cancels all running and waiting requests and captures after the present forward pass.
    pub fn cancel_all(&self) {
        // Fails only when the thread has ended, and then nothing runs.
        let _ = self.commands.send(Command::CancelAll);
    }

    /// Cancels all requests and captures, ends the thread and frees the model's memory. Returns when that is done.
    pub fn stop(&self) {
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(thread) = thread else { return };
        // Fails only when the thread has ended already.
        let _ = self.commands.send(Command::Stop);
        if thread.thread().id() == std::thread::current().id() {
            // Dropped from within a sink: the thread cannot wait for itself, and ends after this step.
            return;
        }
        if thread.join().is_err() {
            tracing::error!("the engine's thread ended by a panic");
        }
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Loads the weights, then allocates the KV cache.
fn load_model(
    checkpoint: &Checkpoint,
    options: &EngineOptions,
    progress: &mut dyn FnMut(LoadProgress<'_>),
) -> Result<Box<dyn Forward>> {
    let spec = checkpoint.spec();
    options.check(spec)?;
    let handle = options.device.open()?;
    let (kv_type, blocks) = (options.kv_type, options.kv_blocks(spec));
    let allocating = LoadProgress { stage: LoadStage::Cache, fraction: 0.98, tensor: None };
    let model: Box<dyn Forward> = match options.device {
        Device::Cpu => {
            let threads = ThreadPool::with_kernels(options.threads(), options.kernels()?)?;
            let decoder = Decoder::load(checkpoint, threads, options.batch_capacity(), progress)?;
            checkpoint.check_intact()?;
            progress(allocating);
            Box::new(decoder.with_kv_cache(kv_type, blocks)?)
        }
        Device::Cuda(_) => {
            let decoder = CandleDecoder::load(checkpoint, handle, progress)?;
            checkpoint.check_intact()?;
            progress(allocating);
            Box::new(decoder.with_kv_cache(kv_type, blocks)?)
        }
    };
    Ok(model)
}

/// The engine's thread.
fn serve(mut scheduler: Scheduler, commands: &Receiver<Command>, threads: usize) {
    // Not zero while captures wait for room in their sinks and there is nothing else to do.
    let mut wait = Duration::ZERO;
    loop {
        match next(commands, (!scheduler.is_idle()).then_some(wait)) {
            Next::Command(Command::Submit(request, sink)) => scheduler.enqueue(*request, sink),
            Next::Command(Command::Capture(request, output)) => scheduler.enqueue_capture(*request, output),
            Next::Command(Command::CancelAll) => scheduler.cancel_all(),
            Next::Command(Command::Stop) | Next::Closed => break,
            Next::Nothing => {
                let _permit = CoreBudget::of_this_machine().acquire(threads);
                if !scheduler.step() {
                    wait = (2 * wait).clamp(CAPTURE_WAIT, MAX_CAPTURE_WAIT);
                    continue;
                }
            }
        }
        wait = Duration::ZERO;
    }
    scheduler.cancel_all();
    // Requests and captures that were submitted before the stop and not received yet.
    while let Ok(command) = commands.try_recv() {
        match command {
            Command::Submit(request, mut sink) => {
                let (reason, prompt_tokens) = (EndReason::Cancelled, request.prompt.len());
                send_end(&mut *sink, Event::End { reason, prompt_tokens, cached: 0, generated: 0 });
            }
            Command::Capture(_, output) => output.end(Err(CaptureError::Cancelled)),
            Command::CancelAll | Command::Stop => {}
        }
    }
}

enum Next {
    Command(Command),
    Nothing,
    /// All senders are gone.
    Closed,
}

/// Returns the next command, waiting for it at most as long as `wait`; `None` is for ever.
fn next(commands: &Receiver<Command>, wait: Option<Duration>) -> Next {
    let Some(wait) = wait else {
        return commands.recv().map_or(Next::Closed, Next::Command);
    };
    let received = if wait.is_zero() {
        commands.try_recv()
    } else {
        commands.recv_timeout(wait).map_err(|error| match error {
            RecvTimeoutError::Timeout => TryRecvError::Empty,
            RecvTimeoutError::Disconnected => TryRecvError::Disconnected,
        })
    };
    match received {
        Ok(command) => Next::Command(command),
        Err(TryRecvError::Empty) => Next::Nothing,
        Err(TryRecvError::Disconnected) => Next::Closed,
    }
}
