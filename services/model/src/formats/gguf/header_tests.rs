//! Hostile GGUF headers: a table of every false claim that the format allows, and mutations of a valid file.

use super::*;

fn text(bytes: &mut Vec<u8>, text: &[u8]) {
    bytes.extend((text.len() as u64).to_le_bytes());
    bytes.extend(text);
}

struct Draft {
    magic: [u8; 4],
    version: u32,
    tensor_count: Option<u64>,
    pair_count: Option<u64>,
    pairs: Vec<(Vec<u8>, u32, Vec<u8>)>,
    tensors: Vec<(&'static str, Vec<u64>, u32, u64)>,
    data: usize,
}

impl Draft {
    fn good() -> Self {
        Self {
            magic: *b"GGUF",
            version: 3,
            tensor_count: None,
            pair_count: None,
            pairs: vec![
                (b"general.architecture".to_vec(), 8, [&5_u64.to_le_bytes()[..], b"llama"].concat()),
                (b"a.list".to_vec(), 9, [&4_u32.to_le_bytes()[..], &2_u64.to_le_bytes(), &[0; 8]].concat()),
            ],
            tensors: vec![("a", vec![4, 2], 0, 0), ("b", vec![32, 1], 8, 32)],
            data: 66,
        }
    }

    fn pair(key: &str, kind: u32, value: &[u8]) -> Self {
        let mut draft = Self::good();
        draft.pairs.push((key.as_bytes().to_vec(), kind, value.to_vec()));
        draft
    }

    fn tensors(tensors: &[(&'static str, &[u64], u32, u64)]) -> Self {
        let tensors =
            tensors.iter().map(|(name, shape, kind, at)| (*name, shape.to_vec(), *kind, *at)).collect();
        Self { tensors, ..Self::good() }
    }

    fn bytes(&self) -> Vec<u8> {
        let mut bytes = self.magic.to_vec();
        bytes.extend(self.version.to_le_bytes());
        bytes.extend(self.tensor_count.unwrap_or(self.tensors.len() as u64).to_le_bytes());
        bytes.extend(self.pair_count.unwrap_or(self.pairs.len() as u64).to_le_bytes());
        for (key, kind, value) in &self.pairs {
            text(&mut bytes, key);
            bytes.extend(kind.to_le_bytes());
            bytes.extend(value);
        }
        for (name, shape, kind, offset) in &self.tensors {
            text(&mut bytes, name.as_bytes());
            bytes.extend((shape.len() as u32).to_le_bytes());
            bytes.extend(shape.iter().flat_map(|dimension| dimension.to_le_bytes()));
            bytes.extend(kind.to_le_bytes());
            bytes.extend(offset.to_le_bytes());
        }
        bytes.resize(bytes.len().next_multiple_of(32) + self.data, 0);
        bytes
    }
}

fn parse(bytes: &[u8]) -> Result<HeaderPrefix<GgufHeader>> {
    GgufHeader::parse("x.gguf", bytes, bytes.len() as u64)
}

#[test]
fn a_good_header_is_read() {
    let header = parse(&Draft::good().bytes()).expect("good").complete().expect("whole");
    assert_eq!(header.tensors[0].shape, [2, 4]);
    assert_eq!(
        (header.tensors[1].ty, header.tensors[1].range.end - header.tensors[1].range.start),
        (TensorType::Q8_0, 34)
    );
    assert_eq!(header.metadata.text("general.architecture").expect("text"), Some("llama"));
    assert!(header.metadata.number("general.architecture").is_err());
}

#[test]
fn a_prefix_says_how_much_it_needs() {
    let bytes = Draft::good().bytes();
    let header_bytes = bytes.len() - 66;
    for prefix in 0..header_bytes - 32 {
        match GgufHeader::parse("x", &bytes[..prefix], bytes.len() as u64).expect("good so far") {
            HeaderPrefix::NeedMore(more) => assert!(more > prefix as u64 && more <= bytes.len() as u64),
            HeaderPrefix::Complete(_) => panic!("complete at {prefix} of {header_bytes}"),
        }
    }
    assert!(
        GgufHeader::parse("x", &bytes[..header_bytes], bytes.len() as u64)
            .expect("good")
            .complete()
            .is_some()
    );
}

fn check(bytes: &[u8], expected: &str) {
    match parse(bytes) {
        Err(Error::InvalidFile { why, .. }) => {
            assert!(why.contains(expected), "'{why}' does not say '{expected}'");
        }
        other => panic!("{expected}: {other:?}"),
    }
}

#[test]
fn false_claims_about_the_file_are_refused() {
    let good = Draft::good;
    check(b"", "is empty");
    check(b"GG", "truncated");
    check(&Draft { magic: *b"GGML", ..good() }.bytes(), "does not begin");
    check(&Draft { version: 1, ..good() }.bytes(), "version 1");
    check(&Draft { version: 4, ..good() }.bytes(), "version 4");
    check(&Draft { version: 0, ..good() }.bytes(), "version 0");
    check(&Draft { version: 3_u32.swap_bytes(), ..good() }.bytes(), "big-endian");
    check(&Draft { tensor_count: Some(u64::MAX), ..good() }.bytes(), "claims");
    check(&Draft { tensor_count: Some(1000), ..good() }.bytes(), "claims");
    check(&Draft { pair_count: Some(u64::MAX), ..good() }.bytes(), "claims");
    check(&Draft { pair_count: Some(1 << 40), ..good() }.bytes(), "claims");
    let bytes = good().bytes();
    check(&bytes[..bytes.len() - 1], "past the end");
    check(&bytes[..100], "");
}

#[test]
fn false_claims_in_the_metadata_are_refused() {
    let list = |kind: u32, length: u64| [&kind.to_le_bytes()[..], &length.to_le_bytes()].concat();
    check(&Draft::pair("k", 13, &[0; 8]).bytes(), "type 13");
    check(&Draft::pair("k", 7, &[2]).bytes(), "boolean");
    check(&Draft::pair("k", 8, &u64::MAX.to_le_bytes()).bytes(), "claims");
    check(&Draft::pair("k", 8, &[1, 0, 0, 0, 0, 0, 0, 0, 0xff]).bytes(), "UTF-8");
    check(&Draft::pair("k", 9, &list(4, u64::MAX)).bytes(), "over the limit");
    check(&Draft::pair("k", 9, &list(4, 1 << 20)).bytes(), "more than the file holds");
    check(&Draft::pair("k", 9, &list(8, 1 << 20)).bytes(), "more than the file holds");
    check(&Draft::pair("k", 9, &list(9, 1)).bytes(), "arrays of arrays");
    check(&Draft::pair("k", 9, &list(77, 1)).bytes(), "element type 77");
    check(&Draft::pair("general.architecture", 4, &[0; 4]).bytes(), "twice");
    let long_key = Draft { pairs: vec![(vec![b'k'; 70_000], 4, vec![0; 4])], ..Draft::good() };
    check(&long_key.bytes(), "claims 70000");
    check(&Draft { pairs: vec![(vec![0xff], 4, vec![0; 4])], ..Draft::good() }.bytes(), "UTF-8");
    for alignment in [0_u32, 3, 33, 1 << 20, 1 << 31] {
        check(&Draft::pair("general.alignment", 4, &alignment.to_le_bytes()).bytes(), "alignment");
    }
    check(&Draft::pair("general.alignment", 10, &32_u64.to_le_bytes()).bytes(), "alignment");
}

#[test]
fn false_claims_about_tensors_are_refused() {
    check(&Draft::tensors(&[("a", &[1, 1, 1, 1, 1], 0, 0)]).bytes(), "5 dimensions");
    check(&Draft::tensors(&[("a", &[], 0, 0)]).bytes(), "0 dimensions");
    check(&Draft::tensors(&[("a", &[0, 4], 0, 0)]).bytes(), "dimension 0");
    check(&Draft::tensors(&[("a", &[1 << 40, 1 << 40], 0, 0)]).bytes(), "overflows");
    check(&Draft::tensors(&[("a", &[u64::MAX], 0, 0)]).bytes(), "overflows");
    check(&Draft::tensors(&[("a", &[33, 1], 8, 0)]).bytes(), "whole blocks");
    check(&Draft::tensors(&[("a", &[4], 99, 0)]).bytes(), "99 (unknown)");
    check(&Draft::tensors(&[("a", &[256], 23, 0)]).bytes(), "IQ4_XS");
    check(&Draft::tensors(&[("a", &[4], 0, 7)]).bytes(), "not aligned");
    check(&Draft::tensors(&[("a", &[4], 0, 96)]).bytes(), "past the end");
    check(&Draft::tensors(&[("a", &[4], 0, u64::MAX - 31)]).bytes(), "");
    check(&Draft::tensors(&[("a", &[16], 0, 0), ("b", &[4], 0, 32)]).bytes(), "overlap");
    check(&Draft::tensors(&[("a", &[4], 0, 0), ("b", &[4], 0, 0)]).bytes(), "overlap");
    check(&Draft::tensors(&[("a", &[4], 0, 0), ("a", &[4], 0, 32)]).bytes(), "twice");
}

proptest::proptest! {
    #[test]
    fn mutated_headers_never_panic(changes in proptest::collection::vec((0_usize..400, proptest::prelude::any::<u8>()), 1..6), cut in 1_usize..400) {
        let mut bytes = Draft::good().bytes();
        for (at, byte) in changes {
            let at = at % bytes.len();
            bytes[at] = byte;
        }
        let _ = parse(&bytes);
        let _ = GgufHeader::parse("x", &bytes, 1 << 40);
        bytes.truncate(cut);
        let _ = parse(&bytes);
    }
}
