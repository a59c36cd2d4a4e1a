//! Text for people: sizes, counts and times, and excerpts of text from outside. Every client shows the same.

use std::fmt::Display;

/// Formats `n` bytes as `1.8 GB`, `512 MB` or `96 B`: decimal units, as disks and hubs count.
pub fn bytes(n: u64) -> String {
    const UNITS: [(&str, f64); 4] = [("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("KB", 1e3)];
    for (unit, size) in UNITS {
        if n as f64 >= size {
            let value = n as f64 / size;
            return if value < 10.0 { format!("{value:.1} {unit}") } else { format!("{value:.0} {unit}") };
        }
    }
    format!("{n} B")
}

/// Formats `n` bytes as gigabytes without the unit: two decimals, and at least `0.01` unless `n` is 0.
pub fn gigabytes(n: u64) -> String {
    let value = n as f64 / 1e9;
    if n > 0 && value < 0.01 { "0.01".to_owned() } else { format!("{value:.2}") }
}

/// Formats a parameter count as `2.5B`, `135M`, `3.7M` or `912K`.
pub fn parameters(n: u64) -> String {
    const UNITS: [(&str, f64); 4] = [("T", 1e12), ("B", 1e9), ("M", 1e6), ("K", 1e3)];
    for (unit, size) in UNITS {
        let value = n as f64 / size;
        if value >= 1.0 {
            return if value < 100.0 {
                let text = format!("{value:.1}");
                format!("{}{unit}", text.strip_suffix(".0").unwrap_or(&text))
            } else {
                format!("{value:.0}{unit}")
            };
        }
    }
    n.to_string()
}

/// Formats `n` seconds as `9 s`, `2 min 5 s` or `1 h 3 min`.
pub fn seconds(n: u64) -> String {
    match n {
        0..60 => format!("{n} s"),
        60..3600 => format!("{} min {} s", n / 60, n % 60),
        _ => format!("{} h {} min", n / 3600, n % 3600 / 60),
    }
}

/// The most characters of [`excerpt`]: a handle of the longest kind is shown whole.
const MAX_EXCERPT_CHARS: usize = 255;

/// Displays the beginning of `text`, at most 255 characters, with control characters escaped.
///
/// Error messages and logs show text from outside this way.
pub fn excerpt(text: &str) -> impl Display {
    text.chars().take(MAX_EXCERPT_CHARS).flat_map(char::escape_debug).collect::<String>()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn excerpts_are_short_and_escaped() {
        assert_eq!(excerpt("a\nb").to_string(), r"a\nb");
        assert_eq!(excerpt(&"é".repeat(1000)).to_string().chars().count(), MAX_EXCERPT_CHARS);
    }

    #[test]
    fn numbers_are_formatted_for_people() {
        assert_eq!(bytes(0), "0 B");
        assert_eq!(bytes(1_800_000_000), "1.8 GB");
        assert_eq!(bytes(64 << 20), "67 MB");
        assert_eq!(parameters(2_506_172_416), "2.5B");
        assert_eq!(parameters(3_673_344), "3.7M");
        assert_eq!(parameters(9_000_000_000), "9B");
        assert_eq!(gigabytes(1), "0.01");
        assert_eq!(gigabytes(2_340_000_000), "2.34");
        assert_eq!(seconds(125), "2 min 5 s");
    }
}
