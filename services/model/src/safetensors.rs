//! The safetensors format: headers validated before any byte of data is looked at, and the index of a model in
//! several files.

mod entries;
mod header;
mod index;

pub use header::{Dtype, MAX_HEADER_BYTES, SafetensorsHeader, StoredTensor};
pub use index::ShardIndex;

use std::borrow::Cow;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, Expected, MapAccess, SeqAccess, Unexpected, Visitor};

use crate::error::shown;

/// Tensors in one file. The largest published models have some 150,000 in all their files.
pub const MAX_TENSORS: usize = 200_000;
/// Tensors in all files of a model: what a model of the most layers and experts that are read could have.
pub const MAX_MODEL_TENSORS: usize = 500_000;
const MAX_NAME_BYTES: usize = 512;

/// A string in place of something else, without the string: it may have a hundred megabytes.
fn not_text<T, E: Error>(expected: &dyn Expected) -> Result<T, E> {
    Err(E::invalid_type(Unexpected::Other("a string"), expected))
}

/// The name of a member, borrowed where the text has it so.
struct Name {
    /// In bytes.
    most: usize,
}

impl<'de> DeserializeSeed<'de> for Name {
    type Value = Cow<'de, str>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Name {
    fn fits<E: Error>(&self, name: &str) -> Result<(), E> {
        if name.len() <= self.most {
            return Ok(());
        }
        let (name, length, most) = (shown(name), name.len(), self.most);
        Err(E::custom(format!("name '{name}' of {length} bytes is over the limit of {most}")))
    }
}

impl<'de> Visitor<'de> for Name {
    type Value = Cow<'de, str>;

    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("a string")
    }

    fn visit_borrowed_str<E: Error>(self, name: &'de str) -> Result<Self::Value, E> {
        self.fits(name)?;
        Ok(Cow::Borrowed(name))
    }

    fn visit_str<E: Error>(self, name: &str) -> Result<Self::Value, E> {
        self.fits(name)?;
        Ok(Cow::Owned(name.to_owned()))
    }
}

/// Any value, passed over. Unlike serde's own it is refused where it is nested too deep.
struct Skip;

impl<'de> DeserializeSeed<'de> for Skip {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Skip {
    type Value = ();

    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("any value")
    }

    fn visit_unit<E: Error>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_bool<E: Error>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_u64<E: Error>(self, _: u64) -> Result<(), E> {
        Ok(())
    }

    fn visit_i64<E: Error>(self, _: i64) -> Result<(), E> {
        Ok(())
    }

    fn visit_f64<E: Error>(self, _: f64) -> Result<(), E> {
        Ok(())
    }

    fn visit_str<E: Error>(self, _: &str) -> Result<(), E> {
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        while list.next_element_seed(Skip)?.is_some() {}
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while map.next_key_seed(Skip)?.is_some() {
            map.next_value_seed(Skip)?;
        }
        Ok(())
    }
}
