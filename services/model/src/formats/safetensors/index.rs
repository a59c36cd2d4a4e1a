//! `model.safetensors.index.json`: the file that holds each of a model's tensors.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, Visitor};

use super::bounded::{MAX_MODEL_TENSORS, MAX_NAME_BYTES, Name, Skip, not_text};
use crate::error::{Error, Result, excerpt};

/// The name of the index.
const INDEX_FILE: &str = "model.safetensors.index.json";

const MAX_SHARDS: usize = 10_000;
const WEIGHT_MAP: &str = "weight_map";

/// A validated index: shards are plain file names, and each tensor is in one of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShardIndex {
    /// The files' names, in the order in which the index first mentions them.
    pub shards: Vec<String>,
    /// Each tensor's name in its file, and the index of that file in `shards`.
    pub tensors: Vec<(String, usize)>,
}

impl ShardIndex {
    /// The name of the index.
    pub const FILE: &str = INDEX_FILE;

    /// Parses the text of the index.
    ///
    /// # Errors
    /// [`Error::InvalidFile`] where the text is not a valid index.
    pub fn parse(text: &str) -> Result<Self> {
        let mut members = Members::default();
        let mut deserializer = serde_json::Deserializer::from_str(text);
        deserializer
            .deserialize_any(&mut members)
            .and_then(|()| deserializer.end())
            .map_err(|error| Error::invalid(INDEX_FILE, error.to_string()))?;
        match members.weight_map {
            None => Err(Error::invalid(INDEX_FILE, "has no weight_map")),
            Some(index) if index.shards.is_empty() => {
                Err(Error::invalid(INDEX_FILE, "weight_map names no tensors"))
            }
            Some(index) => Ok(index),
        }
    }
}

/// The members of the file. All but `weight_map` are skipped.
#[derive(Default)]
struct Members {
    weight_map: Option<ShardIndex>,
}

impl<'de> Visitor<'de> for &mut Members {
    type Value = ();

    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("an object with a weight_map")
    }

    fn visit_str<E: serde::de::Error>(self, _: &str) -> Result<(), E> {
        not_text(&self)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(key) = map.next_key_seed(Name { max: usize::MAX })? {
            if key != WEIGHT_MAP {
                map.next_value_seed(Skip)?;
            } else if self.weight_map.replace(map.next_value_seed(WeightMap::default())?).is_some() {
                return Err(A::Error::custom("weight_map occurs twice"));
            }
        }
        Ok(())
    }
}

#[derive(Default)]
struct WeightMap<'de> {
    places: HashMap<Cow<'de, str>, usize>,
    seen: HashSet<Cow<'de, str>>,
}

impl<'de> DeserializeSeed<'de> for WeightMap<'de> {
    type Value = ShardIndex;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<ShardIndex, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for WeightMap<'de> {
    type Value = ShardIndex;

    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("a weight_map of tensors and the files they are in")
    }

    fn visit_str<E: serde::de::Error>(self, _: &str) -> Result<ShardIndex, E> {
        not_text(&self)
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut map: A) -> Result<ShardIndex, A::Error> {
        let mut index = ShardIndex { shards: Vec::new(), tensors: Vec::new() };
        while let Some(tensor) = map.next_key_seed(Name { max: MAX_NAME_BYTES })? {
            if index.tensors.len() == MAX_MODEL_TENSORS {
                let why = format!("names more than {MAX_MODEL_TENSORS} tensors, the limit for one model");
                return Err(A::Error::custom(why));
            }
            let shard = map.next_value_seed(Name { max: usize::MAX })?;
            let place = self.place(shard, &mut index.shards)?;
            index.tensors.push((tensor.clone().into_owned(), place));
            if let Some(twice) = self.seen.replace(tensor) {
                return Err(A::Error::custom(format!("tensor '{}' is in two shards", excerpt(&twice))));
            }
        }
        Ok(index)
    }
}

impl<'de> WeightMap<'de> {
    /// Returns the index of the shard in `shards`, and adds it if it is new.
    fn place<E: serde::de::Error>(
        &mut self,
        shard: Cow<'de, str>,
        shards: &mut Vec<String>,
    ) -> Result<usize, E> {
        if let Some(place) = self.places.get(&shard) {
            return Ok(*place);
        }
        if !is_plain_file_name(&shard) {
            let why = format!("shard '{}' is not a plain .safetensors file name", excerpt(&shard));
            return Err(E::custom(why));
        }
        if shards.len() == MAX_SHARDS {
            return Err(E::custom(format!("names more than {MAX_SHARDS} shards, the limit for one model")));
        }
        shards.push(shard.clone().into_owned());
        self.places.insert(shard, shards.len() - 1);
        Ok(shards.len() - 1)
    }
}

/// Returns whether a name can be joined to the model's folder: no separators, drives, control characters or leading dot.
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
    fn false_claims_are_refused() {
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
        check(r#"{"weight_map":[]}"#, "expected a weight_map");
        check(r#"{"weight_map":"a"}"#, "expected a weight_map");
        check(r#"{"weight_map":{"a":"1.safetensors"},"weight_map":{}}"#, "twice");
        check("{}", "weight_map");
        check("\"text\"", "expected an object");
        check("", "EOF");
    }
}
