//! Hostile files of weights, safetensors and GGUF.

use std::fmt::Write;

use super::{Named, gguf};
use crate::harness::fixture;

/// Makes a file. Some files are too large to keep all in memory.
type MakeFile = fn() -> Vec<u8>;

/// Returns files, each of which is a whole model.safetensors.
pub fn safetensors() -> Vec<Named<MakeFile>> {
    vec![
        ("a million empty tensors", || file(&empty_tensors(1_000_000), &[])),
        ("a million empty tensors beside the model's", || {
            let (header, data) = tiny();
            let more = empty_tensors(1_000_000);
            file(&format!("{},{}", &header.trim_end()[..header.trim_end().len() - 1], &more[1..]), &data)
        }),
        ("a million remarks", || {
            let remarks: Vec<String> = (0..1_000_000).map(|n| format!(r#""{n}":"{n}""#)).collect();
            let (header, data) = tiny();
            file(&format!(r#"{{"__metadata__":{{{}}},{}"#, remarks.join(","), &header[1..]), &data)
        }),
        ("a shape of 100000 dimensions", || {
            let ones = vec!["1"; 100_000].join(",");
            file(&format!(r#"{{"a":{{"dtype":"F32","shape":[{ones}],"data_offsets":[0,4]}}}}"#), &[0; 4])
        }),
        ("200000 brackets", || file(&"[".repeat(200_000), &[])),
        ("200000 objects", || file(&r#"{"a":"#.repeat(200_000), &[])),
        ("a header of 2^63 bytes", || (1_u64 << 63).to_le_bytes().to_vec()),
        ("a shape that overflows", || {
            file(
                r#"{"a":{"dtype":"F32","shape":[4294967296,4294967296,4294967296],"data_offsets":[0,0]}}"#,
                &[],
            )
        }),
    ]
}

/// Returns files, each of which is a whole GGUF file.
pub fn ggufs() -> Vec<Named<MakeFile>> {
    vec![
        ("a million empty tensors", || gguf::empty_tensors(1_000_000)),
        ("a million keys", || gguf::keys(1_000_000)),
        ("arrays in arrays", || gguf::nested_arrays(100_000)),
        ("an array of 2^60 numbers", || gguf::counted(1 << 60)),
        ("a template of 5000 times 1+", || gguf::tiny_with_template(&super::templates::to_read()[0].1)),
        ("a template of 100000 signs", || gguf::tiny_with_template(&super::templates::to_read()[16].1)),
        ("a template of slow steps", || gguf::tiny_with_template(&super::templates::slow_steps())),
        ("a template that doubles a text", || gguf::tiny_with_template(&super::templates::to_run()[0].1)),
    ]
}

/// Returns a file of this header and this data.
pub fn file(header: &str, data: &[u8]) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes(), header.as_bytes(), data].concat()
}

/// Returns the trained model's header and data.
pub fn tiny() -> (String, Vec<u8>) {
    let bytes = std::fs::read(fixture("tiny-millm/model.safetensors")).expect("it is there");
    let length = u64::from_le_bytes(bytes[..8].try_into().expect("eight bytes")) as usize;
    let header = String::from_utf8(bytes[8..8 + length].to_vec()).expect("JSON");
    (header, bytes[8 + length..].to_vec())
}

/// Returns a header with `n` tensors without elements.
fn empty_tensors(n: usize) -> String {
    let mut header = String::from("{");
    for i in 0..n {
        let comma = if i == 0 { "" } else { "," };
        write!(header, r#"{comma}"t{i}":{{"dtype":"F32","shape":[0],"data_offsets":[0,0]}}"#)
            .expect("memory");
    }
    header + "}"
}
