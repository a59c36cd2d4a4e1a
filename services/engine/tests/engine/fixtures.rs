//! Shared by the tests: fixture files, an engine with its options, and a request's collected events.

use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, Sender, channel};

use millm_engine::{
    BatchCapacity, Decoder, Device, EndReason, Engine, EngineOptions, Event, KernelSet, KvType, Request,
    SamplingParams, Sink, ThreadPool, Token,
};
use millm_model::Checkpoint;

pub fn fixture(path: &str) -> PathBuf {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/fixtures")).join(path)
}

pub fn checkpoint(path: &str) -> Checkpoint {
    Checkpoint::open(&fixture(path)).unwrap()
}

/// Returns the kernels that `MILLM_KERNELS` names; `None` without it.
pub fn kernels() -> Option<KernelSet> {
    let name = std::env::var("MILLM_KERNELS").ok()?;
    Some(name.parse().unwrap_or_else(|_| panic!("MILLM_KERNELS={name} is no kernel set")))
}

/// Returns the kernel sets that reference values are compared on: that which `MILLM_KERNELS` names, or all of this
/// machine.
pub fn kernel_sets() -> Vec<KernelSet> {
    kernels().map_or_else(|| KernelSet::available().collect(), |kernels| vec![kernels])
}

/// Returns a thread pool with the kernels of [`kernels`].
pub fn pool(threads: usize) -> ThreadPool {
    ThreadPool::with_kernels(threads, kernels().unwrap_or_else(KernelSet::best)).unwrap()
}

/// Loads a decoder on the host with a KV cache of `blocks` blocks.
pub fn decoder(checkpoint: &Checkpoint, kernels: KernelSet, kv_type: KvType, blocks: usize) -> Decoder {
    let capacity = BatchCapacity { rows: 2, outputs: 2 };
    let pool = ThreadPool::with_kernels(2, kernels).unwrap();
    let decoder = Decoder::load(checkpoint, pool, capacity, &mut |_| {}).unwrap();
    decoder.with_kv_cache(kv_type, blocks).unwrap()
}

pub fn options() -> EngineOptions {
    EngineOptions {
        context_length: Some(512),
        slots: 8,
        prefill_chunk: 64,
        prefill_chunk_while_decoding: 32,
        // All layers at once: tests count passes.
        prefill_layers_per_decode: Some(usize::MAX),
        kv_tokens: None,
        queue_capacity: 64,
        device: Device::Cpu,
        threads: Some(2),
        kernels: kernels(),
        kv_type: KvType::F16,
    }
}

pub fn engine(path: &str, options: &EngineOptions) -> Engine {
    Engine::load(&checkpoint(path), options, &mut |_| {}).unwrap()
}

pub fn greedy(prompt: &[u32], max_tokens: usize) -> Request {
    Request {
        prompt: prompt.to_vec(),
        sampling: SamplingParams::greedy(),
        max_tokens: Some(max_tokens),
        ..Request::default()
    }
}

/// All events of a request.
#[derive(Debug)]
pub struct Answer {
    pub prompt: Option<Vec<Token>>,
    pub tokens: Vec<Token>,
    pub reason: EndReason,
    pub prompt_tokens: usize,
    pub cached: usize,
    pub generated: usize,
}

impl Answer {
    /// Waits for the end; fails when events come out of order.
    pub fn gather(events: &Receiver<Event>) -> Self {
        let mut started = None;
        let mut tokens = Vec::new();
        loop {
            match events.recv().expect("every request that is not dropped receives its end") {
                Event::Started { prompt } => assert!(started.replace(prompt).is_none() && tokens.is_empty()),
                Event::Token(token) => {
                    assert!(started.is_some());
                    tokens.push(token);
                }
                Event::End { reason, prompt_tokens, cached, generated } => {
                    assert!(events.recv().is_err(), "nothing follows the end");
                    return Self {
                        prompt: started.flatten(),
                        tokens,
                        reason,
                        prompt_tokens,
                        cached,
                        generated,
                    };
                }
            }
        }
    }

    /// The tokens' ids, the stop token included.
    pub fn ids(&self) -> Vec<u32> {
        let mut ids: Vec<u32> = self.tokens.iter().map(|token| token.id).collect();
        if let EndReason::Eos(id) = self.reason {
            ids.push(id);
        }
        ids
    }
}

pub struct Channel(Sender<Event>);

impl Sink for Channel {
    fn send(&mut self, event: Event) -> bool {
        self.0.send(event).is_ok()
    }
}

/// Returns a copy without the constraint.
pub fn copy(request: &Request) -> Request {
    Request {
        prompt: request.prompt.clone(),
        sampling: request.sampling.clone(),
        max_tokens: request.max_tokens,
        stop_token_ids: request.stop_token_ids.clone(),
        ignore_eos: request.ignore_eos,
        logprobs: request.logprobs,
        prompt_logprobs: request.prompt_logprobs,
        constraint: None,
        max_draft_tokens: request.max_draft_tokens,
    }
}

pub fn start(engine: &Engine, request: Request) -> Receiver<Event> {
    let (sender, events) = channel();
    engine.submit(request, Box::new(Channel(sender))).unwrap();
    events
}

pub fn answer(engine: &Engine, request: Request) -> Answer {
    Answer::gather(&start(engine, request))
}

/// Returns the norm of `got - expected` relative to that of `expected`.
pub fn distance(got: &[f32], expected: &[f32]) -> f32 {
    assert_eq!(got.len(), expected.len());
    let square = |values: &mut dyn Iterator<Item = f32>| values.map(|value| value * value).sum::<f32>();
    let off = square(&mut got.iter().zip(expected).map(|(got, expected)| got - expected));
    (off / square(&mut expected.iter().copied())).sqrt()
}

/// A test for each family, which calls a function with the family's folder. A new family is a line here.
macro_rules! each_family {
    ($check:ident $(, $more:ident $folder:literal)*) => {
        $crate::fixtures::tests_of! {
            $check
            llama "llama"
            llama3_rope "llama3-rope"
            mistral "mistral"
            mixtral "mixtral"
            qwen2 "qwen2"
            qwen3 "qwen3"
            qwen3_moe "qwen3_moe"
            gemma "gemma"
            gemma2 "gemma2"
            gemma3 "gemma3"
            phi "phi"
            phi3 "phi3"
            gpt2 "gpt2"
            gpt_neox "gpt_neox"
            olmo2 "olmo2"
            starcoder2 "starcoder2"
            smollm3 "smollm3"
            granite "granite"
            stablelm "stablelm"
            cohere "cohere"
            cohere2 "cohere2"
            glm4 "glm4"
            gpt_oss "gpt_oss"
            $($more $folder)*
        }
    };
}

macro_rules! tests_of {
    ($check:ident $($test:ident $folder:literal)*) => { $(
        #[test]
        fn $test() {
            $check($folder);
        }
    )* };
}

pub(crate) use {each_family, tests_of};
