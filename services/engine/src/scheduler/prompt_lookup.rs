//! Prompt-lookup speculative decoding (Saxena, 2023): where the newest tokens of a text occurred before, the tokens
//! that followed them there become a draft. The model verifies all draft tokens in one pass and rejects those that it
//! would not have sampled itself, so the text is the same as without.

use std::ops::Range;

/// Lengths of the n-grams that are looked up. The longest match wins.
const NGRAM: Range<usize> = 2..5;

/// The number of draft tokens that one request proposes. It rises while they are accepted and falls while they are
/// not.
#[derive(Debug, Clone)]
pub(crate) struct PromptLookup {
    max_tokens: usize,
    draft_length: usize,
}

impl PromptLookup {
    /// Proposes at most `max_tokens` tokens at a time; 0 never proposes any.
    pub fn new(max_tokens: usize) -> Self {
        Self { max_tokens, draft_length: max_tokens }
    }

    /// Returns a draft of at most `room` tokens for what follows `tokens`, as a range of them.
    pub fn propose(&self, tokens: &[u32], room: usize) -> Range<usize> {
        let wanted = self.draft_length.min(room);
        if wanted == 0 {
            return 0..0;
        }
        NGRAM.rev().find_map(|length| continuation(tokens, length, wanted)).unwrap_or(0..0)
    }

    /// Adapts the draft length to the outcome of a draft.
    pub fn update(&mut self, drafted: usize, accepted: usize) {
        if drafted > 0 {
            self.draft_length = if accepted == drafted { self.draft_length * 2 } else { accepted + 1 };
            self.draft_length = self.draft_length.clamp(1, self.max_tokens);
        }
    }
}

/// Returns the tokens that followed an earlier occurrence of the last `length` tokens: the latest occurrence that is
/// followed by `wanted` tokens, or else the one that is followed by most.
fn continuation(tokens: &[u32], length: usize, wanted: usize) -> Option<Range<usize>> {
    let newest = tokens.len().checked_sub(length)?;
    let mut found: Option<Range<usize>> = None;
    for start in (0..newest).rev() {
        if tokens[start..start + length] != tokens[newest..] {
            continue;
        }
        let range = start + length..(start + length + wanted).min(tokens.len());
        if range.len() == wanted {
            return Some(range);
        }
        if found.as_ref().is_none_or(|found| found.len() < range.len()) {
            found = Some(range);
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn draft(tokens: &[u32], most: usize) -> Vec<u32> {
        tokens[PromptLookup::new(most).propose(tokens, usize::MAX)].to_vec()
    }

    #[test]
    fn the_draft_is_what_followed_the_same_ngram_before() {
        assert_eq!(draft(&[1, 2, 3, 4, 5, 9, 1, 2], 3), [3, 4, 5]);
        // The longest match wins, then the latest.
        assert_eq!(draft(&[7, 1, 2, 3, 8, 1, 2, 4, 9, 7, 1, 2], 1), [3]);
        assert_eq!(draft(&[1, 2, 3, 8, 1, 2, 4, 9, 1, 2], 2), [4, 9]);
        // A loop continues.
        assert_eq!(draft(&[1, 2, 1, 2, 1, 2, 1, 2], 4), [1, 2, 1, 2]);
        assert_eq!(draft(&[5, 5, 5], 2), [5]);
        for nothing in [&[][..], &[1], &[1, 2], &[1, 2, 3, 4, 2, 1]] {
            assert!(draft(nothing, 4).is_empty());
        }
        assert!(draft(&[1, 2, 3, 1, 2], 0).is_empty());
    }

    #[test]
    fn the_draft_length_follows_the_acceptance() {
        let mut lookup = PromptLookup::new(8);
        let text = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 1, 2];
        let mut length = |drafted, accepted| {
            lookup.update(drafted, accepted);
            lookup.propose(&text, 100).len()
        };
        assert_eq!(length(8, 0), 1);
        assert_eq!(length(0, 0), 1);
        assert_eq!(length(1, 1), 2);
        assert_eq!(length(2, 1), 2);
        assert_eq!(length(2, 2), 4);
        assert_eq!(length(4, 4), 8);
        assert_eq!(length(8, 8), 8);
    }
}
