//! One request from arrival to end: its text so far, how it is sampled, and what its sink hears. Whatever happens to
//! its pages meanwhile, the text goes on.

use std::ops::Range;
use std::time::{Duration, Instant};

use crate::constraint::{ConstraintError, Next, allows_any};
use crate::draft::Drafter;
use crate::pages::PAGE;
use crate::request::{EndReason, Event, Request, Sink, Token};
use crate::sampler::{Sampler, logprobs};

/// Rows of a prompt that are scored in one pass at most: their logits are the largest thing a pass makes.
const SCORED_ROWS: usize = 64;

pub(crate) struct Generation {
    request: Request,
    sink: Box<dyn Sink>,
    sampler: Sampler,
    drafter: Drafter,
    /// The prompt, then the answer so far.
    tokens: Vec<u32>,
    prompt: usize,
    /// Tokens that may be generated: what the request and the context allow.
    limit: usize,
    /// Prompt tokens that were found in the cache.
    cached: usize,
    /// The prompt's tokens as far as they are scored, until they are sent.
    scored: Option<Vec<Token>>,
    /// Its sink has heard `Started`.
    started: bool,
    /// Whether the answer is complete with its last token has been asked and not been heard.
    asked: bool,
    parked: Option<Parked>,
}

/// An answer that waits for its constraint: it takes no part in passes until that has said something.
#[derive(Debug)]
enum Parked {
    /// The next token is to be chosen from these logits, of its newest token.
    Choice(Vec<f32>),
    /// It has all tokens it may have; what is not known is whether it is complete.
    Verdict,
}

enum Chosen {
    Token,
    Nothing,
    Last(Leave),
}

/// What has to be run next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Due {
    /// So many tokens of the prompt.
    Prompt(usize),
    /// So many tokens of the answer whose pages were given up, the newest included.
    Again(usize),
    /// The newest token.
    Step,
    /// Nothing, until its constraint has said what may come.
    Parked,
}

/// Why a request leaves the running batch.
#[derive(Debug)]
pub(crate) enum Leave {
    End(EndReason),
    /// The receiver is gone: there is nobody to tell.
    Gone,
}

impl Generation {
    /// The request has been checked against the context.
    pub fn new(mut request: Request, sink: Box<dyn Sink>, context_length: usize) -> Self {
        let tokens = std::mem::take(&mut request.prompt);
        let prompt = tokens.len();
        let limit = request.max_tokens.unwrap_or(usize::MAX).min(context_length - prompt);
        let sampler = Sampler::new(request.sampling.clone(), &tokens);
        let drafter = Drafter::new(request.speculate);
        let mut generation = Self {
            request,
            sink,
            sampler,
            drafter,
            tokens,
            prompt,
            limit,
            cached: 0,
            scored: None,
            started: false,
            asked: false,
            parked: None,
        };
        generation.begin_anew();
        generation
    }

    /// Its pages are gone: what was only half done begins again.
    pub fn begin_anew(&mut self) {
        // Its logits are computed again.
        self.parked.take_if(|parked| matches!(parked, Parked::Choice(_)));
        if !self.started {
            self.cached = 0;
            // Nothing predicts the first token.
            let first = || vec![Token { id: self.tokens[0], logprob: None, top: Vec::new() }];
            self.scored = self.request.prompt_logprobs.then(first);
        }
    }

    /// `held`: how many of its tokens are in the cache.
    pub fn due(&self, held: usize) -> Due {
        match self.tokens.len() - held {
            _ if self.parked.is_some() => Due::Parked,
            _ if held < self.prompt => Due::Prompt(self.prompt - held),
            1 => Due::Step,
            rows => Due::Again(rows),
        }
    }

    /// The prompt, then the answer so far.
    pub fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    pub fn prompt(&self) -> &[u32] {
        &self.tokens[..self.prompt]
    }

    /// Tokens that it needs room for before it has generated the next: what it has, and one more unless that is its last,
    /// which never enters the cache.
    pub fn needs(&self) -> usize {
        let most = self.prompt + self.limit.saturating_sub(1);
        (self.tokens.len() + 1).min(most)
    }

    /// How many of its tokens are in the cache when a pass has run them all.
    pub fn run(&self) -> usize {
        match self.parked {
            Some(Parked::Choice(_)) => self.tokens.len(),
            _ => self.tokens.len() - 1,
        }
    }

    pub fn is_parked(&self) -> bool {
        self.parked.is_some()
    }

    pub fn generated(&self) -> usize {
        self.tokens.len() - self.prompt
    }

    /// Each row of the prompt has to be run for its logits, so none is taken over.
    pub fn scores_prompt(&self) -> bool {
        self.scored.is_some()
    }

    /// Prompt tokens that one pass may take.
    pub fn most_prompt_rows(&self) -> usize {
        if self.scores_prompt() { SCORED_ROWS } else { usize::MAX }
    }

    /// The page's worth of tokens from `start` on, when there are so many, and how many of them are the prompt's.
    pub fn page(&self, start: usize) -> Option<([u32; PAGE], usize)> {
        let tokens = self.tokens.get(start..start + PAGE)?.try_into().ok()?;
        Some((tokens, self.prompt.saturating_sub(start).min(PAGE)))
    }

    /// The same for a page that may be taken over: a token must be left to run, since its logits are needed.
    pub fn wanted_page(&self, start: usize) -> Option<([u32; PAGE], usize)> {
        let wanted = !self.scores_prompt() && start + PAGE < self.tokens.len();
        wanted.then(|| self.page(start)).flatten()
    }

    /// So many tokens need not be run.
    pub fn found(&mut self, tokens: usize) {
        if self.generated() == 0 {
            self.cached += tokens;
        }
    }

    /// Prompt tokens that were found in the cache.
    pub fn cached(&self) -> usize {
        self.cached
    }

    /// Whether it has the same prompt, of which nothing has been answered yet, and can go on from the other's logits.
    pub fn is_twin_of(&self, other: &Self) -> bool {
        self.generated() == 0 && !self.scores_prompt() && self.prompt() == other.prompt()
    }

    /// A guess at the next tokens, at most `room`.
    pub fn draft(&self, room: usize) -> &[u32] {
        let room = room.min((self.limit - self.generated()).saturating_sub(1));
        &self.tokens[self.drafter.guess(&self.tokens, room)]
    }

    pub fn receiver_gone(&self) -> bool {
        self.sink.closed()
    }

    /// Each row of the prompt scores the token after it.
    pub fn score(&mut self, rows: Range<usize>, logits: &[f32], vocabulary: usize) {
        let Some(scores) = &mut self.scored else { return };
        let top = self.request.logprobs.unwrap_or(0);
        for (row, logits) in rows.zip(logits.chunks_exact(vocabulary)) {
            if let Some(id) = self.tokens[..self.prompt].get(row + 1) {
                scores.push(scored(*id, Some(top), logits));
            }
        }
    }

    /// Goes on from the logits of the newest token and of those guessed to follow it. A constraint may take until `until`
    /// to say what may come; then the answer is parked.
    pub fn go_on(
        &mut self,
        logits: &[f32],
        vocabulary: usize,
        guessed: &[u32],
        until: Instant,
    ) -> Option<Leave> {
        if !self.started
            && let Some(leave) = self.start()
        {
            return Some(leave);
        }
        let before = self.generated();
        for (index, row) in logits.chunks_exact(vocabulary).enumerate() {
            match self.choose(row, until) {
                Chosen::Token => {}
                Chosen::Nothing => break,
                Chosen::Last(leave) => return Some(leave),
            }
            if self.is_parked() || guessed.get(index) != self.tokens.last() {
                break;
            }
        }
        let came_true = (self.generated() - before).saturating_sub(1).min(guessed.len());
        self.drafter.learn(guessed.len(), came_true);
        None
    }

    /// Goes on as far as its constraint has said what may come, waiting for that until `until`.
    pub fn resume(&mut self, until: Instant) -> Option<Leave> {
        if let Some(Parked::Choice(logits)) =
            self.parked.take_if(|parked| matches!(parked, Parked::Choice(_)))
            && let Chosen::Last(leave) = self.choose(&logits, until)
        {
            return Some(leave);
        }
        self.conclude(until)
    }

    /// Hears whether the answer is complete with its last token, waiting for that until `until`.
    pub fn conclude(&mut self, until: Instant) -> Option<Leave> {
        let constraint = self.request.constraint.as_mut().filter(|_| self.asked)?;
        match constraint.is_complete(left(until)) {
            Ok(None) => return None,
            Ok(Some(true)) => return Some(Leave::End(EndReason::Complete)),
            Ok(Some(false)) => self.asked = false,
            Err(error) => return Some(Leave::End(error.into())),
        }
        matches!(self.parked, Some(Parked::Verdict)).then_some(Leave::End(EndReason::Length))
    }

    /// Whether [`Generation::conclude`] has something to hear.
    pub fn awaits_verdict(&self) -> bool {
        self.asked
    }

    fn start(&mut self) -> Option<Leave> {
        self.started = true;
        let prompt = self.scored.take();
        if !self.sink.send(Event::Started { prompt }) {
            return Some(Leave::Gone);
        }
        (self.limit == 0).then_some(Leave::End(EndReason::Length))
    }

    /// Chooses one token.
    fn choose(&mut self, logits: &[f32], until: Instant) -> Chosen {
        let id = match self.pick(logits, until) {
            Ok(Some(id)) => id,
            Ok(None) => return Chosen::Nothing,
            Err(reason) => return Chosen::Last(Leave::End(reason)),
        };
        self.tokens.push(id);
        if !self.request.ignore_eos && self.request.stop_token_ids.contains(&id) {
            return Chosen::Last(Leave::End(EndReason::Eos(id)));
        }
        let token = scored(id, self.request.logprobs, logits);
        if !self.sink.send(Event::Token(token)) {
            return Chosen::Last(Leave::Gone);
        }
        if self.generated() < self.limit {
            return Chosen::Token;
        }
        if self.asked {
            self.parked = Some(Parked::Verdict);
            return Chosen::Token;
        }
        Chosen::Last(Leave::End(EndReason::Length))
    }

    /// A token that may come; `None` when that is not known yet, and the answer is parked.
    fn pick(&mut self, logits: &[f32], until: Instant) -> Result<Option<u32>, EndReason> {
        let Some(constraint) = &mut self.request.constraint else {
            return Ok(Some(self.sampler.sample(logits, None)));
        };
        let mask = match constraint.next(left(until))? {
            Next::Mask(mask) => mask,
            Next::Complete => return Err(EndReason::Complete),
            Next::Pending => {
                self.parked = Some(Parked::Choice(logits.to_vec()));
                return Ok(None);
            }
        };
        if !allows_any(mask, logits.len()) {
            return Err(EndReason::Unsatisfiable("no token can follow".to_owned()));
        }
        let id = self.sampler.sample(logits, Some(mask));
        constraint.accept(id)?;
        self.asked = true;
        Ok(Some(id))
    }

    /// The last event; its pages and its place are free by now.
    pub fn end(mut self, reason: EndReason) {
        let (prompt_tokens, generated) = (self.prompt, self.generated());
        let event = Event::End { reason, prompt_tokens, cached: self.cached, generated };
        tell(&mut *self.sink, event);
    }
}

fn left(until: Instant) -> Duration {
    until.saturating_duration_since(Instant::now())
}

impl From<ConstraintError> for EndReason {
    fn from(error: ConstraintError) -> Self {
        match error {
            ConstraintError::Invalid(why) => Self::Unsatisfiable(why),
            ConstraintError::Unavailable(why) => Self::ConstraintLost(why),
        }
    }
}

/// The last event. A sink that panics has only itself to blame.
pub(crate) fn tell(sink: &mut dyn Sink, event: Event) {
    let sent = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| sink.send(event)));
    if sent.is_err() {
        tracing::error!("a request's sink panicked at its end");
    }
}

fn scored(id: u32, top: Option<usize>, logits: &[f32]) -> Token {
    let Some(top) = top else {
        return Token { id, logprob: None, top: Vec::new() };
    };
    let (logprob, top) = logprobs(logits, id, top);
    Token { id, logprob: Some(logprob), top }
}
