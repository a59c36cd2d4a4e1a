//! The safetensors format: headers validated before any byte of data is looked at, and the index of a model in
//! several files.

mod header;
mod index;

pub use header::{Dtype, MAX_HEADER_BYTES, SafetensorsHeader, StoredTensor};
pub use index::ShardIndex;

use std::fmt;
use std::marker::PhantomData;

use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};

/// A JSON object with all its pairs: a plain map would silently keep the last of two equal keys.
struct Pairs<V>(Vec<(String, V)>);

impl<'de, V: Deserialize<'de>> Deserialize<'de> for Pairs<V> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Each<V>(PhantomData<V>);

        impl<'de, V: Deserialize<'de>> Visitor<'de> for Each<V> {
            type Value = Pairs<V>;

            fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                out.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut pairs = Vec::new();
                while let Some(pair) = map.next_entry()? {
                    pairs.push(pair);
                }
                Ok(Pairs(pairs))
            }
        }

        deserializer.deserialize_map(Each(PhantomData))
    }
}
