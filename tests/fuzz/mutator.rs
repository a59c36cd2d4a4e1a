//! Mutations of known inputs: damage that fits any file, and changes that keep a language's form.

use crate::harness::Rng;
use crate::json_tree;

/// Numbers at which sizes, counts and bounds fail.
const NUMBERS: [&str; 22] = [
    "0",
    "1",
    "-1",
    "2",
    "127",
    "128",
    "255",
    "256",
    "65535",
    "65536",
    "99999",
    "2147483647",
    "2147483648",
    "4294967295",
    "4294967296",
    "9007199254740993",
    "-9223372036854775808",
    "9223372036854775807",
    "18446744073709551615",
    "18446744073709551616",
    "1e308",
    "1e-300",
];

/// The words of a language, for mutations.
pub struct Language {
    /// Words and signs.
    pub words: &'static [&'static str],
    /// Texts that may surround a part.
    pub around: &'static [(&'static str, &'static str)],
}

pub struct Mutator {
    rng: Rng,
    language: &'static Language,
    /// The longest input. Longer ones are cut.
    most: usize,
}

impl Mutator {
    pub fn new(seed: u64, language: &'static Language, most: usize) -> Self {
        Self { rng: Rng::new(seed), language, most }
    }

    pub fn below(&mut self, end: usize) -> usize {
        self.rng.below(end as u64) as usize
    }

    /// Returns `input` with one to four mutations; `other` is a source of parts. JSON mostly stays JSON, because a
    /// server reads only the beginning of anything else. A line before the JSON stays as it is.
    pub fn mutated(&mut self, input: &[u8], other: &[u8]) -> Vec<u8> {
        if self.below(4) > 0 {
            let (line, text) = input.split_at(json_begins(input));
            let (_, lent) = other.split_at(json_begins(other));
            let made = json_tree::mutated(&mut self.rng, text, lent);
            if let Some(made) = made.filter(|made| line.len() + made.len() <= self.most) {
                return [line, &made].concat();
            }
        }
        let mut bytes = input.to_vec();
        for _ in 0..=self.below(4) {
            self.change(&mut bytes, other);
            bytes.truncate(self.most);
        }
        bytes
    }

    fn change(&mut self, bytes: &mut Vec<u8>, other: &[u8]) {
        let at = self.below(bytes.len() + 1);
        let end = (at + self.length()).min(bytes.len());
        match self.below(14) {
            0 => self.flip(bytes),
            1 => self.overwrite(bytes),
            2 => bytes.truncate(at),
            3 => drop(bytes.drain(at..end)),
            4 => self.join(bytes, other),
            5 | 6 => self.insert_word(bytes, at),
            7 | 8 => self.replace_token(bytes, at),
            9 | 10 => self.repeat(bytes, at..end),
            11 | 12 => self.nest(bytes, at..end),
            _ => self.move_part(bytes, at..end),
        }
    }

    /// Returns a length, which is mostly short and sometimes long.
    fn length(&mut self) -> usize {
        let most = [4, 16, 64, 512, 8_192][self.below(5)];
        1 + self.below(most)
    }

    fn flip(&mut self, bytes: &mut [u8]) {
        for _ in 0..=self.below(8) {
            if !bytes.is_empty() {
                let at = self.below(bytes.len());
                bytes[at] ^= 1 << self.below(8);
            }
        }
    }

    /// Overwrites bytes with a number, as in a binary file.
    fn overwrite(&mut self, bytes: &mut [u8]) {
        if bytes.is_empty() {
            return;
        }
        let number: i128 = NUMBERS[self.below(20)].parse().expect("the first are whole numbers");
        let at = self.below(bytes.len());
        let width = [1, 2, 4, 8][self.below(4)].min(bytes.len() - at);
        bytes[at..at + width].copy_from_slice(&number.to_le_bytes()[..width]);
    }

    /// Joins the beginning of one input and the end of another.
    fn join(&mut self, bytes: &mut Vec<u8>, other: &[u8]) {
        let (at, from) = (self.below(bytes.len() + 1), self.below(other.len() + 1));
        let to = (from + self.length()).min(other.len());
        if self.below(2) == 0 {
            bytes.truncate(at);
            bytes.extend(&other[from..]);
        } else {
            bytes.splice(at..at, other[from..to].iter().copied());
        }
    }

    fn word(&mut self) -> &'static str {
        let words = self.language.words;
        words[self.below(words.len())]
    }

    fn insert_word(&mut self, bytes: &mut Vec<u8>, at: usize) {
        let word = self.word();
        bytes.splice(at..at, word.bytes());
    }

    /// Replaces the word or number at a position.
    fn replace_token(&mut self, bytes: &mut Vec<u8>, at: usize) {
        let within = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-' | b'$');
        let at = at.min(bytes.len());
        let start = bytes[..at].iter().rposition(|byte| !within(byte)).map_or(0, |place| place + 1);
        let end = bytes[at..].iter().position(|byte| !within(byte)).map_or(bytes.len(), |length| at + length);
        let is_number = bytes[start..end].first().is_some_and(u8::is_ascii_digit);
        let word =
            if is_number || self.below(4) == 0 { NUMBERS[self.below(NUMBERS.len())] } else { self.word() };
        bytes.splice(start..end, word.bytes());
    }

    /// Returns a count from 2 to 20,000, small ones as often as large ones.
    fn times(&mut self) -> usize {
        let most = [3, 10, 100, 1_000, 20_000][self.below(5)];
        2 + self.below(most - 1)
    }

    fn repeat(&mut self, bytes: &mut Vec<u8>, part: std::ops::Range<usize>) {
        let slice = bytes[part.clone()].to_vec();
        let times = self.times().min(self.most / slice.len().max(1));
        bytes.splice(part, slice.repeat(times));
    }

    fn nest(&mut self, bytes: &mut Vec<u8>, part: std::ops::Range<usize>) {
        let (open, close) = self.language.around[self.below(self.language.around.len())];
        let times = self.times().min(self.most / (open.len() + close.len()).max(1));
        let inner = bytes[part.clone()].to_vec();
        bytes.splice(part, [open.repeat(times).as_bytes(), &inner, close.repeat(times).as_bytes()].concat());
    }

    fn move_part(&mut self, bytes: &mut Vec<u8>, part: std::ops::Range<usize>) {
        let slice: Vec<u8> = bytes.drain(part).collect();
        let to = self.below(bytes.len() + 1);
        bytes.splice(to..to, slice);
    }
}

/// Returns the position of the JSON: after the first line if that is a path.
fn json_begins(input: &[u8]) -> usize {
    let line = input.iter().position(|byte| *byte == b'\n').filter(|_| input.starts_with(b"/v1/"));
    line.map_or(0, |end| end + 1)
}

#[test]
fn equal_seeds_give_equal_inputs_within_their_measure() {
    static LANGUAGE: Language = Language { words: &["word"], around: &[("(", ")")] };
    let made = |seed| {
        let mut mutator = Mutator::new(seed, &LANGUAGE, 5_000);
        (0..2_000).map(|_| mutator.mutated(b"{a: [1, 22]}", b"other")).collect::<Vec<_>>()
    };
    let inputs = made(1);
    assert_eq!(inputs, made(1));
    assert_ne!(inputs, made(2));
    assert!(inputs.iter().all(|input| input.len() <= 5_000));
    let has = |part: &[u8]| inputs.iter().any(|input| input.windows(part.len()).any(|window| window == part));
    assert!(has(b"((((((((((") && has(b"9223372036854775807") && has(b"word"));
    let different: std::collections::BTreeSet<_> = inputs.iter().collect();
    assert!(different.len() > 1_500, "{} different ones", different.len());
}
