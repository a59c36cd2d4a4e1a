//! One request from arrival to end: its text so far, its sampler, and the events that its sink receives. Preemption
//! takes its KV blocks away; the text stays.

use std::ops::Range;
use std::time::{Duration, Instant};

use crate::kv_cache::BLOCK_SIZE;
use crate::request::{EndReason, Event, Request, Sink, Token};
use crate::sampling::grammar::allows_any;
use crate::sampling::sampler::{Sampler, logprobs};
use crate::sampling::{AllowedTokens, ConstraintError};
use crate::scheduler::prompt_lookup::PromptLookup;

/// The most prompt rows that are scored in one pass: their logits are a pass's largest output.
const MAX_SCORED_ROWS: usize = 64;

/// A request and its text.
pub(crate) struct Sequence {
    request: Request,
    sink: Box<dyn Sink>,
    sampler: Sampler,
    lookup: PromptLookup,
    /// The prompt, then the answer so far.
    tokens: Vec<u32>,
    prompt_length: usize,
    /// Tokens that may be generated: the smaller of what the request and the context allow.
    limit: usize,
    /// Prompt tokens that were found in the KV cache.
    cached: usize,
    /// The prompt's tokens as far as they are scored, until they are sent.
    prompt_scores: Option<Vec<Token>>,
    /// Its sink has received `Started`.
    started: bool,
    /// The constraint has not answered yet whether the text is complete with its last token.
    awaits_completion: bool,
    paused: Option<Paused>,
}

/// The result that a sequence awaits from its constraint. The sequence takes no part in passes meanwhile.
#[derive(Debug)]
enum Paused {
    /// The allowed tokens, to sample from these logits of its newest token.
    Sampling(Vec<f32>),
    /// The check for a complete text. The sequence has reached its maximum number of tokens.
    Completion,
}

/// The outcome of sampling one token.
enum Sampled {
    Token,
    Pending,
    Finished(Finish),
}

/// The rows that a sequence has to run next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NextRows {
    /// This many tokens of the prompt.
    Prefill(usize),
    /// This many tokens of the answer that lost their blocks to a preemption, including the newest.
    Recompute(usize),
    /// The newest token.
    Decode,
    /// None, until its constraint has answered.
    Paused,
}

/// The reason why a sequence leaves the running batch.
#[derive(Debug)]
pub(crate) enum Finish {
    End(EndReason),
    /// The receiver is gone, so no event is sent.
    Disconnected,
}

impl Sequence {
    /// The request must have been checked against the context.
    pub fn new(mut request: Request, sink: Box<dyn Sink>, context_length: usize) -> Self {
        let tokens = std::mem::take(&mut request.prompt);
        let prompt_length = tokens.len();
        let limit = request.max_tokens.unwrap_or(usize::MAX).min(context_length - prompt_length);
        let sampler = Sampler::new(request.sampling.clone(), &tokens);
        let lookup = PromptLookup::new(request.max_draft_tokens);
        let mut sequence = Self {
            request,
            sink,
            sampler,
            lookup,
            tokens,
            prompt_length,
            limit,
            cached: 0,
            prompt_scores: None,
            started: false,
            awaits_completion: false,
            paused: None,
        };
        sequence.reset();
        sequence
    }

    /// Drops what depended on its blocks: unfinished work begins again.
    pub fn reset(&mut self) {
        // Its logits are computed again.
        self.paused.take_if(|paused| matches!(paused, Paused::Sampling(_)));
        if !self.started {
            self.cached = 0;
            // Nothing predicts the first token.
            let first = || vec![Token { id: self.tokens[0], logprob: None, top: Vec::new() }];
            self.prompt_scores = self.request.prompt_logprobs.then(first);
        }
    }

    /// Returns the rows to run next when `computed` of its tokens are in the KV cache.
    pub fn next_rows(&self, computed: usize) -> NextRows {
        match self.tokens.len() - computed {
            _ if self.paused.is_some() => NextRows::Paused,
            _ if computed < self.prompt_length => NextRows::Prefill(self.prompt_length - computed),
            1 => NextRows::Decode,
            rows => NextRows::Recompute(rows),
        }
    }

    /// Returns the prompt, then the answer so far.
    pub fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    pub fn prompt(&self) -> &[u32] {
        &self.tokens[..self.prompt_length]
    }

    /// Returns the tokens that it needs room for until it has generated the next one: those it has, and one more
    /// unless that is its last, which never enters the cache.
    pub fn required_tokens(&self) -> usize {
        let most = self.prompt_length + self.limit.saturating_sub(1);
        (self.tokens.len() + 1).min(most)
    }

    /// Returns how many of its tokens are in the KV cache after a pass that ran them all.
    pub fn computed_tokens(&self) -> usize {
        match self.paused {
            Some(Paused::Sampling(_)) => self.tokens.len(),
            _ => self.tokens.len() - 1,
        }
    }

    pub fn is_paused(&self) -> bool {
        self.paused.is_some()
    }

    /// Returns the number of generated tokens.
    pub fn generated(&self) -> usize {
        self.tokens.len() - self.prompt_length
    }

    /// Returns whether each row of the prompt has to run for its logits. Then it shares no prefix.
    pub fn scores_prompt(&self) -> bool {
        self.prompt_scores.is_some()
    }

    /// Returns the most prompt rows that one pass may run.
    pub fn max_prefill_rows(&self) -> usize {
        if self.scores_prompt() { MAX_SCORED_ROWS } else { usize::MAX }
    }

    /// Returns the tokens of the block that begins at `start`, if it has as many, and how many of them are the
    /// prompt's.
    pub fn block(&self, start: usize) -> Option<([u32; BLOCK_SIZE], usize)> {
        let tokens = self.tokens.get(start..start + BLOCK_SIZE)?.try_into().ok()?;
        Some((tokens, self.prompt_length.saturating_sub(start).min(BLOCK_SIZE)))
    }

    /// Returns the same for a block that it may share: one token must be left to run, since its logits are needed.
    pub fn shareable_block(&self, start: usize) -> Option<([u32; BLOCK_SIZE], usize)> {
        let shareable = !self.scores_prompt() && start + BLOCK_SIZE < self.tokens.len();
        shareable.then(|| self.block(start)).flatten()
    }

    /// Notes that `tokens` tokens were found in the KV cache.
    pub fn found_in_cache(&mut self, tokens: usize) {
        if self.generated() == 0 {
            self.cached += tokens;
        }
    }

    /// Returns the number of prompt tokens that were found in the KV cache.
    pub fn cached(&self) -> usize {
        self.cached
    }

    /// Returns whether it has the same prompt as `other`, no answer yet, and can sample from the other's logits.
    pub fn can_fork_from(&self, other: &Self) -> bool {
        self.generated() == 0 && !self.scores_prompt() && self.prompt() == other.prompt()
    }

    /// Returns draft tokens for what follows, at most `room`.
    pub fn draft(&self, room: usize) -> &[u32] {
        let room = room.min((self.limit - self.generated()).saturating_sub(1));
        &self.tokens[self.lookup.propose(&self.tokens, room)]
    }

    pub fn is_disconnected(&self) -> bool {
        self.sink.closed()
    }

    /// Scores prompt tokens: the logits of each row are those of the token after it.
    pub fn score_prompt(&mut self, rows: Range<usize>, logits: &[f32], vocabulary: usize) {
        let Some(scores) = &mut self.prompt_scores else { return };
        let top = self.request.logprobs.unwrap_or(0);
        for (row, logits) in rows.zip(logits.chunks_exact(vocabulary)) {
            if let Some(id) = self.tokens[..self.prompt_length].get(row + 1) {
                scores.push(scored(*id, Some(top), logits));
            }
        }
    }

    /// Samples from the logits, `[1 + draft, vocabulary]`, of the newest token and of the draft tokens after it, as
    /// far as the draft is accepted. A constraint may take until `until` to tell the allowed tokens; then the
    /// sequence pauses.
    pub fn sample(
        &mut self,
        logits: &[f32],
        vocabulary: usize,
        draft: &[u32],
        until: Instant,
    ) -> Option<Finish> {
        if !self.started
            && let Some(finish) = self.start()
        {
            return Some(finish);
        }
        let before = self.generated();
        for (index, row) in logits.chunks_exact(vocabulary).enumerate() {
            match self.sample_token(row, until) {
                Sampled::Token => {}
                Sampled::Pending => break,
                Sampled::Finished(finish) => return Some(finish),
            }
            if self.is_paused() || draft.get(index) != self.tokens.last() {
                break;
            }
        }
        let accepted = (self.generated() - before).saturating_sub(1).min(draft.len());
        self.lookup.update(draft.len(), accepted);
        None
    }

    /// Continues as far as its constraint has answered, waiting for that until `until`.
    pub fn resume(&mut self, until: Instant) -> Option<Finish> {
        if let Some(Paused::Sampling(logits)) =
            self.paused.take_if(|paused| matches!(paused, Paused::Sampling(_)))
            && let Sampled::Finished(finish) = self.sample_token(&logits, until)
        {
            return Some(finish);
        }
        self.check_completion(until)
    }

    /// Asks the constraint whether the text is complete with its last token, waiting for the answer until `until`.
    pub fn check_completion(&mut self, until: Instant) -> Option<Finish> {
        let constraint = self.request.constraint.as_mut().filter(|_| self.awaits_completion)?;
        match constraint.is_complete(remaining(until)) {
            Ok(None) => return None,
            Ok(Some(true)) => return Some(Finish::End(EndReason::Complete)),
            Ok(Some(false)) => self.awaits_completion = false,
            Err(error) => return Some(Finish::End(error.into())),
        }
        matches!(self.paused, Some(Paused::Completion)).then_some(Finish::End(EndReason::Length))
    }

    /// Returns whether [`Sequence::check_completion`] has something to ask.
    pub fn awaits_completion(&self) -> bool {
        self.awaits_completion
    }

    fn start(&mut self) -> Option<Finish> {
        self.started = true;
        let prompt = self.prompt_scores.take();
        if !self.sink.send(Event::Started { prompt }) {
            return Some(Finish::Disconnected);
        }
        (self.limit == 0).then_some(Finish::End(EndReason::Length))
    }

    /// Samples one token and sends it.
    fn sample_token(&mut self, logits: &[f32], until: Instant) -> Sampled {
        let id = match self.choose(logits, until) {
            Ok(Some(id)) => id,
            Ok(None) => return Sampled::Pending,
            Err(reason) => return Sampled::Finished(Finish::End(reason)),
        };
        self.tokens.push(id);
        if !self.request.ignore_eos && self.request.stop_token_ids.contains(&id) {
            return Sampled::Finished(Finish::End(EndReason::Eos(id)));
        }
        let token = scored(id, self.request.logprobs, logits);
        if !self.sink.send(Event::Token(token)) {
            return Sampled::Finished(Finish::Disconnected);
        }
        if self.generated() < self.limit {
            return Sampled::Token;
        }
        if self.awaits_completion {
            self.paused = Some(Paused::Completion);
            return Sampled::Token;
        }
        Sampled::Finished(Finish::End(EndReason::Length))
    }

    /// Returns an allowed token; `None`, and pauses, if the allowed tokens are not known yet.
    fn choose(&mut self, logits: &[f32], until: Instant) -> Result<Option<u32>, EndReason> {
        let Some(constraint) = &mut self.request.constraint else {
            return Ok(Some(self.sampler.sample(logits, None)));
        };
        let mask = match constraint.allowed_tokens(remaining(until))? {
            AllowedTokens::Mask(mask) => mask,
            AllowedTokens::Complete => return Err(EndReason::Complete),
            AllowedTokens::Pending => {
                self.paused = Some(Paused::Sampling(logits.to_vec()));
                return Ok(None);
            }
        };
        if !allows_any(mask, logits.len()) {
            return Err(EndReason::Unsatisfiable("no token can follow".to_owned()));
        }
        let id = self.sampler.sample(logits, Some(mask));
        constraint.accept(id)?;
        self.awaits_completion = true;
        Ok(Some(id))
    }

    /// Sends the last event. Its blocks and its slot must be free by then.
    pub fn end(mut self, reason: EndReason) {
        let (prompt_tokens, generated) = (self.prompt_length, self.generated());
        let event = Event::End { reason, prompt_tokens, cached: self.cached, generated };
        send_end(&mut *self.sink, event);
    }
}

fn remaining(until: Instant) -> Duration {
    until.saturating_duration_since(Instant::now())
}

impl From<ConstraintError> for EndReason {
    fn from(error: ConstraintError) -> Self {
        match error {
            ConstraintError::Invalid(why) => Self::Unsatisfiable(why),
            ConstraintError::Unavailable(why) => Self::ConstraintUnavailable(why),
        }
    }
}

/// Sends the last event. A panic of the sink is logged: it must not end the engine.
pub(crate) fn send_end(sink: &mut dyn Sink, event: Event) {
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
