//! From logits to a token: bias and penalties, temperature, top-k, top-p, min-p, then one draw from a generator
//! that belongs to the request, so a seed gives the same text whoever shares the batch.

use std::collections::HashMap;

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::constraint;
use crate::request::SubmitError;
use crate::vector::{exp, log_sum_exp};

/// How tokens are chosen. The default samples from the model's own distribution.
#[derive(Debug, Clone, PartialEq)]
pub struct Sampling {
    /// Divides the logits; 0 always takes the most likely token.
    pub temperature: f32,
    /// Only the k most likely tokens; 0 is all.
    pub top_k: usize,
    /// Only the fewest most likely tokens that together reach this probability; 1 is all.
    pub top_p: f32,
    /// Only tokens at least this probable relative to the most likely one; 0 is all.
    pub min_p: f32,
    /// Tokens of the prompt and of the answer: a positive logit is divided by this, a negative multiplied; 1 is off.
    pub repetition_penalty: f32,
    /// Subtracted from a token's logit for each time the answer has it.
    pub frequency_penalty: f32,
    /// Subtracted once from the logit of each token that the answer has.
    pub presence_penalty: f32,
    /// Added to these tokens' logits.
    pub logit_bias: Vec<(u32, f32)>,
    /// The same seed and request give the same tokens; `None` takes one from the operating system.
    pub seed: Option<u64>,
}

impl Default for Sampling {
    fn default() -> Self {
        Self {
            temperature: 1.0,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            repetition_penalty: 1.0,
            frequency_penalty: 0.0,
            presence_penalty: 0.0,
            logit_bias: Vec::new(),
            seed: None,
        }
    }
}

impl Sampling {
    /// Always the most likely token.
    pub fn greedy() -> Self {
        Self { temperature: 0.0, ..Self::default() }
    }

    pub fn check(&self) -> Result<(), SubmitError> {
        let valid = |holds: bool, field, why| {
            if holds { Ok(()) } else { Err(SubmitError::InvalidSampling { field, why }) }
        };
        valid(self.temperature.is_finite() && self.temperature >= 0.0, "temperature", "must be 0 or more")?;
        valid(self.top_p > 0.0 && self.top_p <= 1.0, "top_p", "must be above 0 and at most 1")?;
        valid((0.0..=1.0).contains(&self.min_p), "min_p", "must be from 0 to 1")?;
        let repetition = self.repetition_penalty;
        valid(repetition.is_finite() && repetition > 0.0, "repetition_penalty", "must be above 0")?;
        valid(self.frequency_penalty.is_finite(), "frequency_penalty", "must be a number")?;
        valid(self.presence_penalty.is_finite(), "presence_penalty", "must be a number")?;
        valid(!self.logit_bias.iter().any(|(_, bias)| bias.is_nan()), "logit_bias", "must be numbers")
    }
}

/// One request's sampler: its settings, its generator, and what the text so far holds.
pub struct Sampler {
    sampling: Sampling,
    random: ChaCha8Rng,
    /// How often each token is in the answer; tokens of the prompt alone have 0.
    seen: HashMap<u32, u32>,
    logits: Vec<f32>,
    candidates: Vec<(u32, f32)>,
}

impl Sampler {
    pub fn new(sampling: Sampling, prompt: &[u32]) -> Self {
        let random = sampling.seed.map_or_else(ChaCha8Rng::from_os_rng, ChaCha8Rng::seed_from_u64);
        let repetition = (sampling.repetition_penalty - 1.0).abs() > f32::EPSILON;
        let seen = if repetition { prompt.iter().map(|token| (*token, 0)).collect() } else { HashMap::new() };
        Self { sampling, random, seen, logits: Vec::new(), candidates: Vec::new() }
    }

    /// Chooses the next token by the model's logits, among those that `mask` allows (32 in a word), and counts it as part
    /// of the answer.
    pub fn sample(&mut self, logits: &[f32], mask: Option<&[u32]>) -> u32 {
        let token = if mask.is_some() || self.adjusts() {
            let mut adjusted = std::mem::take(&mut self.logits);
            adjusted.clear();
            adjusted.extend_from_slice(logits);
            self.adjust(&mut adjusted);
            if let Some(mask) = mask {
                constraint::mask(mask, &mut adjusted);
            }
            let token = self.choose(&adjusted);
            self.logits = adjusted;
            token
        } else {
            self.choose(logits)
        };
        *self.seen.entry(token).or_default() += 1;
        token
    }

    /// Exact comparisons: these are settings, off at one very value.
    #[allow(clippy::float_cmp)]
    fn adjusts(&self) -> bool {
        let Sampling { repetition_penalty, frequency_penalty, presence_penalty, logit_bias, .. } =
            &self.sampling;
        !logit_bias.is_empty()
            || *repetition_penalty != 1.0
            || *frequency_penalty != 0.0
            || *presence_penalty != 0.0
    }

    fn adjust(&self, logits: &mut [f32]) {
        let sampling = &self.sampling;
        for (token, count) in &self.seen {
            let logit = &mut logits[*token as usize];
            *logit = if *logit > 0.0 {
                *logit / sampling.repetition_penalty
            } else {
                *logit * sampling.repetition_penalty
            };
            *logit -= *count as f32 * sampling.frequency_penalty;
            *logit -= if *count > 0 { sampling.presence_penalty } else { 0.0 };
        }
        for (token, bias) in &sampling.logit_bias {
            if let Some(logit) = logits.get_mut(*token as usize) {
                *logit += bias;
            }
        }
    }

    fn choose(&mut self, logits: &[f32]) -> u32 {
        if self.sampling.temperature == 0.0 || self.sampling.top_k == 1 {
            return most_likely(logits);
        }
        self.keep_candidates(logits);
        let total: f32 = self.candidates.iter().map(|(_, weight)| weight).sum();
        let mut left = self.random.random::<f32>() * total;
        for (token, weight) in &self.candidates {
            left -= weight;
            if left < 0.0 {
                return *token;
            }
        }
        // Rounding left a remainder, or the logits were not numbers.
        most_likely(logits)
    }

    /// Leaves in `candidates` the tokens that may be drawn, each with a weight proportional to its probability.
    fn keep_candidates(&mut self, logits: &[f32]) {
        let Sampling { temperature, top_k, top_p, min_p, .. } = self.sampling;
        let most = logits[most_likely(logits) as usize];
        let candidates = &mut self.candidates;
        candidates.clear();
        candidates.extend((0..).zip(logits).map(|(token, logit)| (token, exp((logit - most) / temperature))));
        if top_k > 0 && top_k < candidates.len() {
            candidates.select_nth_unstable_by(top_k - 1, heavier);
            candidates.truncate(top_k);
        }
        if top_p < 1.0 {
            keep_most_likely(candidates, top_p);
        }
        if min_p > 0.0 {
            // The most likely token's weight is 1.
            candidates.retain(|(_, weight)| *weight >= min_p);
        }
        // Selection leaves an order of its own; the draw must not depend on it.
        candidates.sort_unstable_by_key(|(token, _)| *token);
    }
}

/// By falling weight; among equals the lower id first, so the choice is always the same.
#[allow(clippy::trivially_copy_pass_by_ref)] // the shape that sorting asks for
fn heavier(a: &(u32, f32), b: &(u32, f32)) -> std::cmp::Ordering {
    b.1.total_cmp(&a.1).then(a.0.cmp(&b.0))
}

/// Keeps the fewest heaviest candidates that hold at least `share` of the whole weight.
fn keep_most_likely(candidates: &mut Vec<(u32, f32)>, share: f32) {
    let wanted = share * candidates.iter().map(|(_, weight)| weight).sum::<f32>();
    // The nucleus is usually small: sort no more than it takes.
    let (mut sorted, mut sum, mut step) = (0, 0.0, 64);
    while sorted < candidates.len() {
        let rest = &mut candidates[sorted..];
        let take = step.min(rest.len());
        if take < rest.len() {
            rest.select_nth_unstable_by(take - 1, heavier);
        }
        rest[..take].sort_unstable_by(heavier);
        for (index, (_, weight)) in rest[..take].iter().enumerate() {
            sum += weight;
            if sum >= wanted {
                candidates.truncate(sorted + index + 1);
                return;
            }
        }
        sorted += take;
        step *= 4;
    }
}

/// The first of the largest.
pub fn most_likely(logits: &[f32]) -> u32 {
    let mut best = (0, f32::NEG_INFINITY);
    for (token, logit) in (0..).zip(logits) {
        if *logit > best.1 {
            best = (token, *logit);
        }
    }
    best.0
}

/// A token's log-probability and the `top` most likely ones, from the model's own logits.
pub fn logprobs(logits: &[f32], token: u32, top: usize) -> (f32, Vec<(u32, f32)>) {
    let total = log_sum_exp(logits);
    let mut best: Vec<(u32, f32)> = Vec::with_capacity(top + 1);
    for (id, logit) in (0..).zip(logits) {
        if best.len() < top || best.last().is_some_and(|(_, least)| logit > least) {
            let place = best.partition_point(|(_, other)| other >= logit);
            best.insert(place, (id, *logit));
            best.truncate(top);
        }
    }
    for (_, logit) in &mut best {
        *logit -= total;
    }
    (logits[token as usize] - total, best)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOGITS: [f32; 5] = [1.0, 3.0, 2.0, -1.0, 2.5];

    /// Shares of 20,000 draws.
    fn shares(sampling: &Sampling, logits: &[f32]) -> Vec<f32> {
        let mut counts = vec![0.0; logits.len()];
        let mut sampler = Sampler::new(Sampling { seed: Some(1), ..sampling.clone() }, &[]);
        for _ in 0..20_000 {
            counts[sampler.choose(logits) as usize] += 1.0 / 20_000.0;
        }
        counts
    }

    fn softmax(logits: &[f32], temperature: f32) -> Vec<f32> {
        let weights: Vec<f32> = logits.iter().map(|logit| (logit / temperature).exp()).collect();
        let total: f32 = weights.iter().sum();
        weights.iter().map(|weight| weight / total).collect()
    }

    fn assert_shares(sampling: &Sampling, expected: &[f32]) {
        for (got, expected) in shares(sampling, &LOGITS).iter().zip(expected) {
            assert!((got - expected).abs() < 0.012, "{sampling:?}: {got}, not {expected}");
        }
    }

    /// The distribution over `kept` only.
    fn among(kept: &[usize], temperature: f32) -> Vec<f32> {
        let mut shares = softmax(&LOGITS, temperature);
        let total: f32 = kept.iter().map(|token| shares[*token]).sum();
        for (token, share) in shares.iter_mut().enumerate() {
            *share = if kept.contains(&token) { *share / total } else { 0.0 };
        }
        shares
    }

    #[test]
    fn draws_follow_the_distribution() {
        let base = Sampling::default();
        assert_shares(&base, &softmax(&LOGITS, 1.0));
        assert_shares(&Sampling { temperature: 2.0, ..base.clone() }, &softmax(&LOGITS, 2.0));
        assert_shares(&Sampling { top_k: 2, ..base.clone() }, &among(&[1, 4], 1.0));
        // Shares: 0.46, 0.28, 0.17, 0.06, 0.01.
        assert_shares(&Sampling { top_p: 0.5, ..base.clone() }, &among(&[1, 4], 1.0));
        assert_shares(&Sampling { top_p: 0.8, ..base.clone() }, &among(&[1, 4, 2], 1.0));
        assert_shares(&Sampling { min_p: 0.3, ..base.clone() }, &among(&[1, 2, 4], 1.0));
        assert_shares(&Sampling { top_k: 4, top_p: 0.999, min_p: 0.5, ..base }, &among(&[1, 4], 1.0));
    }

    #[test]
    fn zero_temperature_and_a_tiny_one_take_the_first_of_the_largest() {
        let mut sampler = Sampler::new(Sampling::greedy(), &[]);
        assert_eq!(sampler.sample(&[0.0, 2.0, 2.0], None), 1);
        let mut sampler = Sampler::new(Sampling { temperature: 1e-30, ..Sampling::default() }, &[]);
        assert_eq!(sampler.sample(&LOGITS, None), 1);
        assert_eq!(sampler.sample(&[f32::NAN; 3], None), 0);
    }

    #[test]
    fn a_wide_nucleus_is_exact() {
        let weights: Vec<(u32, f32)> = (0..10_000).map(|i| (i, ((i * 7919) % 10_000) as f32)).collect();
        let mut kept = weights.clone();
        keep_most_likely(&mut kept, 0.5);
        let mut sorted = weights;
        sorted.sort_by(heavier);
        let total: f64 = sorted.iter().map(|(_, weight)| f64::from(*weight)).sum();
        let mut sum = 0.0;
        let expected = sorted.iter().take_while(|(_, weight)| {
            let before = sum;
            sum += f64::from(*weight);
            before < total * 0.5
        });
        assert!(kept.len().abs_diff(expected.count()) <= 1);
        sorted.truncate(kept.len());
        assert_eq!(kept, sorted);
    }

    fn adjusted(sampling: Sampling, prompt: &[u32], answer: &[u32]) -> Vec<f32> {
        let mut sampler = Sampler::new(sampling, prompt);
        for token in answer {
            *sampler.seen.entry(*token).or_default() += 1;
        }
        let mut logits = LOGITS.to_vec();
        assert!(sampler.adjusts());
        sampler.adjust(&mut logits);
        logits
    }

    #[test]
    fn penalties_and_bias() {
        let base = Sampling::greedy();
        // Repetition: prompt and answer, once each, towards zero probability on either side of 0.
        let repetition = Sampling { repetition_penalty: 2.0, ..base.clone() };
        assert_eq!(adjusted(repetition, &[0, 3], &[1, 1]), [0.5, 1.5, 2.0, -2.0, 2.5]);
        // Frequency and presence: the answer only, by count and once.
        let frequency = Sampling { frequency_penalty: 0.5, ..base.clone() };
        assert_eq!(adjusted(frequency, &[0, 3], &[1, 1]), [1.0, 2.0, 2.0, -1.0, 2.5]);
        let presence = Sampling { presence_penalty: 0.5, ..base.clone() };
        assert_eq!(adjusted(presence, &[0, 3], &[1, 1]), [1.0, 2.5, 2.0, -1.0, 2.5]);
        let bias =
            Sampling { logit_bias: vec![(3, 100.0), (1, f32::NEG_INFINITY), (99, 1.0)], ..base.clone() };
        assert_eq!(adjusted(bias.clone(), &[], &[]), [1.0, f32::NEG_INFINITY, 2.0, 99.0, 2.5]);
        assert_eq!(Sampler::new(bias, &[]).sample(&LOGITS, None), 3);
        let mut sampler = Sampler::new(Sampling { presence_penalty: 1.0, ..base }, &[]);
        assert_eq!([(); 3].map(|()| sampler.sample(&LOGITS, None)), [1, 4, 1]);
    }

    #[test]
    fn a_seed_decides_the_draws() {
        let draws = |seed| {
            let mut sampler = Sampler::new(Sampling { seed, ..Sampling::default() }, &[]);
            (0..50).map(|_| sampler.sample(&LOGITS, None)).collect::<Vec<_>>()
        };
        assert_eq!(draws(Some(7)), draws(Some(7)));
        assert_ne!(draws(Some(7)), draws(Some(8)));
        assert_ne!(draws(None), draws(None));
    }

    #[test]
    fn logprobs_are_of_the_raw_logits_and_sorted() {
        let (own, top) = logprobs(&LOGITS, 2, 3);
        let shares = softmax(&LOGITS, 1.0);
        assert!((own - shares[2].ln()).abs() < 1e-5);
        assert_eq!(top.iter().map(|(token, _)| *token).collect::<Vec<_>>(), [1, 4, 2]);
        for (token, logprob) in top {
            assert!((logprob - shares[token as usize].ln()).abs() < 1e-5);
        }
        assert_eq!(logprobs(&LOGITS, 0, 0).1, []);
        assert_eq!(logprobs(&LOGITS, 0, 9).1.len(), 5);
    }
}
