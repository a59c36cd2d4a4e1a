//! Continuous batching: before each forward pass requests join and leave the running batch. Beside answers prompts have a
//! pass of their own, which is run some layers at a time ([`crate::reading`]).
//!
//! Requests are admitted in order of arrival, when a slot and the pages for what they have so far are free; answers
//! then grow page by page. When pages run out the youngest gives up its own and waits at the head of the queue, with
//! all it has said, to be read again: nobody fails for want of memory, and the oldest always gets on.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::batch::Batch;
use crate::cache::KvCache;
use crate::error::of_panic;
use crate::forward::Forward;
use crate::generation::{Due, Generation, Leave};
use crate::options::Limits;
use crate::pages::{PAGE, SequenceId};
use crate::pass_outcome::{PassOutcome, caught, ended};
use crate::plan::{Part, Whose, plan};
use crate::reading::{Pace, Reading};
use crate::request::{EndReason, Request, Sink};
use crate::running::Running;
use crate::stats::Counters;
use crate::taps::NoTaps;

/// How long a step may wait for constraints when nobody can go on without them; commands wait as long.
const CONSTRAINT_WAIT: Duration = Duration::from_millis(5);
/// How long a step waits, at its end, to hear which answers are complete.
const VERDICT_WAIT: Duration = Duration::from_micros(300);

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
        self.resume(Instant::now());
        self.admit();
        self.make_room();
        self.take_over();
        if !self.run_passes() {
            // Nobody can go on before a constraint has said what may come.
            self.resume(Instant::now() + CONSTRAINT_WAIT);
        }
        self.conclude();
    }

    /// Whether there was anything to run.
    fn run_passes(&mut self) -> bool {
        let answering = |running: &Running| matches!(running.due(&self.cache), Due::Step | Due::Again(_));
        let answers = self.running.iter().any(answering);
        let layers = self.decoder.spec().layers;
        let whole = self.limits.layers_between_steps.is_some_and(|between| between >= layers);
        if self.reading.is_none() && (whole || !answers) {
            return self.pass(Whose::Everybodys);
        }
        let begin = Instant::now();
        if answers {
            self.pass(Whose::Answers);
            self.pace.stepped(begin.elapsed());
        }
        self.read(answers) || answers
    }

    fn pass(&mut self, whose: Whose) -> bool {
        let parts = plan(&self.running, &mut self.cache, (whose, self.limits.prefill), &mut self.batch);
        if parts.is_empty() {
            return false;
        }
        self.counters.forward_pass();
        let leaving = self.run(&parts);
        self.let_go(leaving);
        true
    }

    /// Goes on with parked answers whose constraints have said what may come.
    fn resume(&mut self, until: Instant) {
        let mut leaving = Vec::new();
        for (index, running) in self.running.iter_mut().enumerate().rev() {
            let generation = &mut running.generation;
            if !generation.is_parked() && !generation.awaits_verdict() {
                continue;
            }
            let before = generation.generated();
            leaving.extend(ended(|| generation.resume(until)).map(|leave| (index, leave)));
            self.counters.generated(generation.generated() - before);
        }
        self.let_go(leaving);
    }

    /// Most constraints say within microseconds whether an answer is complete; who hears it here runs no pass in vain.
    fn conclude(&mut self) {
        let until = Instant::now() + VERDICT_WAIT;
        let mut leaving = Vec::new();
        for (index, running) in self.running.iter_mut().enumerate().rev() {
            leaving.extend(ended(|| running.generation.conclude(until)).map(|leave| (index, leave)));
        }
        self.let_go(leaving);
    }

    /// Goes on with a pass over prompts, one that has begun or the next: beside answers for some layers.
    /// Says whether there was one.
    fn read(&mut self, answers: bool) -> bool {
        let Some(mut reading) = self.reading.take().or_else(|| self.begin_reading()) else { return false };
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
                return true;
            }
            Ok(Some(logits)) => Ok(logits),
            Err(error) => Err(error),
        };
        counters.forward_pass();
        let parts = reading.parts(running);
        let until = grace(begin);
        let leaving = PassOutcome { running, cache, counters, vocabulary, until }.settle(&parts, outcome);
        self.let_go(leaving);
        true
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
            // Parked ones have what they need.
            let tokens = if generation.is_parked() { 0 } else { generation.tokens().len() };
            let sequence = *sequence;
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
        let (used, begin) = (&mut *cache, Instant::now());
        // Constraints are worked out elsewhere meanwhile.
        let outcome = caught(move || decoder.forward(batch, used, &mut NoTaps));
        let outcome = outcome.unwrap_or_else(|panic| Err(of_panic(panic)));
        let until = grace(begin);
        PassOutcome { running, cache, counters, vocabulary, until }.settle(parts, outcome)
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

/// A constraint is worked out beside the pass that its mask is for. One that takes longer may keep the batch for a quarter
/// of that time; then its answer is parked and the others go on.
fn grace(begin: Instant) -> Instant {
    Instant::now() + begin.elapsed() / 4
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
