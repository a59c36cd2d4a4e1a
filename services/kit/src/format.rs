//! Numbers as people read them, the same on every face.

/// `1.8 GB`, `512 MB`, `96 B`: decimal units, as disks and hubs count.
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

/// Gigabytes for a sentence that names the unit itself: two digits after the point, never a false zero.
pub fn gigabytes(n: u64) -> String {
    let value = n as f64 / 1e9;
    if n > 0 && value < 0.01 { "0.01".to_owned() } else { format!("{value:.2}") }
}

/// `2.5B`, `135M`, `3.7M`, `912K`.
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

/// `9 s`, `2 min 5 s`, `1 h 3 min`.
pub fn seconds(n: u64) -> String {
    match n {
        0..60 => format!("{n} s"),
        60..3600 => format!("{} min {} s", n / 60, n % 60),
        _ => format!("{} h {} min", n / 3600, n % 3600 / 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_well() {
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
