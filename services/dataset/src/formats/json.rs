//! Parts of JSON rows, read without keeping the rest: one field, the shapes of all fields, or a preview.
//!
//! A row of 16 MiB would take a hundred times its size as a tree of values. So each seed here keeps only what is asked
//! for. What is ignored is skipped without recursion.

use std::{fmt, marker::PhantomData};

use serde::{
    Deserialize,
    de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor},
};
use serde_json::{Map, Number, Value};

use crate::{
    limits::{PREVIEW_CHARS, PREVIEW_DEPTH, PREVIEW_ELEMENTS},
    row::Kind,
};

/// The sign that stands for what a preview leaves out.
const ELLIPSIS: &str = "…";

/// Returns the beginning of a text, at most the length of a preview.
pub(super) fn cut_text(text: &str) -> String {
    match text.char_indices().nth(PREVIEW_CHARS) {
        Some((end, _)) => text[..end].to_owned(),
        None => text.to_owned(),
    }
}

/// Reads one field of an object; `None` when it is missing or null.
pub(super) struct FieldOf<'a, T> {
    name: &'a str,
    value: PhantomData<T>,
}

impl<'a, T> FieldOf<'a, T> {
    /// Makes the seed of the field with this name.
    pub(super) fn new(name: &'a str) -> Self {
        Self { name, value: PhantomData }
    }
}

impl<'de, T: Deserialize<'de>> DeserializeSeed<'de> for FieldOf<'_, T> {
    type Value = Option<T>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Option<T>, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de, T: Deserialize<'de>> Visitor<'de> for FieldOf<'_, T> {
    type Value = Option<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Option<T>, A::Error> {
        let mut value = None;
        while let Some(is_wanted) = map.next_key_seed(Is(self.name))? {
            if is_wanted {
                value = map.next_value()?;
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(value)
    }
}

/// Compares a key without keeping it.
struct Is<'a>(&'a str);

impl<'de> DeserializeSeed<'de> for Is<'_> {
    type Value = bool;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<bool, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for Is<'_> {
    type Value = bool;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_str<E>(self, key: &str) -> Result<bool, E> {
        Ok(key == self.0)
    }
}

/// What a value looks like, as far as the kinds of columns need it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shape {
    /// Null, or a list without elements: it fits every kind of list, and null fits all.
    Unknown,
    EmptyList,
    Text,
    Messages,
    TokenIds,
    Other,
}

impl Shape {
    /// Returns the shape of a column that has values of both shapes.
    pub(super) fn with(self, other: Self) -> Self {
        match (self, other) {
            (Self::Unknown, shape)
            | (shape, Self::Unknown)
            | (Self::EmptyList, shape @ (Self::Messages | Self::TokenIds))
            | (shape @ (Self::Messages | Self::TokenIds), Self::EmptyList) => shape,
            (one, two) if one == two => one,
            _ => Self::Other,
        }
    }

    /// Returns the kind of a column whose values have this shape.
    pub(super) fn kind(self) -> Kind {
        match self {
            Self::Text => Kind::Text,
            Self::Messages => Kind::Messages,
            Self::TokenIds => Kind::TokenIds,
            Self::Unknown | Self::EmptyList | Self::Other => Kind::Other,
        }
    }
}

impl<'de> Deserialize<'de> for Shape {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ShapeVisitor)
    }
}

struct ShapeVisitor;

impl<'de> Visitor<'de> for ShapeVisitor {
    type Value = Shape;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_unit<E>(self) -> Result<Shape, E> {
        Ok(Shape::Unknown)
    }

    fn visit_str<E>(self, _: &str) -> Result<Shape, E> {
        Ok(Shape::Text)
    }

    fn visit_bool<E>(self, _: bool) -> Result<Shape, E> {
        Ok(Shape::Other)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Shape, E> {
        Ok(Shape::Other)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Shape, E> {
        Ok(Shape::Other)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Shape, E> {
        Ok(Shape::Other)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Shape, A::Error> {
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(Shape::Other)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Shape, A::Error> {
        let mut shape = Shape::EmptyList;
        while let Some(Element(element)) = list.next_element()? {
            shape = shape.with(element);
        }
        Ok(shape)
    }
}

/// An element of a list: a token id makes the list one of token ids, a message one of messages.
struct Element(Shape);

impl<'de> Deserialize<'de> for Element {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ElementVisitor;

        impl<'de> Visitor<'de> for ElementVisitor {
            type Value = Shape;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an element")
            }

            fn visit_unit<E>(self) -> Result<Shape, E> {
                Ok(Shape::Other)
            }

            fn visit_str<E>(self, _: &str) -> Result<Shape, E> {
                Ok(Shape::Other)
            }

            fn visit_bool<E>(self, _: bool) -> Result<Shape, E> {
                Ok(Shape::Other)
            }

            fn visit_i64<E>(self, _: i64) -> Result<Shape, E> {
                Ok(Shape::Other)
            }

            fn visit_u64<E>(self, number: u64) -> Result<Shape, E> {
                Ok(if u32::try_from(number).is_ok() { Shape::TokenIds } else { Shape::Other })
            }

            fn visit_f64<E>(self, _: f64) -> Result<Shape, E> {
                Ok(Shape::Other)
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Shape, A::Error> {
                while list.next_element::<IgnoredAny>()?.is_some() {}
                Ok(Shape::Other)
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Shape, A::Error> {
                let (mut has_role, mut has_content) = (false, false);
                while let Some(key) = map.next_key::<MessageKey>()? {
                    match key {
                        MessageKey::Role => has_role = map.next_value::<Shape>()? == Shape::Text,
                        MessageKey::Content => {
                            map.next_value::<IgnoredAny>()?;
                            has_content = true;
                        }
                        MessageKey::Other => {
                            map.next_value::<IgnoredAny>()?;
                        }
                    }
                }
                Ok(if has_role && has_content { Shape::Messages } else { Shape::Other })
            }
        }

        deserializer.deserialize_any(ElementVisitor).map(Self)
    }
}

#[derive(Deserialize)]
#[serde(field_identifier, rename_all = "snake_case")]
enum MessageKey {
    Role,
    Content,
    #[serde(other)]
    Other,
}

/// Reads the names of an object's fields, and the shapes of their values.
pub(super) struct Shapes;

impl<'de> DeserializeSeed<'de> for Shapes {
    type Value = Vec<(String, Shape)>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Shapes {
    type Value = Vec<(String, Shape)>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut fields = Vec::new();
        while let Some(field) = map.next_entry()? {
            fields.push(field);
        }
        Ok(fields)
    }
}

/// Reads a value cut to the limits of a preview. Deeper values become an ellipsis, later elements are left out.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Cut {
    depth: usize,
}

impl Cut {
    fn below(self) -> Self {
        Self { depth: self.depth + 1 }
    }
}

impl<'de> DeserializeSeed<'de> for Cut {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        if self.depth > PREVIEW_DEPTH {
            IgnoredAny::deserialize(deserializer)?;
            return Ok(Value::from(ELLIPSIS));
        }
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Cut {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_str<E>(self, text: &str) -> Result<Value, E> {
        Ok(Value::String(cut_text(text)))
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, number: i64) -> Result<Value, E> {
        Ok(number.into())
    }

    fn visit_u64<E>(self, number: u64) -> Result<Value, E> {
        Ok(number.into())
    }

    fn visit_f64<E>(self, number: f64) -> Result<Value, E> {
        Ok(Number::from_f64(number).map_or(Value::Null, Value::Number))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Value, A::Error> {
        let mut elements = Vec::new();
        while elements.len() < PREVIEW_ELEMENTS {
            match list.next_element_seed(self.below())? {
                Some(element) => elements.push(element),
                None => return Ok(Value::Array(elements)),
            }
        }
        while list.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Value::Array(elements))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut fields = Map::new();
        while let Some(name) = map.next_key::<String>()? {
            if fields.len() < PREVIEW_ELEMENTS {
                let value = map.next_value_seed(self.below())?;
                fields.insert(cut_text(&name), value);
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(Value::Object(fields))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shapes_are_merged() {
        use Shape::{EmptyList, Messages, Other, Text, TokenIds, Unknown};
        for (one, two, expected) in [
            (Unknown, Text, Text),
            (Unknown, Unknown, Unknown),
            (EmptyList, TokenIds, TokenIds),
            (EmptyList, Messages, Messages),
            (EmptyList, Text, Other),
            (TokenIds, Messages, Other),
            (Text, Text, Text),
            (Other, Unknown, Other),
        ] {
            assert_eq!((one.with(two), two.with(one)), (expected, expected), "{one:?} {two:?}");
        }
    }

    #[test]
    fn lists_are_told_by_all_their_elements() {
        for (json, expected) in [
            ("[1, 2]", Shape::TokenIds),
            ("[1, -2]", Shape::Other),
            ("[1, null]", Shape::Other),
            ("[1, 2.0]", Shape::Other),
            ("[\"a\"]", Shape::Other),
            ("[[1]]", Shape::Other),
            ("[]", Shape::EmptyList),
            (r#"[{"role": "a", "content": [], "x": {}}]"#, Shape::Messages),
            (r#"[{"role": "a"}]"#, Shape::Other),
            (r#"[{"role": 5, "content": "a"}]"#, Shape::Other),
        ] {
            assert_eq!(serde_json::from_str::<Shape>(json).unwrap(), expected, "{json}");
        }
    }
}
