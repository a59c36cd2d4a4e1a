//! The limits of safetensors files, and the serde visitors that enforce them while they read.

use std::borrow::Cow;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, Expected, MapAccess, SeqAccess, Unexpected, Visitor};

use crate::error::excerpt;

/// The most tensors in one file. The largest published models have some 150,000 in all their files.
pub const MAX_TENSORS: usize = 200_000;
/// The most tensors in all files of a model: as many as a model with the most layers and experts could have.
pub const MAX_MODEL_TENSORS: usize = 500_000;
/// The longest name of a tensor, in bytes.
pub(super) const MAX_NAME_BYTES: usize = 512;

/// Refuses a string in place of something else, without repeating it: it may be a hundred megabytes long.
pub(super) fn not_text<T, E: Error>(expected: &dyn Expected) -> Result<T, E> {
    Err(E::invalid_type(Unexpected::Other("a string"), expected))
}

/// Reads the name of a member, borrowed where the text needs no unescaping.
pub(super) struct Name {
    /// The longest name that is read, in bytes.
    pub max: usize,
}

impl<'de> DeserializeSeed<'de> for Name {
    type Value = Cow<'de, str>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Name {
    fn fits<E: Error>(&self, name: &str) -> Result<(), E> {
        if name.len() <= self.max {
            return Ok(());
        }
        let (name, length, max) = (excerpt(name), name.len(), self.max);
        Err(E::custom(format!("name '{name}' of {length} bytes is over the limit of {max}")))
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

/// Skips any value. Unlike serde's `IgnoredAny` it refuses values that are nested too deep.
pub(super) struct Skip;

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
