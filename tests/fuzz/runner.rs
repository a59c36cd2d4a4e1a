//! Runs one target: its corpus first, then mutations until time is up, on one server.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::corpus::Corpus;
use crate::harness::{
    Judged, Layout, Options, ProcessTree, Rng, Role, Server, TINY, everyday, fixture, number_from,
};
use crate::judge::{End, Outcome, SLOW, judge};
use crate::mutator::{Language, Mutator};
use crate::smaller::smaller;

/// A kind of inputs, and the way to send one to the server.
pub trait Target {
    /// The name of its folder in the corpus.
    const NAME: &'static str;
    /// The longest input. Longer ones are cut.
    const MOST: usize = 256 << 10;
    fn language() -> &'static Language;
    /// Returns inputs that are too large to be files.
    fn seeds() -> Vec<Vec<u8>>;
    async fn ask(server: &Server, input: &[u8]) -> Judged;
}

/// The number of failed inputs after which a run ends.
const ENOUGH: usize = 5;
/// The most memory by which the server may grow during a run.
const LEFT_BEHIND: u64 = 64 << 20;
/// The most requests that are sent to reduce a failed input.
const TRIES: usize = 40;
/// The pauses before an input that was put off comes again, as a client's library makes them.
const PAUSES: [Duration; 6] = [
    Duration::from_millis(100),
    Duration::from_millis(500),
    Duration::from_secs(2),
    Duration::from_secs(5),
    Duration::from_secs(10),
    Duration::from_secs(20),
];
/// The number of inputs between two ordinary questions.
const OFTEN: u64 = 20;

struct Run {
    server: Server,
    tree: ProcessTree,
    before: u64,
    corpus: Corpus,
    /// The number of answers of each class.
    seen: BTreeMap<String, u64>,
    asked: u64,
    slowest: Duration,
    wrong: Vec<String>,
}

pub async fn run<T: Target>() {
    let seconds = number_from("MILLM_FUZZ_SECONDS", 60);
    let mut run = Run::start::<T>().await;
    run.replay::<T>().await;
    let replayed = run.asked;
    run.mutate::<T>(Instant::now() + Duration::from_secs(seconds)).await;
    println!("{}: {replayed} known inputs, {} new ones", T::NAME, run.asked - replayed);
    run.end(T::NAME).await;
}

impl Run {
    async fn start<T: Target>() -> Self {
        let options =
            Options::default().set("MILLM_MAX_LOADED_MODELS", "2").set("MILLM_CONTEXT_LENGTH", "512");
        let server = Server::start(Layout::OneProcess, options).await;
        server.add(&fixture("tiny-millm"), TINY).await;
        let mut run = Self {
            tree: server.process_tree(Role::Runtime),
            server,
            before: 0,
            corpus: Corpus::open(T::NAME, T::seeds()),
            seen: BTreeMap::new(),
            asked: 0,
            slowest: Duration::ZERO,
            wrong: Vec::new(),
        };
        run.warm_up::<T>().await;
        run
    }

    async fn warm_up<T: Target>(&mut self) {
        self.server.load(TINY).await;
        self.tree = self.server.process_tree(Role::Runtime);
        everyday(&self.server).await.expect("a new server answers");
        // The first file is an ordinary input. The memory that it takes for good is not counted.
        let first = self.corpus.inputs()[0].clone();
        T::ask(&self.server, &first).await.expect("an everyday input gets a typed answer");
        self.before = self.tree.resident_bytes();
    }

    /// Sends every known input once.
    async fn replay<T: Target>(&mut self) {
        for input in self.corpus.inputs().to_vec() {
            let outcome = self.once::<T>(&input).await;
            self.note::<T>(&input, outcome, false).await;
        }
    }

    async fn mutate<T: Target>(&mut self, until: Instant) {
        let mut mutator = Mutator::new(Rng::seed(), T::language(), T::MOST);
        while Instant::now() < until && self.wrong.len() < ENOUGH {
            let inputs = self.corpus.inputs();
            let (one, other) = (mutator.below(inputs.len()), mutator.below(inputs.len()));
            let input = mutator.mutated(&inputs[one], &inputs[other]);
            let outcome = self.once::<T>(&input).await;
            self.note::<T>(&input, outcome, true).await;
        }
    }

    async fn once<T: Target>(&mut self, input: &[u8]) -> Outcome {
        self.asked += 1;
        let mut outcome = judge(&self.server, &self.tree, T::ask(&self.server, input)).await;
        for pause in PAUSES {
            if !outcome.is_put_off() {
                break;
            }
            tokio::time::sleep(pause).await;
            outcome = judge(&self.server, &self.tree, T::ask(&self.server, input)).await;
        }
        if outcome.is_put_off() {
            outcome.end = End::Wrong(format!("put off again and again: {}", outcome.class()));
        }
        if !self.tree.is_alive() {
            self.server.restart(Role::Runtime).await;
            self.warm_up::<T>().await;
        } else if (self.asked.is_multiple_of(OFTEN) || outcome.took > SLOW)
            && let Err(why) = everyday(&self.server).await
        {
            outcome.end = End::Wrong(format!("afterwards {why}"));
        }
        outcome
    }

    async fn note<T: Target>(&mut self, input: &[u8], outcome: Outcome, is_new: bool) {
        let class = outcome.class();
        let is_first = !self.seen.contains_key(&class);
        *self.seen.entry(class).or_default() += 1;
        self.slowest = self.slowest.max(outcome.took);
        if outcome.is_wrong() {
            self.note_wrong::<T>(input, &outcome).await;
        } else if is_new && (is_first || outcome.took > SLOW) {
            if std::env::var_os("MILLM_FUZZ_SAVE").is_some() {
                self.corpus.save(input);
            }
            self.corpus.add(input.to_vec());
        }
    }

    async fn note_wrong<T: Target>(&mut self, input: &[u8], outcome: &Outcome) {
        let path = self.corpus.save(input);
        let (class, took) = (outcome.class(), outcome.took.as_secs_f64());
        let line = format!("{}: {} bytes, {took:.1} s, {class}", path.display(), input.len());
        println!("WRONG {line}");
        self.wrong.push(line);
        if self.wrong.len() > ENOUGH || outcome.took > SLOW {
            return;
        }
        let small = smaller(input, TRIES, async |part| self.once::<T>(part).await.class() == class).await;
        if small.len() < input.len() {
            println!("      smaller: {}, {} bytes", self.corpus.save(&small).display(), small.len());
        }
    }

    async fn end(self, name: &str) {
        println!(
            "{name}: the slowest took {:.1} s; answers of {} kinds:",
            self.slowest.as_secs_f64(),
            self.seen.len()
        );
        for (class, times) in &self.seen {
            println!("{times:>7}  {class}");
        }
        assert!(self.wrong.is_empty(), "{name}: {} were wrong:\n{}", self.wrong.len(), self.wrong.join("\n"));
        let after = self.tree.settled_below(self.before + LEFT_BEHIND).await;
        println!("{name}: memory {} MB before, {} MB after", self.before >> 20, after >> 20);
        assert!(self.seen.len() > 1, "{name}: one kind of answer to everything is none: {:?}", self.seen);
    }
}
