//! `model.safetensors.index.json`: which of a model's files holds which tensor.

use serde::Deserialize;

use super::Pairs;
use crate::error::{Error, Result};

/// The file that lists the shards.
pub const INDEX_FILE: &str = "model.safetensors.index.json";

#[derive(Deserialize)]
struct Raw {
    weight_map: Pairs<String>,
}

/// A validated index: shards are plain file names, and each tensor is in one of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShardIndex {
    /// In order of first mention.
    pub shards: Vec<String>,
    /// The file's own tensor name, and the place of its shard in `shards`.
    pub tensors: Vec<(String, usize)>,
}

impl ShardIndex {
    pub const FILE: &str = INDEX_FILE;
    const MOST_SHARDS: usize = 10_000;

    pub fn parse(text: &str) -> Result<Self> {
        let invalid = |why: String| Error::invalid(INDEX_FILE, why);
        let raw: Raw = serde_json::from_str(text).map_err(|error| invalid(error.to_string()))?;
        let mut index = Self { shards: Vec::new(), tensors: Vec::new() };
        let mut place_of = std::collections::HashMap::new();
        let mut seen = std::collections::HashSet::new();
        for (tensor, shard) in raw.weight_map.0 {
            if !is_plain_file_name(&shard) {
                return Err(invalid(format!(
                    "shard '{}' is not a plain .safetensors file name",
                    shown(&shard)
                )));
            }
            let place = *place_of.entry(shard.clone()).or_insert_with(|| {
                index.shards.push(shard);
                index.shards.len() - 1
            });
            if place >= Self::MOST_SHARDS {
                return Err(invalid(format!("names more than {} shards", Self::MOST_SHARDS)));
            }
            if !seen.insert(tensor.clone()) {
                return Err(invalid(format!("tensor '{}' is in two shards", shown(&tensor))));
            }
            index.tensors.push((tensor, place));
        }
        if index.shards.is_empty() {
            return Err(invalid("weight_map names no tensors".to_owned()));
        }
        Ok(index)
    }
}

fn shown(name: &str) -> String {
    name.chars().take(120).collect()
}

/// No separators, drives, control characters or hidden names: it is joined to the model's folder.
fn is_plain_file_name(name: &str) -> bool {
    name.len() <= 255
        && name.ends_with(".safetensors")
        && !name.starts_with('.')
        && name.chars().all(|c| !c.is_control() && !matches!(c, '/' | '\\' | ':'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_good_index() {
        let text = r#"{"metadata":{"total_size":8},"weight_map":{"a":"m-1.safetensors","b":"m-2.safetensors","c":"m-1.safetensors"}}"#;
        let index = ShardIndex::parse(text).expect("good");
        assert_eq!(index.shards, ["m-1.safetensors", "m-2.safetensors"]);
        assert_eq!(index.tensors[2], ("c".to_owned(), 0));
    }

    #[test]
    fn lies_are_told() {
        let check = |text: &str, expected: &str| match ShardIndex::parse(text) {
            Err(Error::InvalidFile { why, .. }) => assert!(why.contains(expected), "{why}"),
            other => panic!("{text}: {other:?}"),
        };
        for shard in [
            "../x.safetensors",
            "/x.safetensors",
            "a/b.safetensors",
            "C:\\\\x.safetensors",
            "x.bin",
            ".safetensors",
            "a\\u0000.safetensors",
            "",
        ] {
            check(&format!(r#"{{"weight_map":{{"a":"{shard}"}}}}"#), "plain");
        }
        check(r#"{"weight_map":{"a":"1.safetensors","a":"2.safetensors"}}"#, "two shards");
        check(r#"{"weight_map":{}}"#, "no tensors");
        check(r#"{"weight_map":{"a":1}}"#, "string");
        check("{}", "weight_map");
        check("", "EOF");
    }
}
