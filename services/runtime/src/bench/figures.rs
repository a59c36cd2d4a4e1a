//! The figures that both miLLM and llama.cpp have, and medians.

use serde::Serialize;

/// Rates in tokens per second, and the time to the first token.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Figures {
    /// Tokens per second of prompt processing.
    pub prefill: f64,
    /// Tokens per second of one stream, with a short prompt.
    pub decode: f64,
    /// Tokens per second of one stream, with a long prompt.
    pub decode_deep: f64,
    /// Tokens per second of all parallel streams together.
    pub streams: f64,
    /// Seconds from the start of the load to the first token.
    pub first_token_seconds: f64,
}

impl Figures {
    /// Returns the better of each figure.
    pub(crate) fn best(&self, other: &Self) -> Self {
        Self {
            prefill: self.prefill.max(other.prefill),
            decode: self.decode.max(other.decode),
            decode_deep: self.decode_deep.max(other.decode_deep),
            streams: self.streams.max(other.streams),
            first_token_seconds: self.first_token_seconds.min(other.first_token_seconds),
        }
    }

    /// Returns the median of each figure. `rounds` must not be empty.
    pub(crate) fn median(rounds: &[Self]) -> Self {
        Self {
            prefill: median(rounds, |f| f.prefill),
            decode: median(rounds, |f| f.decode),
            decode_deep: median(rounds, |f| f.decode_deep),
            streams: median(rounds, |f| f.streams),
            first_token_seconds: median(rounds, |f| f.first_token_seconds),
        }
    }
}

/// Returns the median of one figure of all rounds. `rounds` must not be empty.
pub(crate) fn median<T>(rounds: &[T], figure: fn(&T) -> f64) -> f64 {
    let mut values: Vec<f64> = rounds.iter().map(figure).collect();
    values.sort_by(f64::total_cmp);
    f64::midpoint(values[(values.len() - 1) / 2], values[values.len() / 2])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_are_of_each_figure() {
        let figures = |x: f64| Figures {
            prefill: x,
            decode: 10.0 - x,
            decode_deep: x,
            streams: x,
            first_token_seconds: x,
        };
        let middle = Figures::median(&[figures(3.0), figures(1.0), figures(2.0), figures(7.0)]);
        assert_eq!((middle.prefill, middle.decode), (2.5, 7.5));
    }

    #[test]
    fn the_best_is_of_each_figure() {
        let one =
            Figures { prefill: 4.0, decode: 3.0, decode_deep: 1.0, streams: 2.0, first_token_seconds: 0.5 };
        let other = Figures { prefill: 2.0, decode_deep: 2.0, first_token_seconds: 0.75, ..one };
        let best = Figures { decode_deep: 2.0, ..one };
        assert_eq!((one.best(&other), other.best(&one)), (best, best));
    }
}
