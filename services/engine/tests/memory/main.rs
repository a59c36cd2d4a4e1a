//! Compares the estimate of `millm_model::memory` with what an engine allocates. The allocator counts.

mod counting;

use std::path::{Path, PathBuf};
use std::sync::mpsc::{Sender, channel};

use counting::Counted;
use millm_engine::{Engine, EngineOptions, Event, KvType, Request, SamplingParams, Sink};
use millm_model::Checkpoint;
use millm_model::memory::{self, Workload};
use millm_sandbox::Tokenizer;

fn fixtures() -> PathBuf {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/fixtures")).to_owned()
}

/// Returns every model of the fixtures: each family, and each file format.
fn models() -> Vec<PathBuf> {
    let folder =
        |name: &str| std::fs::read_dir(fixtures().join(name)).expect("fixtures are in tests/fixtures");
    let families = folder("families").map(|entry| entry.expect("readable").path());
    let files = folder("tiny-millm-gguf").map(|entry| entry.expect("readable").path());
    let mut models: Vec<PathBuf> = families
        .filter(|path| path.join("config.json").is_file())
        .chain(files.filter(|path| path.extension().is_some_and(|extension| extension == "gguf")))
        .chain([fixtures().join("tiny-millm")])
        .collect();
    models.sort();
    models
}

struct Ends(Sender<usize>);

impl Sink for Ends {
    fn send(&mut self, event: Event) -> bool {
        match event {
            Event::End { generated, .. } => self.0.send(generated).is_ok(),
            _ => true,
        }
    }
}

fn options(slots: usize) -> EngineOptions {
    EngineOptions {
        context_length: Some(512),
        slots,
        prefill_chunk: 128,
        threads: Some(2),
        kv_type: KvType::F16,
        ..EngineOptions::default()
    }
}

/// Fills every slot to the end of its context.
fn fill(engine: &Engine, slots: usize) {
    let (ends, ended) = channel();
    let context = engine.context_length();
    let vocabulary = engine.spec().vocabulary_size;
    for slot in 0..slots {
        let prompt: Vec<u32> = (0..context / 2).map(|n| ((n * 7 + slot) % vocabulary) as u32).collect();
        let request =
            Request { sampling: SamplingParams::greedy(), ignore_eos: true, prompt, ..Request::default() };
        engine.submit(request, Box::new(Ends(ends.clone()))).expect("there is a slot for each");
    }
    drop(ends);
    assert!(ended.iter().all(|generated| generated == context / 2));
}

#[test]
fn the_estimate_is_near_the_allocated_memory() {
    let mut wrong = Vec::new();
    for path in models() {
        for slots in [1, 8] {
            let checkpoint = Checkpoint::open(&path).expect("good");
            let options = options(slots);
            let workload = Workload {
                context_length: options.context_length(checkpoint.spec()),
                slots,
                kv_tokens: options.kv_tokens,
                prefill_chunk: options.prefill_chunk,
                kv_element_bytes: options.kv_type.bytes(),
            };
            let weights = memory::loaded_bytes(checkpoint.tensors());
            let estimate = memory::estimate(checkpoint.spec(), weights, &workload);
            let counted = Counted::from_now();
            let tokenizer = Tokenizer::of(&checkpoint.tokenizer_files()).expect("good");
            let engine = Engine::load(&checkpoint, &options, &mut |_| {}).expect("loads");
            assert_eq!(engine.weight_bytes(), weights, "{}", path.display());
            fill(&engine, slots);
            // The allocator does not count the process itself.
            let estimated = estimate.total() - memory::PROCESS_BYTES;
            let counted = counted.peak() as u64;
            let ratio = estimated as f64 / counted as f64;
            let line = format!(
                "{} with {slots} slots: estimated {estimated} ({estimate:?}), counted {counted}: {ratio:.3}",
                path.file_name().unwrap_or_default().display()
            );
            println!("{line}");
            if (ratio - 1.0).abs() > 0.2 {
                wrong.push(line);
            }
            drop((engine, tokenizer));
        }
    }
    assert!(wrong.is_empty(), "beyond 20 %:\n{}", wrong.join("\n"));
}
