//! Damages a good file, the same way for the same seed.

/// Numbers at which sizes and counts go wrong.
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
/// What stands where a JSON value, a name or a number is expected.
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

/// Equal seeds give equal throws (splitmix64).
pub struct Dice(u64);

impl Dice {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub fn throw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Below `end`, which is at least 1.
    pub fn below(&mut self, end: usize) -> usize {
        (self.throw() % end as u64) as usize
    }
}

/// `good` with one to four damages.
pub fn mutated(good: &[u8], dice: &mut Dice) -> Vec<u8> {
    let mut bytes = good.to_vec();
    for _ in 0..=dice.below(4) {
        damage(&mut bytes, dice);
    }
    bytes
}

fn damage(bytes: &mut Vec<u8>, dice: &mut Dice) {
    if bytes.is_empty() {
        bytes.extend(dice.throw().to_le_bytes());
        return;
    }
    let at = dice.below(bytes.len());
    let end = (at + 1 + dice.below(64)).min(bytes.len());
    match dice.below(10) {
        0 => bytes[at] ^= 1 << dice.below(8),
        1 => bytes[at] = dice.throw() as u8,
        2 => bytes.truncate(at),
        3 => drop(bytes.drain(at..end)),
        4 => {
            let inserted = dice.throw().to_le_bytes();
            bytes.splice(at..at, inserted[..=dice.below(8)].iter().copied());
        }
        5 => {
            let copied = bytes[at..end].to_vec();
            let to = dice.below(bytes.len());
            bytes.splice(to..to, copied);
        }
        6 => overwrite(bytes, at, dice),
        7 => replace_token(bytes, at, dice),
        8 => {
            let again = [b'[', b'{', b'(', b'"', b' ', b'9', bytes[at]][dice.below(7)];
            let times = [10, 200, 5_000][dice.below(3)];
            bytes.splice(at..at, std::iter::repeat_n(again, times));
        }
        _ => bytes.rotate_left(at),
    }
}

/// A number of the file becomes another, near an edge.
fn overwrite(bytes: &mut [u8], at: usize, dice: &mut Dice) {
    let near = dice.below(3) as u64;
    let number = NUMBERS[dice.below(NUMBERS.len())].wrapping_add(near).wrapping_sub(1);
    let width = [1, 2, 4, 8][dice.below(4)].min(bytes.len() - at);
    bytes[at..at + width].copy_from_slice(&number.to_le_bytes()[..width]);
}

/// The word or number around `at` becomes another.
fn replace_token(bytes: &mut Vec<u8>, at: usize, dice: &mut Dice) {
    let within = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-' | b'"');
    let start = bytes[..at].iter().rposition(|byte| !within(byte)).map_or(0, |place| place + 1);
    let end = bytes[at..].iter().position(|byte| !within(byte)).map_or(bytes.len(), |length| at + length);
    let word = WORDS[dice.below(WORDS.len())];
    bytes.splice(start..end.max(start), word.bytes());
}
