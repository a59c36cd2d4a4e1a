//! Continuous batching: before each forward pass requests join and leave the running batch. Beside answers prompts have a
//! pass of their own, which is run some layers at a time ([`crate::reading`]).
//!
//! Requests are admitted in order of arrival, when a slot and the pages for what they have so far are free; answers
//! then grow page by page. When pages run out the youngest gives up its own and waits at the head of the queue, with
//! all it has said, to be read again: nobody fails for want of memory, and the oldest always gets on.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Instant;

use crate::batch::Batch;
use crate::cache::KvCache;
use crate::error::{Error, of_panic, panic_message};
use crate::forward::Forward;
use crate::generation::{Due, Generation, Leave};
use crate::options::Limits;
use crate::pages::{PAGE, SequenceId};
use crate::plan::{Part, Whose, plan};
use crate::reading::{Pace, Reading};
use crate::request::{EndReason, Request, Sink};
use crate::running::Running;
use crate::stats::Counters;
use crate::taps::NoTaps;

pub(crate) struct Scheduler {
    decoder: Box<dyn Forward>,
    cache: KvCache,
    counters: Arc<Counters>,
    limits: Limits,
    /// Both in order of arrival, and whoever waits came later than whoever runs.
    waiting: VecDeque<Generation>,
    running: Vec<Running>,
    batch: Batch,
    /// Prompts whose pass has begun. It is given up when one of them leaves: nothing of it is in the cache yet.
    reading: Option<Reading>,
    /// The last one was given up. The next is run at once: who comes and goes must not keep others from being read.
    given_up: bool,
    pace: Pace,
}

impl Scheduler {
    pub fn new(decoder: Box<dyn Forward>, cache: KvCache, counters: Arc<Counters>, limits: Limits) -> Self {
        let scheduler = Self {
            decoder,
            cache,
            counters,
            limits,
            waiting: VecDeque::new(),
            running: Vec::new(),
            batch: Batch::default(),
            reading: None,
            given_up: false,
            pace: Pace::default(),
        };
        scheduler.count();
        scheduler
    }

    pub fn idle(&self) -> bool {
        self.waiting.is_empty() && self.running.is_empty()
    }

    /// The request has been checked: its prompt fits the context and the vocabulary.
    pub fn enqueue(&mut self, request: Request, sink: Box<dyn Sink>) {
        self.waiting.push_back(Generation::new(request, sink, self.limits.context_length));
        self.count();
    }

    /// Ends everything that runs or waits.
    pub fn cancel_all(&mut self) {
        while !self.running.is_empty() {
            self.leave(0, Leave::End(EndReason::Cancelled));
        }
        while let Some(generation) = self.waiting.pop_front() {
            self.counters.left();
            self.count();
            generation.end(EndReason::Cancelled);
        }
    }

    /// One forward pass, when there is anything to run; beside it some layers of one over prompts.
    pub fn step(&mut self) {
        self.forget_gone();
        self.admit();
        self.make_room();
        self.take_over();
        let answering = |running: &Running| !matches!(running.due(&self.cache), Due::Prompt(_));
        let answers = self.running.iter().any(answering);
        let layers = self.decoder.spec().layers;
        let whole = self.limits.layers_between_steps.is_some_and(|between| between >= layers);
        if self.reading.is_none() && (whole || !answers) {
            self.pass(Whose::Everybodys);
            return;
        }
        let begin = Instant::now();
        if answers {
            self.pass(Whose::Answers);
            self.pace.stepped(begin.elapsed());
        }
        self.read(answers);
    }

    fn pass(&mut self, whose: Whose) {
        let parts = plan(&self.running, &mut self.cache, (whose, self.limits.prefill), &mut self.batch);
        if parts.is_empty() {
            return;
        }
        self.counters.forward_pass();
        let leaving = self.run(&parts);
        self.let_go(leaving);
    }

    /// Goes on with a pass over prompts, one that has begun or the next: beside answers for some layers.
    fn read(&mut self, answers: bool) {
        let Some(mut reading) = self.reading.take().or_else(|| self.begin_reading()) else { return };
        let (rows, between) = (reading.rows(), self.limits.layers_between_steps);
        let at_once = std::mem::take(&mut self.given_up) || !answers;
        let most = if at_once { usize::MAX } else { between.unwrap_or_else(|| self.pace.layers(rows)) };
        let begin = Instant::now();
        let layers = reading.take(most, self.decoder.spec().layers);
        let Self { decoder, cache, running, counters, reading: begun, pace, .. } = self;
        let vocabulary = decoder.spec().vocabulary_size;
        let (count, used) = (layers.len(), &mut *cache);
        let outcome = caught(|| decoder.forward_layers(&reading.batch, layers, used));
        let outcome = match outcome.unwrap_or_else(|panic| Err(of_panic(panic))) {
            // The last piece has the logits in it, and is not measured.
            Ok(None) => {
                pace.read(rows, count, begin.elapsed());
                *begun = Some(reading);
                return;
            }
            Ok(Some(logits)) => Ok(logits),
            Err(error) => Err(error),
        };
        counters.forward_pass();
        let parts = reading.parts(running);
        let leaving = Taking { running, cache, counters, vocabulary }.settle(&parts, outcome);
        self.let_go(leaving);
    }

    fn begin_reading(&mut self) -> Option<Reading> {
        let (mut batch, of) = (Batch::default(), (Whose::Prompts, self.limits.prefill));
        let parts = plan(&self.running, &mut self.cache, of, &mut batch);
        (!parts.is_empty()).then(|| Reading::new(batch, parts, &self.running))
    }

    /// Those who leave, last in the batch first.
    fn let_go(&mut self, leaving: Vec<(usize, Leave)>) {
        self.count();
        for (index, leave) in leaving {
            self.leave(index, leave);
        }
    }

    fn forget_gone(&mut self) {
        for index in (0..self.running.len()).rev() {
            if self.running[index].generation.receiver_gone() {
                self.leave(index, Leave::Gone);
            }
        }
        let mut gone = Vec::new();
        for _ in 0..self.waiting.len() {
            let Some(generation) = self.waiting.pop_front() else { break };
            if generation.receiver_gone() {
                self.counters.left();
                gone.push(generation);
            } else {
                self.waiting.push_back(generation);
            }
        }
        self.count();
        // Last, as everywhere: whoever hears that its sink is gone finds its place free.
        drop(gone);
    }

    fn admit(&mut self) {
        while self.running.len() < self.limits.slots {
            let Some(generation) = self.waiting.pop_front() else { break };
            let stretch = self.decoder.spec().stretch(generation.prompt().len());
            let sequence = self.cache.pages_mut().open_stretched(stretch);
            self.running.push(Running { sequence, generation });
            if !self.seat(self.running.len() - 1) {
                self.unseat();
                break;
            }
        }
        self.count();
    }

    /// Takes pages for what a request has so far and one token more; beside others only where those can still grow.
    fn seat(&mut self, index: usize) -> bool {
        // First what it shares: that must not be given up for the rest.
        self.adopt(index);
        let Running { sequence, generation } = &self.running[index];
        let pages = self.cache.pages_mut();
        pages.reserve(*sequence, generation.needs()) && (index == 0 || pages.available() >= index)
    }

    /// The youngest goes back to the head of the queue.
    fn unseat(&mut self) {
        if let Some(Running { sequence, mut generation }) = self.running.pop() {
            self.abandon(sequence);
            self.cache.close(sequence);
            generation.begin_anew();
            self.waiting.push_front(generation);
        }
    }

    /// A pass that has begun is given up when a sequence of it goes: its others begin it anew.
    fn abandon(&mut self, sequence: SequenceId) {
        self.given_up |= self.reading.take_if(|reading| reading.has(sequence)).is_some();
    }

    /// Gives each answer room for its next token, the oldest first.
    fn make_room(&mut self) {
        let mut index = 0;
        while index < self.running.len() {
            let Running { sequence, generation } = &self.running[index];
            let (sequence, tokens) = (*sequence, generation.tokens().len());
            while index < self.running.len() && !self.cache.pages_mut().reserve(sequence, tokens) {
                let youngest = &self.running[self.running.len() - 1];
                // It may come back to them.
                youngest.keep_pages(&mut self.cache, usize::MAX);
                self.counters.preempted();
                self.unseat();
            }
            index += 1;
        }
    }

    /// Everybody goes on from what others have computed meanwhile.
    fn take_over(&mut self) {
        for index in 0..self.running.len() {
            let running = &self.running[index];
            let begun = self.reading.as_ref().is_some_and(|reading| reading.has(running.sequence));
            if !begun && matches!(running.due(&self.cache), Due::Prompt(_)) {
                self.adopt(index);
            }
        }
    }

    fn adopt(&mut self, index: usize) {
        let Self { running, cache, .. } = self;
        let running = &mut running[index];
        while let Some(content) = running.wanted(cache)
            && cache.pages_mut().adopt(running.sequence, &content)
        {
            running.generation.found(PAGE);
        }
    }

    /// Runs the pass and takes in what it gave; who leaves comes last in the batch first.
    fn run(&mut self, parts: &[Part]) -> Vec<(usize, Leave)> {
        let Self { decoder, cache, batch, running, counters, .. } = self;
        let vocabulary = decoder.spec().vocabulary_size;
        let used = &mut *cache;
        let outcome = std::thread::scope(|scope| {
            // Constraints are worked out beside the pass, not after it.
            let constrained: Vec<&mut Generation> = running
                .iter_mut()
                .map(|running| &mut running.generation)
                .filter(|generation| generation.is_constrained())
                .collect();
            if !constrained.is_empty() {
                let prepare = || constrained.into_iter().for_each(Generation::prepare);
                // Without a thread for it, they are worked out when they are needed.
                let _beside = std::thread::Builder::new().spawn_scoped(scope, prepare);
            }
            caught(move || decoder.forward(batch, used, &mut NoTaps))
        });
        let outcome = outcome.unwrap_or_else(|panic| Err(of_panic(panic)));
        Taking { running, cache, counters, vocabulary }.settle(parts, outcome)
    }

    /// Frees pages and place first, so that whoever hears of the end finds them free.
    fn leave(&mut self, index: usize, leave: Leave) {
        let Running { sequence, generation } = self.running.remove(index);
        self.abandon(sequence);
        self.cache.close(sequence);
        self.counters.left();
        self.count();
        if let Leave::End(reason) = leave {
            if let EndReason::Failed(why) = &reason {
                let prompt_tokens = generation.prompt().len();
                tracing::error!(why, prompt_tokens, "a request failed in the engine");
            }
            generation.end(reason);
        }
    }

    fn count(&self) {
        self.counters.present(self.running.len(), self.waiting.len(), self.cache.pages());
    }
}

/// What a pass changes.
struct Taking<'a> {
    running: &'a mut [Running],
    cache: &'a mut KvCache,
    counters: &'a Counters,
    vocabulary: usize,
}

impl Taking<'_> {
    /// What a pass gave; who leaves comes last in the batch first.
    fn settle(&mut self, parts: &[Part], outcome: Result<&[f32], Error>) -> Vec<(usize, Leave)> {
        let all =
            |reason: EndReason| parts.iter().map(|part| (part.index, Leave::End(reason.clone()))).collect();
        let mut leaving: Vec<(usize, Leave)> = match outcome {
            Ok(logits) => {
                let vocabulary = self.vocabulary;
                let given =
                    |part: &Part| &logits[part.outputs.start * vocabulary..part.outputs.end * vocabulary];
                parts.iter().flat_map(|part| self.take_in(part, given(part))).collect()
            }
            Err(Error::OutOfMemory { .. } | Error::DeviceMemory(_)) => all(EndReason::OutOfMemory),
            Err(error) => all(EndReason::Failed(error.to_string())),
        };
        leaving.sort_unstable_by_key(|(index, _)| std::cmp::Reverse(*index));
        leaving
    }

    /// What a part of the pass gave, for whom it was run and for those who only waited for the same.
    fn take_in(&mut self, part: &Part, logits: &[f32]) -> Vec<(usize, Leave)> {
        let own = &mut self.running[part.index];
        let prompt = own.generation.prompt().len();
        let of_prompt = part.tokens.start.min(prompt)..part.tokens.end.min(prompt);
        self.counters.prompt_tokens(of_prompt.len());
        own.keep_pages(self.cache, prompt);
        own.generation.score(of_prompt.clone(), logits, self.vocabulary);
        if part.tokens.end == prompt {
            // Also those of one that has been read again, which needs them no more.
            let last = &logits[logits.len() - self.vocabulary..];
            return self.start(part.index, last);
        }
        if part.tokens.end < own.generation.tokens().len() {
            return Vec::new();
        }
        self.go_on(part.index, logits, &part.guessed).into_iter().collect()
    }

    /// A prompt is read: all who asked the same begin to answer.
    fn start(&mut self, first: usize, logits: &[f32]) -> Vec<(usize, Leave)> {
        let (mut starting, mut lost) = (Vec::new(), Vec::new());
        let origin = self.running[first].sequence;
        for index in first + 1..self.running.len() {
            let [own, twin] = [&self.running[first], &self.running[index]];
            let waits = matches!(twin.due(self.cache), Due::Prompt(_));
            if waits && twin.generation.is_twin_of(&own.generation) {
                let found = twin.generation.prompt().len() - twin.held(self.cache);
                if let Err(error) = self.cache.follow(origin, twin.sequence) {
                    lost.push((index, Leave::End(EndReason::Failed(error.to_string()))));
                    continue;
                }
                self.running[index].generation.found(found);
                starting.push(index);
            }
        }
        if self.running[first].generation.generated() == 0 {
            starting.push(first);
        }
        let left = starting.into_iter().filter_map(|index| {
            self.counters.cached_tokens(self.running[index].generation.cached());
            self.go_on(index, logits, &[])
        });
        lost.extend(left);
        lost
    }

    fn go_on(&mut self, index: usize, logits: &[f32], guessed: &[u32]) -> Option<(usize, Leave)> {
        let Self { cache, counters, vocabulary, .. } = self;
        let Running { sequence, generation } = &mut self.running[index];
        let before = generation.generated();
        let left = caught(|| generation.go_on(logits, *vocabulary, guessed))
            .unwrap_or_else(|panic| Some(Leave::End(EndReason::Failed(panic_message(&*panic)))));
        let chosen = generation.generated() - before;
        counters.generated(chosen);
        counters.guessed(guessed.len(), chosen.saturating_sub(1));
        if left.is_none() {
            // What was guessed wrong was computed in vain.
            cache.pages_mut().truncate(*sequence, generation.tokens().len() - 1);
        }
        left.map(|leave| (index, leave))
    }
}

/// What is behind an unwind is dropped: the requests concerned leave, and a pass begins by overwriting its buffers.
fn caught<T>(work: impl FnOnce() -> T) -> std::thread::Result<T> {
    catch_unwind(AssertUnwindSafe(work))
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Receiver, Sender, channel};

    use millm_model::{Checkpoint, ModelSpec};

    use super::*;
    use crate::decoder::Decoder;
    use crate::options::EngineOptions;
    use crate::request::Event;
    use crate::sampler::Sampling;
    use crate::team::Team;

    struct Channel(Sender<Event>);

    impl Sink for Channel {
        fn send(&mut self, event: Event) -> bool {
            self.0.send(event).is_ok()
        }
    }

    fn enqueue(scheduler: &mut Scheduler) -> Receiver<Event> {
        let (sender, events) = channel();
        let prompt = (3..60).collect();
        let request =
            Request { prompt, sampling: Sampling::greedy(), max_tokens: Some(4), ..Request::default() };
        scheduler.counters.enter(8).unwrap();
        scheduler.enqueue(request, Box::new(Channel(sender)));
        events
    }

    fn end(scheduler: &mut Scheduler, events: &Receiver<Event>) -> EndReason {
        while !scheduler.idle() {
            scheduler.step();
        }
        match events.iter().last() {
            Some(Event::End { reason, .. }) => reason,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_panic_in_the_forward_pass_fails_who_was_in_it_and_the_next_request_works() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/fixtures/families/llama");
        let checkpoint = Checkpoint::open(std::path::Path::new(path)).unwrap();
        let options = EngineOptions { context_length: Some(128), ..EngineOptions::default() };
        let mut no_progress = |_: crate::load::LoadProgress<'_>| {};
        let decoder = Decoder::load(&checkpoint, Team::new(2).unwrap(), (64, 8), &mut no_progress).unwrap();
        let spec = decoder.spec().clone();
        let cache = |spec: &ModelSpec| KvCache::new(spec, options.kv_type, 16).unwrap();
        // A cache without layers has no place for what the first one writes.
        let broken = cache(&ModelSpec { layers: 0, ..spec.clone() });
        let mut scheduler =
            Scheduler::new(Box::new(decoder), broken, Arc::new(Counters::default()), options.limits(&spec));
        let both = [enqueue(&mut scheduler), enqueue(&mut scheduler)];
        for events in &both {
            let reason = end(&mut scheduler, events);
            assert!(matches!(reason, EndReason::Failed(_)), "{reason:?}");
        }
        let stats = scheduler.counters.stats();
        assert_eq!((stats.running, stats.kv_pages_free), (0, 16));

        scheduler.cache = cache(&spec);
        let events = enqueue(&mut scheduler);
        assert_eq!(end(&mut scheduler, &events), EndReason::Length);
    }
}
