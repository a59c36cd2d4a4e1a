//! Speculation by prompt lookup (Saxena, 2023): where the newest tokens of a text have come before, what followed
//! them then is a guess at what follows now. The model judges all guessed tokens in one pass, and what it would not
//! have chosen itself is dropped, so the text is the same as without.

use std::ops::Range;

/// Newest tokens that are looked up: the longest that is found counts.
const LOOKED_UP: Range<usize> = 2..5;

/// How many tokens one request guesses: more while guesses come true, fewer while they do not.
#[derive(Debug, Clone)]
pub(crate) struct Drafter {
    most: usize,
    reach: usize,
}

impl Drafter {
    /// At most `most` tokens at a time; 0 guesses never.
    pub fn new(most: usize) -> Self {
        Self { most, reach: most }
    }

    /// A guess of at most `room` tokens at what follows `tokens`: a range of them.
    pub fn guess(&self, tokens: &[u32], room: usize) -> Range<usize> {
        let wanted = self.reach.min(room);
        if wanted == 0 {
            return 0..0;
        }
        LOOKED_UP.rev().find_map(|length| continuation(tokens, length, wanted)).unwrap_or(0..0)
    }

    /// What became of a guess.
    pub fn learn(&mut self, guessed: usize, came_true: usize) {
        if guessed > 0 {
            self.reach = if came_true == guessed { self.reach * 2 } else { came_true + 1 };
            self.reach = self.reach.clamp(1, self.most);
        }
    }
}

/// What followed the last `length` tokens where they came before: the latest place that was followed by `wanted`
/// tokens, else the one that was followed by most.
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

    fn guess(tokens: &[u32], most: usize) -> Vec<u32> {
        tokens[Drafter::new(most).guess(tokens, usize::MAX)].to_vec()
    }

    #[test]
    fn what_followed_before_is_guessed() {
        assert_eq!(guess(&[1, 2, 3, 4, 5, 9, 1, 2], 3), [3, 4, 5]);
        // The longest that is found counts, then the latest.
        assert_eq!(guess(&[7, 1, 2, 3, 8, 1, 2, 4, 9, 7, 1, 2], 1), [3]);
        assert_eq!(guess(&[1, 2, 3, 8, 1, 2, 4, 9, 1, 2], 2), [4, 9]);
        // A loop goes on.
        assert_eq!(guess(&[1, 2, 1, 2, 1, 2, 1, 2], 4), [1, 2, 1, 2]);
        assert_eq!(guess(&[5, 5, 5], 2), [5]);
        for nothing in [&[][..], &[1], &[1, 2], &[1, 2, 3, 4, 2, 1]] {
            assert!(guess(nothing, 4).is_empty());
        }
        assert!(guess(&[1, 2, 3, 1, 2], 0).is_empty());
    }

    #[test]
    fn reach_follows_success() {
        let mut drafter = Drafter::new(8);
        let text = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 1, 2];
        let mut reach = |guessed, came_true| {
            drafter.learn(guessed, came_true);
            drafter.guess(&text, 100).len()
        };
        assert_eq!(reach(8, 0), 1);
        assert_eq!(reach(0, 0), 1);
        assert_eq!(reach(1, 1), 2);
        assert_eq!(reach(2, 1), 2);
        assert_eq!(reach(2, 2), 4);
        assert_eq!(reach(4, 4), 8);
        assert_eq!(reach(8, 8), 8);
    }
}
