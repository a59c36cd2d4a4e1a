//! Reads the members of a safetensors header one by one. Only tensors are kept, and reading stops at the first limit
//! that is exceeded.

use std::borrow::Cow;
use std::collections::HashSet;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};

use super::bounded::{MAX_NAME_BYTES, MAX_TENSORS, Name, Skip, not_text};
use super::tensor::{Dtype, SafetensorsTensor};
use crate::error::excerpt;

const MAX_DIMENSIONS: usize = 8;
/// The most members of `__metadata__`. Published files have a few, those of trainers some hundred.
const MAX_METADATA: usize = 10_000;
const METADATA: &str = "__metadata__";

/// The entries of a header read so far.
pub(super) struct Entries<'de> {
    pub(super) tensors: Vec<SafetensorsTensor>,
    data_start: u64,
    seen: HashSet<Cow<'de, str>>,
    /// The name of the member that is being read, for messages.
    current: Option<Cow<'de, str>>,
}

/// Reads the JSON object `json` into `entries`. Errors of the category `Data` are about the member that
/// [`Entries::place`] names.
pub(super) fn read<'de>(json: &'de str, entries: &mut Entries<'de>) -> serde_json::Result<()> {
    let mut deserializer = serde_json::Deserializer::from_str(json);
    deserializer.deserialize_map(entries)?;
    deserializer.end()
}

impl Entries<'_> {
    pub(super) fn new(data_start: u64) -> Self {
        Self { tensors: Vec::new(), data_start, seen: HashSet::new(), current: None }
    }

    /// Returns the name of the member that is being read, as the beginning of a message.
    pub(super) fn place(&self) -> String {
        match &self.current {
            None => String::new(),
            Some(name) if name == METADATA => format!("{METADATA}: "),
            Some(name) => format!("tensor '{}': ", excerpt(name)),
        }
    }

    fn add<E: Error>(&mut self, name: &str, entry: Entry) -> Result<(), E> {
        if self.tensors.len() == MAX_TENSORS {
            self.current = None;
            return Err(E::custom(format!("more than {MAX_TENSORS} tensors, the limit for one file")));
        }
        let dtype = entry.dtype.ok_or_else(|| E::custom("has no dtype"))?;
        let shape = entry.shape.ok_or_else(|| E::custom("has no shape"))?;
        let offsets = entry.offsets.ok_or_else(|| E::custom("has no data_offsets"))?;
        let offsets = <[usize; 2]>::try_from(offsets)
            .map_err(|_| E::custom("has no data_offsets of two whole numbers"))?;
        let tensor = SafetensorsTensor::new(name.to_owned(), dtype, shape, offsets, self.data_start);
        self.tensors.push(tensor.map_err(E::custom)?);
        Ok(())
    }
}

impl<'de> Visitor<'de> for &mut Entries<'de> {
    type Value = ();

    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(name) = map.next_key_seed(Name { max: MAX_NAME_BYTES })? {
            self.current = Some(name.clone());
            if !self.seen.insert(name.clone()) {
                return Err(A::Error::custom("occurs twice in the header"));
            }
            if name == METADATA {
                map.next_value_seed(Metadata)?;
            } else {
                let entry = map.next_value_seed(Entry::default())?;
                self.add(&name, entry)?;
            }
            self.current = None;
        }
        Ok(())
    }
}

/// Checks an object of strings and keeps none of it.
struct Metadata;

impl<'de> DeserializeSeed<'de> for Metadata {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Metadata {
    type Value = ();

    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("an object of strings")
    }

    fn visit_str<E: Error>(self, _: &str) -> Result<(), E> {
        not_text(&self)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let mut count = 0;
        while map.next_key_seed(Skip)?.is_some() {
            count += 1;
            if count > MAX_METADATA {
                return Err(A::Error::custom(format!("more than {MAX_METADATA} members, the limit")));
            }
            map.next_value_seed(Text)?;
        }
        Ok(())
    }
}

/// Skips a string.
struct Text;

impl<'de> DeserializeSeed<'de> for Text {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for Text {
    type Value = ();

    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("a string")
    }

    fn visit_str<E: Error>(self, _: &str) -> Result<(), E> {
        Ok(())
    }
}

/// The members of a tensor's object. Others are skipped, as by the reference reader.
#[derive(Default)]
struct Entry {
    dtype: Option<Dtype>,
    shape: Option<Vec<usize>>,
    offsets: Option<Vec<usize>>,
}

impl<'de> DeserializeSeed<'de> for Entry {
    type Value = Self;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Entry {
    type Value = Self;

    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("an object with dtype, shape and data_offsets")
    }

    fn visit_str<E: Error>(self, _: &str) -> Result<Self, E> {
        not_text(&self)
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut map: A) -> Result<Self, A::Error> {
        while let Some(key) = map.next_key_seed(Name { max: usize::MAX })? {
            let again = match &*key {
                "dtype" => self.dtype.replace(map.next_value_seed(DtypeName)?).is_some(),
                "shape" => self.shape.replace(map.next_value_seed(Numbers("shape"))?).is_some(),
                "data_offsets" => {
                    self.offsets.replace(map.next_value_seed(Numbers("data_offsets"))?).is_some()
                }
                _ => {
                    map.next_value_seed(Skip)?;
                    false
                }
            };
            if again {
                return Err(A::Error::custom(format!("has '{key}' twice")));
            }
        }
        Ok(self)
    }
}

struct DtypeName;

impl<'de> DeserializeSeed<'de> for DtypeName {
    type Value = Dtype;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Dtype, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for DtypeName {
    type Value = Dtype;

    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("the name of a dtype")
    }

    fn visit_str<E: Error>(self, name: &str) -> Result<Dtype, E> {
        Dtype::by_name(name).ok_or_else(|| E::custom(format!("dtype '{}' is unknown", excerpt(name))))
    }
}

/// Reads a list of at most [`MAX_DIMENSIONS`] whole numbers; the name is for messages.
struct Numbers(&'static str);

impl<'de> DeserializeSeed<'de> for Numbers {
    type Value = Vec<usize>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Vec<usize>, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Numbers {
    type Value = Vec<usize>;

    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "a {} of whole numbers", self.0)
    }

    fn visit_str<E: Error>(self, _: &str) -> Result<Vec<usize>, E> {
        not_text(&self)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Vec<usize>, A::Error> {
        let mut numbers = Vec::new();
        while let Some(number) = list.next_element_seed(Number)? {
            if numbers.len() == MAX_DIMENSIONS {
                let why = format!("has a {} of more than {MAX_DIMENSIONS} dimensions, the limit", self.0);
                return Err(A::Error::custom(why));
            }
            numbers.push(number);
        }
        Ok(numbers)
    }
}

struct Number;

impl<'de> DeserializeSeed<'de> for Number {
    type Value = usize;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<usize, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl Visitor<'_> for Number {
    type Value = usize;

    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("a whole number")
    }

    fn visit_str<E: Error>(self, _: &str) -> Result<usize, E> {
        not_text(&self)
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<usize, E> {
        usize::try_from(number).map_err(E::custom)
    }
}
