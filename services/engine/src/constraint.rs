//! What an answer must look like, as the scheduler sees it: before each token somebody says which may come. That somebody
//! may be slow; nobody else's answer waits for it.

use std::fmt::{Debug, Formatter};
use std::time::Duration;

/// Holds one answer to its form.
pub trait Constraint: Send {
    /// What may come next, waiting for it for at most `wait`. Zero does not wait.
    fn next(&mut self, wait: Duration) -> Result<Next<'_>, ConstraintError>;

    /// Whether the answer is complete with the last accepted token: valid, and nothing can follow. `None` while that is
    /// not known.
    fn is_complete(&mut self, wait: Duration) -> Result<Option<bool>, ConstraintError>;

    /// Goes on with the token that was chosen. Does not wait for what follows from it.
    fn accept(&mut self, token: u32) -> Result<(), ConstraintError>;
}

/// What is known of the next token.
#[derive(Debug, PartialEq, Eq)]
pub enum Next<'a> {
    /// It is still being worked out.
    Pending,
    /// There is none: the answer is complete.
    Complete,
    /// It may be one of these: a bit for each id, 32 in a word, the lowest first. Ids beyond it may not come.
    Mask(&'a [u32]),
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConstraintError {
    /// It cannot be held: what is asked for is wrong, or too complex.
    #[error("{0}")]
    Invalid(String),
    /// Who works it out is gone. Asking again may help.
    #[error("{0}")]
    Unavailable(String),
}

impl Debug for dyn Constraint {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Constraint")
    }
}

/// Sets the logits of tokens that may not come to negative infinity.
pub fn mask(words: &[u32], logits: &mut [f32]) {
    let words = words.iter().copied().chain(std::iter::repeat(0));
    for (logits, word) in logits.chunks_mut(32).zip(words) {
        // Most words allow nothing or, within a string, everything.
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

/// Whether it allows any of `vocabulary` tokens.
pub fn allows_any(words: &[u32], vocabulary: usize) -> bool {
    let (whole, rest) = (vocabulary / 32, vocabulary % 32);
    let last = words.get(whole).is_some_and(|word| word & ((1 << rest) - 1) != 0);
    last || words.iter().take(whole).any(|word| *word != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn masks_leave_what_they_allow() {
        let mut logits = [1.0; 70];
        mask(&[u32::MAX, 0b10], &mut logits);
        let left: Vec<usize> = (0..70).filter(|id| logits[*id] > 0.0).collect();
        assert_eq!(left, (0..32).chain([33]).collect::<Vec<_>>());
        assert!(allows_any(&[0, 0b100], 35) && !allows_any(&[0, 0b100], 34));
        assert!(allows_any(&[1], 1) && !allows_any(&[], 70) && !allows_any(&[0, 0, u32::MAX], 64));
    }
}
