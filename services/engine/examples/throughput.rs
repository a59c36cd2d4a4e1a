//! Tokens per second of a local model: `throughput MODEL [THREADS]` prints prefill of 512, decode of 128 alone and
//! in eight streams, and decode behind a prompt of 1,536 tokens.

use std::path::Path;
use std::sync::mpsc::{Sender, channel};
use std::time::{Duration, Instant};

use millm_engine::{Engine, EngineOptions, Event, Request, Sampling, Sink};
use millm_model::Checkpoint;

/// When each event came.
struct Clock(Sender<Instant>);

impl Sink for Clock {
    fn send(&mut self, _: Event) -> bool {
        self.0.send(Instant::now()).is_ok()
    }
}

/// Times of the first and the last token of each of some requests that begin together, since their beginning.
fn time(engine: &Engine, streams: usize, prompt: usize, tokens: usize) -> Vec<(Duration, Duration)> {
    let begin = Instant::now();
    let running: Vec<_> = (0..streams)
        .map(|stream| {
            let request = Request {
                prompt: (0..prompt)
                    .map(|i| ((7 + 31 * i + 977 * stream) % engine.spec().vocabulary_size) as u32)
                    .collect(),
                sampling: Sampling::greedy(),
                max_tokens: Some(tokens),
                ignore_eos: true,
                ..Request::default()
            };
            let (sender, events) = channel();
            engine.submit(request, Box::new(Clock(sender))).expect("a request within the limits");
            events
        })
        .collect();
    let times = |events: std::sync::mpsc::Receiver<Instant>| {
        let times: Vec<Duration> = events.iter().map(|time| time - begin).collect();
        (times[1], times[tokens])
    };
    running.into_iter().map(times).collect()
}

fn rate(tokens: usize, time: Duration) -> f64 {
    tokens as f64 / time.as_secs_f64()
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let path = arguments.next().ok_or("usage: throughput MODEL [THREADS]")?;
    let threads = arguments.next().map(|threads| threads.parse()).transpose()?;
    let begin = Instant::now();
    let checkpoint = Checkpoint::open(Path::new(&path))?;
    let options = EngineOptions { context_length: Some(2048), threads, ..EngineOptions::default() };
    let engine = Engine::load(&checkpoint, &options, &mut |_| {})?;
    println!(
        "load              {:8.2} s, weights {} MiB",
        begin.elapsed().as_secs_f64(),
        engine.weight_bytes() >> 20
    );
    time(&engine, 1, 8, 4);
    let (first, _) = time(&engine, 1, 512, 1)[0];
    println!("prefill 512       {:8.1} tokens/s", rate(512, first));
    let (first, last) = time(&engine, 1, 8, 129)[0];
    println!("decode 128        {:8.1} tokens/s", rate(128, last.saturating_sub(first)));
    let together = time(&engine, 8, 8, 65);
    let first = together.iter().map(|times| times.0).max().unwrap_or_default();
    let last = together.iter().map(|times| times.1).max().unwrap_or_default();
    println!("decode 64, 8 at once {:5.1} tokens/s in all", rate(8 * 64, last.saturating_sub(first)));
    let (first, last) = time(&engine, 1, 1536, 33)[0];
    println!("prefill 1536      {:8.1} tokens/s", rate(1536, first));
    println!("decode at 1536    {:8.1} tokens/s", rate(32, last.saturating_sub(first)));
    Ok(())
}
