//! Finds stop strings in streamed text. Text that may be the beginning of a stop string is held back, so that no part
//! of a stop string is sent.

/// The result of a piece of text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Scan {
    /// Text that does not belong to a stop string.
    Text(String),
    /// A stop string is complete: the text before it, and the stop string.
    Stop { text: String, stop: String },
}

/// Matches stop strings. The match that ends first wins; of several that end together, the longest. The result does not
/// depend on how the text is split into pieces.
#[derive(Debug, Clone)]
pub(crate) struct StopMatcher {
    stops: Vec<String>,
    /// The longest suffix of the text that is a prefix of a stop string.
    held: String,
}

impl StopMatcher {
    /// Returns a matcher of `stops`, which must not be empty strings.
    pub fn new(mut stops: Vec<String>) -> Self {
        stops.sort_by_key(|stop| std::cmp::Reverse(stop.len()));
        Self { stops, held: String::new() }
    }

    /// Appends a piece of text.
    pub fn push(&mut self, piece: &str) -> Scan {
        if self.stops.is_empty() {
            return Scan::Text(piece.to_owned());
        }
        let scanned = self.held.len();
        let mut text = std::mem::take(&mut self.held);
        text.push_str(piece);
        for end in scanned + 1..=text.len() {
            let matched = self.stops.iter().find(|stop| text.as_bytes()[..end].ends_with(stop.as_bytes()));
            if let Some(stop) = matched {
                text.truncate(end - stop.len());
                return Scan::Stop { text, stop: stop.clone() };
            }
        }
        let begins = |tail: &str| self.stops.iter().any(|stop| stop.starts_with(tail));
        let hold =
            text.char_indices().map(|(at, _)| at).find(|at| begins(&text[*at..])).unwrap_or(text.len());
        self.held = text.split_off(hold);
        Scan::Text(text)
    }

    /// Returns the text that is still held, when the text ends without a stop string.
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
                Scan::Text(text) => out.push_str(&text),
                Scan::Stop { text, stop } => return (out + &text, Some(stop)),
            }
        }
        (out + &matcher.finish(), None)
    }

    /// The definition: the shortest prefix of the text that ends in a stop string.
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
        assert_eq!(matcher.push("Yes.\n"), Scan::Text("Yes.".into()));
        assert_eq!(matcher.push("\nUs"), Scan::Text(String::new()));
        assert_eq!(matcher.push("e it"), Scan::Text("\n\nUse it".into()));
        assert_eq!(matcher.push("\n\n\nUser: x"), Scan::Stop { text: "\n".into(), stop: "\n\nUser".into() });
    }

    proptest! {
        #[test]
        fn any_split_gives_the_naive_result(
            stops in prop::collection::vec("[aé☃]{1,4}", 0..4),
            pieces in prop::collection::vec("[aé☃b]{0,5}", 0..8),
        ) {
            prop_assert_eq!(run(&stops, &pieces), naive(&stops, &pieces.concat()));
        }
    }
}
