//! Finds stop strings in text that comes in pieces. Text that may be the beginning of one is held back, so that
//! nothing of a stop string is ever sent.

/// What a piece of text leads to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// This much is certain not to belong to a stop string.
    Text(String),
    /// A stop string is complete: the last text before it, and which it was.
    Stop { text: String, stop: String },
}

/// The match that ends first wins; of those that end together, the longest. How the text was cut into pieces
/// makes no difference.
#[derive(Debug, Clone)]
pub struct StopMatcher {
    stops: Vec<String>,
    /// The longest end of the text so far that begins a stop string.
    held: String,
}

impl StopMatcher {
    /// `stops` without empty strings.
    pub fn new(mut stops: Vec<String>) -> Self {
        stops.sort_by_key(|stop| std::cmp::Reverse(stop.len()));
        Self { stops, held: String::new() }
    }

    pub fn push(&mut self, piece: &str) -> Step {
        if self.stops.is_empty() {
            return Step::Text(piece.to_owned());
        }
        let known = self.held.len();
        let mut text = std::mem::take(&mut self.held);
        text.push_str(piece);
        for end in known + 1..=text.len() {
            let matched = self.stops.iter().find(|stop| text.as_bytes()[..end].ends_with(stop.as_bytes()));
            if let Some(stop) = matched {
                text.truncate(end - stop.len());
                return Step::Stop { text, stop: stop.clone() };
            }
        }
        let begins = |tail: &str| self.stops.iter().any(|stop| stop.starts_with(tail));
        let hold =
            text.char_indices().map(|(at, _)| at).find(|at| begins(&text[*at..])).unwrap_or(text.len());
        self.held = text.split_off(hold);
        Step::Text(text)
    }

    /// What is still held when the text ends without a stop string.
    pub fn finish(&mut self) -> String {
        std::mem::take(&mut self.held)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn run(stops: &[String], pieces: &[String]) -> (String, Option<String>) {
        let mut matcher = StopMatcher::new(stops.to_vec());
        let mut out = String::new();
        for piece in pieces {
            match matcher.push(piece) {
                Step::Text(text) => out.push_str(&text),
                Step::Stop { text, stop } => return (out + &text, Some(stop)),
            }
        }
        (out + &matcher.finish(), None)
    }

    /// The definition: the shortest beginning of the text that ends in a stop string.
    fn naive(stops: &[String], text: &str) -> (String, Option<String>) {
        for (end, _) in text.char_indices().chain([(text.len(), ' ')]) {
            let found =
                stops.iter().filter(|stop| text[..end].ends_with(stop.as_str())).max_by_key(|s| s.len());
            if let Some(stop) = found {
                return (text[..end - stop.len()].to_owned(), Some(stop.clone()));
            }
        }
        (text.to_owned(), None)
    }

    #[test]
    fn partial_matches_are_held_back() {
        let mut matcher = StopMatcher::new(vec!["\n\nUser".into()]);
        assert_eq!(matcher.push("Yes.\n"), Step::Text("Yes.".into()));
        assert_eq!(matcher.push("\nUs"), Step::Text(String::new()));
        assert_eq!(matcher.push("e it"), Step::Text("\n\nUse it".into()));
        assert_eq!(matcher.push("\n\n\nUser: x"), Step::Stop { text: "\n".into(), stop: "\n\nUser".into() });
    }

    proptest! {
        #[test]
        fn any_cut_gives_the_naive_answer(
            stops in prop::collection::vec("[aé☃]{1,4}", 0..4),
            pieces in prop::collection::vec("[aé☃b]{0,5}", 0..8),
        ) {
            prop_assert_eq!(run(&stops, &pieces), naive(&stops, &pieces.concat()));
        }
    }
}
