//! Rows and columns: what a reader returns, and which column of a dataset is read.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, de};

use crate::error::{Error, Result, excerpt};

/// One row's value of the chosen column. A value that is null or missing is empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Row {
    /// A text.
    Text(String),
    /// A conversation.
    Messages(Vec<Message>),
    /// A tokenized text.
    TokenIds(Vec<u32>),
}

impl Row {
    /// Returns the empty row of a kind; `None` for a kind that is not read.
    pub(crate) fn empty(kind: Kind) -> Option<Self> {
        match kind {
            Kind::Text => Some(Self::Text(String::new())),
            Kind::Messages => Some(Self::Messages(Vec::new())),
            Kind::TokenIds => Some(Self::TokenIds(Vec::new())),
            Kind::Other => None,
        }
    }
}

/// One message of a conversation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    /// The speaker: "user", "assistant", "system", …
    pub role: String,
    /// The text. Of a list of parts it is the texts of the parts, one after the other; a content that is null is empty.
    #[serde(default, deserialize_with = "content")]
    pub content: String,
}

/// Reads a message's content: a text, null, or a list of parts with texts.
fn content<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    struct Visitor;

    #[derive(Deserialize)]
    struct Part {
        text: String,
    }

    impl<'de> de::Visitor<'de> for Visitor {
        type Value = String;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a text, or a list of parts with texts")
        }

        fn visit_str<E>(self, text: &str) -> Result<String, E> {
            Ok(text.to_owned())
        }

        fn visit_string<E>(self, text: String) -> Result<String, E> {
            Ok(text)
        }

        fn visit_unit<E>(self) -> Result<String, E> {
            Ok(String::new())
        }

        fn visit_seq<A: de::SeqAccess<'de>>(self, mut parts: A) -> Result<String, A::Error> {
            let mut text = String::new();
            while let Some(part) = parts.next_element::<Part>()? {
                text.push_str(&part.text);
            }
            Ok(text)
        }
    }

    deserializer.deserialize_any(Visitor)
}

/// The kind of a column's values.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Strings.
    Text,
    /// Lists of objects with a role and a content.
    Messages,
    /// Lists of integers from 0 to 2^32 - 1.
    TokenIds,
    /// Anything else. Such a column is not read.
    Other,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Text => "text",
            Self::Messages => "messages",
            Self::TokenIds => "token ids",
            Self::Other => "other",
        })
    }
}

/// A column of a dataset.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Column {
    /// The name in the files.
    pub name: String,
    /// The kind of its values.
    pub kind: Kind,
}

impl Column {
    /// Makes a column.
    pub fn new(name: impl Into<String>, kind: Kind) -> Self {
        Self { name: name.into(), kind }
    }
}

/// The names by which the column is found, the likeliest first.
const USUAL_NAMES: [&str; 8] =
    ["text", "content", "messages", "conversations", "conversation", "input_ids", "token_ids", "tokens"];

/// Returns the column called `asked`. When `asked` is empty, it is the one with a usual name, else the only one that can
/// be read.
///
/// # Errors
///
/// [`Error::Column`], which lists the columns.
pub fn choose_column(columns: &[Column], asked: &str) -> Result<Column> {
    let readable = |column: &&Column| column.kind != Kind::Other;
    if !asked.is_empty() {
        return match columns.iter().find(|column| column.name == asked) {
            Some(column) if readable(&column) => Ok(column.clone()),
            Some(_) => {
                let why = format!("column '{}' has neither texts nor messages nor token ids", excerpt(asked));
                Err(no_column(why, columns))
            }
            None => Err(no_column(format!("there is no column '{}'", excerpt(asked)), columns)),
        };
    }
    let named = |name: &&str| columns.iter().filter(readable).find(|column| column.name == **name);
    if let Some(column) = USUAL_NAMES.iter().find_map(named) {
        return Ok(column.clone());
    }
    let mut all = columns.iter().filter(readable);
    match (all.next(), all.next()) {
        (Some(only), None) => Ok(only.clone()),
        (None, _) => Err(no_column("no column has texts, messages or token ids", columns)),
        (Some(_), Some(_)) => Err(no_column("several columns could be read: name one", columns)),
    }
}

/// Returns the error for columns of which none is chosen.
fn no_column(why: impl Into<String>, columns: &[Column]) -> Error {
    const MAX_LISTED: usize = 50;
    let mut listed: Vec<_> = columns
        .iter()
        .take(MAX_LISTED)
        .map(|column| format!("{} ({})", excerpt(&column.name), column.kind))
        .collect();
    if columns.len() > MAX_LISTED {
        listed.push(format!("and {} more", columns.len() - MAX_LISTED));
    }
    Error::Column { why: why.into(), columns: listed.join(", ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn columns(all: &[(&str, Kind)]) -> Vec<Column> {
        all.iter().map(|(name, kind)| Column::new(*name, *kind)).collect()
    }

    #[test]
    fn the_column_is_found_by_name_then_by_kind() {
        let check = |all: &[(&str, Kind)], asked: &str, expected: &str| {
            let found = choose_column(&columns(all), asked);
            let found = found.map_or_else(|error| error.to_string(), |column| column.name);
            assert!(found.contains(expected), "{found}");
        };
        let text = Kind::Text;
        check(&[("id", Kind::Other), ("content", text), ("text", text)], "", "text");
        check(&[("id", text), ("input_ids", Kind::TokenIds)], "", "input_ids");
        check(&[("id", Kind::Other), ("story", text)], "", "story");
        check(&[("text", Kind::Other), ("story", text)], "", "story");
        check(&[("a", text), ("b", text)], "b", "b");
        check(&[("a", text), ("b", Kind::Messages)], "", "several columns could be read: name one");
        check(
            &[("a", text), ("b", Kind::Messages)],
            "c",
            "there is no column 'c'; the columns are: a (text), b (messages)",
        );
        check(&[("a", Kind::Other)], "a", "neither texts");
        check(&[("a", Kind::Other)], "", "no column has");
        check(&[], "", "no column has");
    }

    #[test]
    fn messages_have_texts_parts_or_nothing() {
        let read = |json: &str| serde_json::from_str::<Message>(json).map(|message| message.content);
        assert_eq!(read(r#"{"role": "user", "content": "a"}"#).unwrap(), "a");
        assert_eq!(read(r#"{"role": "user", "content": null, "name": 5}"#).unwrap(), "");
        assert_eq!(read(r#"{"role": "user"}"#).unwrap(), "");
        let parts = r#"{"role": "user", "content": [{"type": "text", "text": "a"}, {"text": "b"}]}"#;
        assert_eq!(read(parts).unwrap(), "ab");
        for bad in [r#"{"content": "a"}"#, r#"{"role": 5}"#, r#"{"role": "a", "content": [{"image": "x"}]}"#]
        {
            assert!(read(bad).is_err(), "{bad}");
        }
    }
}
