//! Constrained decoding, as the scheduler sees it: before each token a [`Constraint`] tells which tokens a grammar
//! allows. A constraint may be slow. Other requests do not wait for it.

use std::fmt::{Debug, Formatter};
use std::time::Duration;

/// Holds one answer to a grammar.
pub trait Constraint: Send {
    /// Returns which tokens may come next, after waiting for that for at most `wait`. Zero does not wait.
    ///
    /// # Errors
    /// Returns an error if the grammar cannot be held or its process is gone.
    fn allowed_tokens(&mut self, wait: Duration) -> Result<AllowedTokens<'_>, ConstraintError>;

    /// Returns whether the answer is complete with the last accepted token: valid, and nothing can follow. `None`
    /// while that is not known, after waiting for at most `wait`.
    ///
    /// # Errors
    /// Returns an error if the grammar cannot be held or its process is gone.
    fn is_complete(&mut self, wait: Duration) -> Result<Option<bool>, ConstraintError>;

    /// Appends the token that was sampled. Does not wait for the tokens that it allows.
    ///
    /// # Errors
    /// Returns an error if the grammar cannot be held or its process is gone.
    fn accept(&mut self, token: u32) -> Result<(), ConstraintError>;
}

/// The tokens that a grammar allows next.
#[derive(Debug, PartialEq, Eq)]
pub enum AllowedTokens<'a> {
    /// They are not computed yet.
    Pending,
    /// None: the answer is complete.
    Complete,
    /// A bit for each token id, 32 in a word, the lowest first. Ids beyond the mask are not allowed.
    Mask(&'a [u32]),
}

/// The reason why a constraint cannot continue.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConstraintError {
    /// The grammar is wrong or too complex.
    #[error("{0}")]
    Invalid(String),
    /// The process that computes the mask has ended. Another request may succeed.
    #[error("{0}")]
    Unavailable(String),
}

impl Debug for dyn Constraint {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Constraint")
    }
}

/// Sets the logits of tokens that are not allowed to negative infinity.
pub(crate) fn apply_mask(words: &[u32], logits: &mut [f32]) {
    let words = words.iter().copied().chain(std::iter::repeat(0));
    for (logits, word) in logits.chunks_mut(32).zip(words) {
        // Most words allow no token or, within a string, all of them.
        if word == 0 {
            logits.fill(f32::NEG_INFINITY);
            continue;
        }
        if word == u32::MAX {
            continue;
        }
        for (bit, logit) in logits.iter_mut().enumerate() {
            if word >> bit & 1 == 0 {
                *logit = f32::NEG_INFINITY;
            }
        }
    }
}

/// Returns whether the mask allows any of the first `vocabulary` tokens.
pub(crate) fn allows_any(words: &[u32], vocabulary: usize) -> bool {
    let (whole, rest) = (vocabulary / 32, vocabulary % 32);
    let last = words.get(whole).is_some_and(|word| word & ((1 << rest) - 1) != 0);
    last || words.iter().take(whole).any(|word| *word != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mask_keeps_the_allowed_logits() {
        let mut logits = [1.0; 70];
        apply_mask(&[u32::MAX, 0b10], &mut logits);
        let left: Vec<usize> = (0..70).filter(|id| logits[*id] > 0.0).collect();
        assert_eq!(left, (0..32).chain([33]).collect::<Vec<_>>());
        assert!(allows_any(&[0, 0b100], 35) && !allows_any(&[0, 0b100], 34));
        assert!(allows_any(&[1], 1) && !allows_any(&[], 70) && !allows_any(&[0, 0, u32::MAX], 64));
    }
}
