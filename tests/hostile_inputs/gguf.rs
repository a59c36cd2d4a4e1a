//! GGUF files (ggml/docs/gguf.md): hostile headers, and the trained model with another template in its metadata.

use crate::harness::fixture;

const TEMPLATE: &str = "tokenizer.chat_template";
const UINT32: u32 = 4;
const STRING: u32 = 8;
const ARRAY: u32 = 9;
/// The alignment of the data, unless `general.alignment` says otherwise.
const ALIGNMENT: usize = 32;

/// Returns the header and the data of the smallest fixture.
pub fn tiny() -> (Vec<u8>, Vec<u8>) {
    let bytes = std::fs::read(fixture("tiny-millm-gguf/tiny-Q2_K.gguf")).expect("it is there");
    let end = Reader { bytes: &bytes, at: 0 }.header_end().next_multiple_of(ALIGNMENT);
    (bytes[..end].to_vec(), bytes[end..].to_vec())
}

/// Returns the trained model with another chat template.
pub fn tiny_with_template(template: &str) -> Vec<u8> {
    let (header, data) = tiny();
    let mut reader = Reader { bytes: &header, at: 0 };
    let (keys_end, value) = reader.template();
    let mut changed = header[..value.start].to_vec();
    changed.extend(text(template));
    changed.extend(&header[value.end..keys_end]);
    let mut rest = Reader { bytes: &header, at: keys_end };
    let tensors = rest.tensors(rest.count(8));
    changed.extend(&header[keys_end..tensors]);
    changed.resize(changed.len().next_multiple_of(ALIGNMENT), 0);
    changed.extend(data);
    changed
}

pub fn empty_tensors(n: u64) -> Vec<u8> {
    let mut bytes = head(n, 0);
    for i in 0..n {
        bytes.extend(text(&format!("t{i}")));
        bytes.extend(1_u32.to_le_bytes());
        bytes.extend(0_u64.to_le_bytes());
        bytes.extend(0_u32.to_le_bytes());
        bytes.extend(0_u64.to_le_bytes());
    }
    bytes
}

pub fn keys(n: u64) -> Vec<u8> {
    let mut bytes = head(0, n);
    for i in 0..n {
        bytes.extend(text(&format!("k{i}")));
        bytes.extend(UINT32.to_le_bytes());
        bytes.extend(1_u32.to_le_bytes());
    }
    bytes
}

/// Returns a header with one key, whose value is an array of arrays of arrays.
pub fn nested_arrays(depth: usize) -> Vec<u8> {
    let mut bytes = head(0, 1);
    bytes.extend(text("deep"));
    for _ in 0..depth {
        bytes.extend(ARRAY.to_le_bytes());
        bytes.extend(1_u64.to_le_bytes());
    }
    bytes
}

/// Returns a header with one key, whose array announces this many numbers.
pub fn counted(n: u64) -> Vec<u8> {
    let mut bytes = head(0, 1);
    bytes.extend(text("long"));
    bytes.extend(ARRAY.to_le_bytes());
    bytes.extend(UINT32.to_le_bytes());
    bytes.extend(n.to_le_bytes());
    bytes
}

fn head(tensors: u64, keys: u64) -> Vec<u8> {
    [b"GGUF", &3_u32.to_le_bytes()[..], &tensors.to_le_bytes(), &keys.to_le_bytes()].concat()
}

fn text(text: &str) -> Vec<u8> {
    [&(text.len() as u64).to_le_bytes(), text.as_bytes()].concat()
}

/// Reads a file that is known to be valid.
struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Reader<'_> {
    fn number(&mut self, width: usize) -> u64 {
        let mut wide = [0; 8];
        wide[..width].copy_from_slice(&self.bytes[self.at..self.at + width]);
        self.at += width;
        u64::from_le_bytes(wide)
    }

    fn text(&mut self) -> &str {
        let length = self.number(8) as usize;
        self.at += length;
        std::str::from_utf8(&self.bytes[self.at - length..self.at]).expect("names are UTF-8")
    }

    /// Returns the number at a position of the header.
    fn count(&self, at: usize) -> u64 {
        Reader { bytes: self.bytes, at }.number(8)
    }

    fn skip_value(&mut self, kind: u32) {
        match kind {
            0 | 1 | 7 => self.at += 1,
            2 | 3 => self.at += 2,
            4..=6 => self.at += 4,
            10..=12 => self.at += 8,
            STRING => drop(self.text().len()),
            ARRAY => {
                let kind = self.number(4) as u32;
                (0..self.number(8)).for_each(|_| self.skip_value(kind));
            }
            _ => panic!("a value of kind {kind}"),
        }
    }

    /// Returns the end of the keys, and the range of the template's value.
    fn template(&mut self) -> (usize, std::ops::Range<usize>) {
        let keys = self.count(16);
        self.at = 24;
        let mut found = None;
        for _ in 0..keys {
            let is_template = self.text() == TEMPLATE;
            let kind = self.number(4) as u32;
            let start = self.at;
            self.skip_value(kind);
            if is_template {
                found = Some(start..self.at);
            }
        }
        (self.at, found.expect("the fixture has a template"))
    }

    /// Returns the end of the tensors' descriptions.
    fn tensors(&mut self, n: u64) -> usize {
        for _ in 0..n {
            let _ = self.text();
            let dimensions = self.number(4) as usize;
            self.at += 8 * dimensions + 4 + 8;
        }
        self.at
    }

    fn header_end(mut self) -> usize {
        self.template();
        let tensors = self.count(8);
        self.tensors(tensors)
    }
}
