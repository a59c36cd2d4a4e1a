//! The sampler: penalties and biases, the grammar's mask, temperature, top-k, top-p, min-p, then one draw from the
//! request's own generator. So a seed gives the same text whichever requests share the batch.

use std::collections::HashMap;

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::sampling::grammar::apply_mask;
use crate::sampling::params::SamplingParams;
use crate::sys::simd::{exp, log_sum_exp};

/// One request's sampler: its parameters, its random generator, and the tokens of its text so far.
pub(crate) struct Sampler {
    params: SamplingParams,
    random: ChaCha8Rng,
    /// The number of times that each token is in the answer. Tokens of the prompt alone have 0.
    counts: HashMap<u32, u32>,
    /// Kept between tokens for its memory.
    logits: Vec<f32>,
    /// Token ids with weights, kept between tokens for their memory.
    candidates: Vec<(u32, f32)>,
}

impl Sampler {
    /// Makes a sampler for an answer to `prompt`.
    pub fn new(params: SamplingParams, prompt: &[u32]) -> Self {
        let random = params.seed.map_or_else(ChaCha8Rng::from_os_rng, ChaCha8Rng::seed_from_u64);
        let repetition = (params.repetition_penalty - 1.0).abs() > f32::EPSILON;
        let counts =
            if repetition { prompt.iter().map(|token| (*token, 0)).collect() } else { HashMap::new() };
        Self { params, random, counts, logits: Vec::new(), candidates: Vec::new() }
    }

    /// Samples the next token from the model's logits, `[vocabulary]`, and counts it as part of the answer. `mask`
    /// allows a bit for each token, 32 in a word.
    pub fn sample(&mut self, logits: &[f32], mask: Option<&[u32]>) -> u32 {
        let token = if mask.is_some() || self.params.adjusts_logits() {
            let mut adjusted = std::mem::take(&mut self.logits);
            adjusted.clear();
            adjusted.extend_from_slice(logits);
            self.adjust(&mut adjusted);
            if let Some(mask) = mask {
                apply_mask(mask, &mut adjusted);
            }
            let token = self.choose(&adjusted);
            self.logits = adjusted;
            token
        } else {
            self.choose(logits)
        };
        *self.counts.entry(token).or_default() += 1;
        token
    }

    /// Applies penalties and biases.
    fn adjust(&self, logits: &mut [f32]) {
        let params = &self.params;
        for (token, count) in &self.counts {
            let logit = &mut logits[*token as usize];
            *logit = if *logit > 0.0 {
                *logit / params.repetition_penalty
            } else {
                *logit * params.repetition_penalty
            };
            *logit -= *count as f32 * params.frequency_penalty;
            *logit -= if *count > 0 { params.presence_penalty } else { 0.0 };
        }
        for (token, bias) in &params.logit_bias {
            if let Some(logit) = logits.get_mut(*token as usize) {
                *logit += bias;
            }
        }
    }

    fn choose(&mut self, logits: &[f32]) -> u32 {
        if self.params.temperature == 0.0 || self.params.top_k == 1 {
            return argmax(logits);
        }
        self.collect_candidates(logits);
        let total: f32 = self.candidates.iter().map(|(_, weight)| weight).sum();
        let mut rest = self.random.random::<f32>() * total;
        for (token, weight) in &self.candidates {
            rest -= weight;
            if rest < 0.0 {
                return *token;
            }
        }
        // Rounding left a remainder, or the logits were not numbers.
        argmax(logits)
    }

    /// Fills `candidates` with the tokens that may be drawn, each with a weight proportional to its probability.
    fn collect_candidates(&mut self, logits: &[f32]) {
        let SamplingParams { temperature, top_k, top_p, min_p, .. } = self.params;
        let largest = logits[argmax(logits) as usize];
        let candidates = &mut self.candidates;
        candidates.clear();
        candidates
            .extend((0..).zip(logits).map(|(token, logit)| (token, exp((logit - largest) / temperature))));
        if top_k > 0 && top_k < candidates.len() {
            candidates.select_nth_unstable_by(top_k - 1, by_weight);
            candidates.truncate(top_k);
        }
        if top_p < 1.0 {
            keep_nucleus(candidates, top_p);
        }
        if min_p > 0.0 {
            // The most likely token's weight is 1.
            candidates.retain(|(_, weight)| *weight >= min_p);
        }
        // The draw must not depend on the order in which selection leaves the candidates.
        candidates.sort_unstable_by_key(|(token, _)| *token);
    }
}

/// Orders by falling weight; among equals the lower id first, so that the choice is always the same.
#[allow(clippy::trivially_copy_pass_by_ref)] // the signature that sorting needs
fn by_weight(a: &(u32, f32), b: &(u32, f32)) -> std::cmp::Ordering {
    b.1.total_cmp(&a.1).then(a.0.cmp(&b.0))
}

/// Keeps the fewest heaviest candidates that hold at least `share` of the whole weight (nucleus sampling, Holtzman et
/// al., 2020).
fn keep_nucleus(candidates: &mut Vec<(u32, f32)>, share: f32) {
    let wanted = share * candidates.iter().map(|(_, weight)| weight).sum::<f32>();
    // The nucleus is usually small: sort only as much as it needs.
    let (mut sorted, mut sum, mut batch) = (0, 0.0, 64);
    while sorted < candidates.len() {
        let rest = &mut candidates[sorted..];
        let take = batch.min(rest.len());
        if take < rest.len() {
            rest.select_nth_unstable_by(take - 1, by_weight);
        }
        rest[..take].sort_unstable_by(by_weight);
        for (index, (_, weight)) in rest[..take].iter().enumerate() {
            sum += weight;
            if sum >= wanted {
                candidates.truncate(sorted + index + 1);
                return;
            }
        }
        sorted += take;
        batch *= 4;
    }
}

/// Returns the index of the largest logit, the first of equal ones.
fn argmax(logits: &[f32]) -> u32 {
    let mut best = (0, f32::NEG_INFINITY);
    for (token, logit) in (0..).zip(logits) {
        if *logit > best.1 {
            best = (token, *logit);
        }
    }
    best.0
}

/// Returns a token's log-probability, and the `top` most likely tokens with theirs, from the model's own logits.
pub(crate) fn logprobs(logits: &[f32], token: u32, top: usize) -> (f32, Vec<(u32, f32)>) {
    let total = log_sum_exp(logits);
    let mut best: Vec<(u32, f32)> = Vec::with_capacity(top + 1);
    for (id, logit) in (0..).zip(logits) {
        if best.len() < top || best.last().is_some_and(|(_, lowest)| logit > lowest) {
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

    /// Returns the share of each token in 20,000 draws.
    fn shares(params: &SamplingParams, logits: &[f32]) -> Vec<f32> {
        let mut counts = vec![0.0; logits.len()];
        let mut sampler = Sampler::new(SamplingParams { seed: Some(1), ..params.clone() }, &[]);
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

    fn assert_shares(params: &SamplingParams, expected: &[f32]) {
        for (got, expected) in shares(params, &LOGITS).iter().zip(expected) {
            assert!((got - expected).abs() < 0.012, "{params:?}: {got}, not {expected}");
        }
    }

    /// The distribution renormalized over `kept`.
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
        let base = SamplingParams::default();
        assert_shares(&base, &softmax(&LOGITS, 1.0));
        assert_shares(&SamplingParams { temperature: 2.0, ..base.clone() }, &softmax(&LOGITS, 2.0));
        assert_shares(&SamplingParams { top_k: 2, ..base.clone() }, &among(&[1, 4], 1.0));
        // Shares: 0.46, 0.28, 0.17, 0.06, 0.01.
        assert_shares(&SamplingParams { top_p: 0.5, ..base.clone() }, &among(&[1, 4], 1.0));
        assert_shares(&SamplingParams { top_p: 0.8, ..base.clone() }, &among(&[1, 4, 2], 1.0));
        assert_shares(&SamplingParams { min_p: 0.3, ..base.clone() }, &among(&[1, 2, 4], 1.0));
        assert_shares(&SamplingParams { top_k: 4, top_p: 0.999, min_p: 0.5, ..base }, &among(&[1, 4], 1.0));
    }

    #[test]
    fn zero_and_tiny_temperatures_take_the_first_largest_logit() {
        let mut sampler = Sampler::new(SamplingParams::greedy(), &[]);
        assert_eq!(sampler.sample(&[0.0, 2.0, 2.0], None), 1);
        let mut sampler =
            Sampler::new(SamplingParams { temperature: 1e-30, ..SamplingParams::default() }, &[]);
        assert_eq!(sampler.sample(&LOGITS, None), 1);
        assert_eq!(sampler.sample(&[f32::NAN; 3], None), 0);
    }

    #[test]
    fn a_large_nucleus_is_exact() {
        let weights: Vec<(u32, f32)> = (0..10_000).map(|i| (i, ((i * 7919) % 10_000) as f32)).collect();
        let mut kept = weights.clone();
        keep_nucleus(&mut kept, 0.5);
        let mut sorted = weights;
        sorted.sort_by(by_weight);
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

    fn adjusted(params: SamplingParams, prompt: &[u32], answer: &[u32]) -> Vec<f32> {
        let mut sampler = Sampler::new(params, prompt);
        for token in answer {
            *sampler.counts.entry(*token).or_default() += 1;
        }
        let mut logits = LOGITS.to_vec();
        assert!(sampler.params.adjusts_logits());
        sampler.adjust(&mut logits);
        logits
    }

    #[test]
    fn penalties_and_biases_adjust_logits() {
        let base = SamplingParams::greedy();
        // Repetition: prompt and answer, once each, towards a lower probability on either side of 0.
        let repetition = SamplingParams { repetition_penalty: 2.0, ..base.clone() };
        assert_eq!(adjusted(repetition, &[0, 3], &[1, 1]), [0.5, 1.5, 2.0, -2.0, 2.5]);
        // Frequency and presence: the answer only, by count and once.
        let frequency = SamplingParams { frequency_penalty: 0.5, ..base.clone() };
        assert_eq!(adjusted(frequency, &[0, 3], &[1, 1]), [1.0, 2.0, 2.0, -1.0, 2.5]);
        let presence = SamplingParams { presence_penalty: 0.5, ..base.clone() };
        assert_eq!(adjusted(presence, &[0, 3], &[1, 1]), [1.0, 2.5, 2.0, -1.0, 2.5]);
        let bias = SamplingParams {
            logit_bias: vec![(3, 100.0), (1, f32::NEG_INFINITY), (99, 1.0)],
            ..base.clone()
        };
        assert_eq!(adjusted(bias.clone(), &[], &[]), [1.0, f32::NEG_INFINITY, 2.0, 99.0, 2.5]);
        assert_eq!(Sampler::new(bias, &[]).sample(&LOGITS, None), 3);
        let mut sampler = Sampler::new(SamplingParams { presence_penalty: 1.0, ..base }, &[]);
        assert_eq!([(); 3].map(|()| sampler.sample(&LOGITS, None)), [1, 4, 1]);
    }

    #[test]
    fn the_seed_determines_the_draws() {
        let draws = |seed| {
            let mut sampler = Sampler::new(SamplingParams { seed, ..SamplingParams::default() }, &[]);
            (0..50).map(|_| sampler.sample(&LOGITS, None)).collect::<Vec<_>>()
        };
        assert_eq!(draws(Some(7)), draws(Some(7)));
        assert_ne!(draws(Some(7)), draws(Some(8)));
        assert_ne!(draws(None), draws(None));
    }

    #[test]
    fn logprobs_come_from_the_raw_logits_and_are_sorted() {
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
