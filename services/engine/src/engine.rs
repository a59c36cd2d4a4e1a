//! The engine: a thread that owns the model, its KV cache and its device. Callers send it requests through a bounded
//! channel and hear back through their sinks; nothing here is async.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use millm_model::{Checkpoint, ModelSpec};

use crate::cache::KvCache;
use crate::cores::Cores;
use crate::decoder::Decoder;
use crate::device::{self, Device};
use crate::error::{Error, Result, of_panic};
use crate::forward::Forward;
use crate::generation::tell;
use crate::load::{LoadProgress, LoadStage};
use crate::options::EngineOptions;
use crate::request::{EndReason, Event, Request, Sink, SubmitError};
use crate::scheduler::Scheduler;
use crate::stats::{Counters, Stats};
use crate::team::Team;

/// Most likely tokens that can be asked for with each token.
const TOP_LOGPROBS: usize = 128;
/// Tokens that a request may guess ahead.
const MOST_GUESSED: usize = 16;

/// A loaded model, running. Dropping it stops the thread and ends what runs as cancelled.
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
    CancelAll,
    Stop,
}

impl Engine {
    /// Reads the model into memory and starts its thread; blocks until then. Weights are copied: the checkpoint may
    /// go afterwards. A panic while loading is an error like any other.
    pub fn load(
        checkpoint: &Checkpoint,
        options: &EngineOptions,
        progress: &mut dyn FnMut(LoadProgress<'_>),
    ) -> Result<Self> {
        let loaded = catch_unwind(AssertUnwindSafe(|| prepare(checkpoint, options, progress)));
        let (decoder, cache) = loaded.unwrap_or_else(|panic| Err(of_panic(panic)))?;
        let spec = decoder.spec().clone();
        let context_length = options.context_length(&spec);
        let weight_bytes = decoder.weight_bytes();
        let counters = Arc::new(Counters::default());
        let scheduler = Scheduler::new(decoder, cache, Arc::clone(&counters), options.limits(&spec));
        // Room for every request that may be taken, and some for control: sending hardly ever waits.
        let (commands, received) = sync_channel(options.slots + options.queue_capacity + 4);
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

    /// Hands a request over without waiting. On an error its sink has heard nothing.
    pub fn submit(&self, request: Request, sink: Box<dyn Sink>) -> Result<(), SubmitError> {
        self.check(&request)?;
        let most = self.slots + self.queue_capacity;
        let full = |taken: usize| SubmitError::QueueFull { waiting: taken.saturating_sub(self.slots) };
        self.counters.enter(most).map_err(full)?;
        self.commands.try_send(Command::Submit(Box::new(request), sink)).map_err(|error| {
            self.counters.left();
            match error {
                TrySendError::Full(_) => full(most),
                TrySendError::Disconnected(_) => SubmitError::Stopped,
            }
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
        if request.logprobs.is_some_and(|top| top > TOP_LOGPROBS) {
            return Err(SubmitError::InvalidSampling { field: "logprobs", why: "must be at most 128" });
        }
        if request.speculate > MOST_GUESSED {
            return Err(SubmitError::InvalidSampling { field: "speculate", why: "must be at most 16" });
        }
        request.sampling.check()
    }

    pub fn spec(&self) -> &ModelSpec {
        &self.spec
    }

    /// Tokens of prompt and answer that one request may have.
    pub fn context_length(&self) -> usize {
        self.context_length
    }

    /// Memory of the weights as they are held.
    pub fn weight_bytes(&self) -> u64 {
        self.weight_bytes
    }

    pub fn stats(&self) -> Stats {
        self.counters.stats()
    }

    /// Ends everything that runs or waits as cancelled, after the present forward pass.
    pub fn cancel_all(&self) {
        // Fails only when the thread has ended, and then nothing runs.
        let _ = self.commands.send(Command::CancelAll);
    }

    /// Cancels everything, ends the thread and frees the model's memory; returns when that is done.
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

fn prepare(
    checkpoint: &Checkpoint,
    options: &EngineOptions,
    progress: &mut dyn FnMut(LoadProgress<'_>),
) -> Result<(Box<dyn Forward>, KvCache)> {
    options.check(checkpoint.spec())?;
    let device = options.device.open()?;
    let decoder: Box<dyn Forward> = match options.device {
        Device::Cpu => {
            let team = Team::new(options.threads())?;
            Box::new(Decoder::load(checkpoint, team, (options.batch_rows(), options.slots), progress)?)
        }
        Device::Cuda(_) => Box::new(device::Decoder::load(checkpoint, device.clone(), progress)?),
    };
    checkpoint.check_whole()?;
    progress(LoadProgress { stage: LoadStage::Cache, fraction: 0.98, tensor: None });
    let (spec, pages) = (decoder.spec(), options.pages(decoder.spec()));
    let cache = match options.device {
        Device::Cpu => KvCache::new(spec, options.kv_type, pages)?,
        Device::Cuda(_) => KvCache::on(&device, spec, options.kv_type, pages)?,
    };
    Ok((decoder, cache))
}

fn serve(mut scheduler: Scheduler, commands: &Receiver<Command>, threads: usize) {
    loop {
        match next(commands, scheduler.idle()) {
            Next::Command(Command::Submit(request, sink)) => scheduler.enqueue(*request, sink),
            Next::Command(Command::CancelAll) => scheduler.cancel_all(),
            Next::Command(Command::Stop) | Next::Over => break,
            Next::Nothing => {
                let _cores = Cores::of_this_machine().take(threads);
                scheduler.step();
            }
        }
    }
    scheduler.cancel_all();
    // Requests that were sent before the stop and not yet read.
    while let Ok(command) = commands.try_recv() {
        if let Command::Submit(request, mut sink) = command {
            let (reason, prompt_tokens) = (EndReason::Cancelled, request.prompt.len());
            tell(&mut *sink, Event::End { reason, prompt_tokens, cached: 0, generated: 0 });
        }
    }
}

enum Next {
    Command(Command),
    Nothing,
    /// All senders are gone.
    Over,
}

fn next(commands: &Receiver<Command>, wait: bool) -> Next {
    if wait {
        return commands.recv().map_or(Next::Over, Next::Command);
    }
    match commands.try_recv() {
        Ok(command) => Next::Command(command),
        Err(TryRecvError::Empty) => Next::Nothing,
        Err(TryRecvError::Disconnected) => Next::Over,
    }
}
