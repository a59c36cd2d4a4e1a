//! Damages a good file, the same way for the same seed.

/// Numbers at the limits of sizes and counts.
const NUMBERS: [u64; 14] = [
    0,
    1,
    7,
    255,
    65_535,
    1 << 24,
    0x7fff_ffff,
    0x8000_0000,
    0xffff_ffff,
    1 << 40,
    (1 << 63) - 1,
    1 << 63,
    u64::MAX - 7,
    u64::MAX,
];
/// Replacements for a JSON value, a name or a number.
const WORDS: [&str; 24] = [
    "0",
    "-1",
    "0.5",
    "1e999",
    "-1e-320",
    "4294967296",
    "9223372036854775807",
    "18446744073709551616",
    "null",
    "true",
    "\"\"",
    "{}",
    "[]",
    "[[]]",
    "{\"\":{}}",
    "NaN",
    "\"../../x\"",
    "\"\\u0000\"",
    "\"\\ud800\"",
    "é",
    "{%",
    "{{",
    "(a+)+$",
    "a{999999999}",
];

/// A SplitMix64 generator: equal seeds give equal numbers.
pub struct Rng(u64);

impl Rng {
    /// Makes a generator.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// Returns the next number.
    pub fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Returns a number below `end`, which is at least 1.
    pub fn below(&mut self, end: usize) -> usize {
        (self.next_u64() % end as u64) as usize
    }
}

/// Returns a copy of `good` with one to four damages.
pub fn mutated(good: &[u8], rng: &mut Rng) -> Vec<u8> {
    let mut bytes = good.to_vec();
    for _ in 0..=rng.below(4) {
        damage(&mut bytes, rng);
    }
    bytes
}

fn damage(bytes: &mut Vec<u8>, rng: &mut Rng) {
    if bytes.is_empty() {
        bytes.extend(rng.next_u64().to_le_bytes());
        return;
    }
    let at = rng.below(bytes.len());
    let end = (at + 1 + rng.below(64)).min(bytes.len());
    match rng.below(10) {
        0 => bytes[at] ^= 1 << rng.below(8),
        1 => bytes[at] = rng.next_u64() as u8,
        2 => bytes.truncate(at),
        3 => drop(bytes.drain(at..end)),
        4 => {
            let inserted = rng.next_u64().to_le_bytes();
            bytes.splice(at..at, inserted[..=rng.below(8)].iter().copied());
        }
        5 => {
            let copied = bytes[at..end].to_vec();
            let to = rng.below(bytes.len());
            bytes.splice(to..to, copied);
        }
        6 => overwrite(bytes, at, rng),
        7 => replace_token(bytes, at, rng),
        8 => {
            let again = [b'[', b'{', b'(', b'"', b' ', b'9', bytes[at]][rng.below(7)];
            let times = [10, 200, 5_000][rng.below(3)];
            bytes.splice(at..at, std::iter::repeat_n(again, times));
        }
        _ => bytes.rotate_left(at),
    }
}

/// Overwrites a number of the file with one near a limit.
fn overwrite(bytes: &mut [u8], at: usize, rng: &mut Rng) {
    let near = rng.below(3) as u64;
    let number = NUMBERS[rng.below(NUMBERS.len())].wrapping_add(near).wrapping_sub(1);
    let width = [1, 2, 4, 8][rng.below(4)].min(bytes.len() - at);
    bytes[at..at + width].copy_from_slice(&number.to_le_bytes()[..width]);
}

/// Replaces the word or number around `at`.
fn replace_token(bytes: &mut Vec<u8>, at: usize, rng: &mut Rng) {
    let within = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-' | b'"');
    let start = bytes[..at].iter().rposition(|byte| !within(byte)).map_or(0, |place| place + 1);
    let end = bytes[at..].iter().position(|byte| !within(byte)).map_or(bytes.len(), |length| at + length);
    let word = WORDS[rng.below(WORDS.len())];
    bytes.splice(start..end.max(start), word.bytes());
}
