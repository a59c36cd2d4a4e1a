//! Typed reading of a JSON object from outside: absent and null are told from wrong, and every error names the
//! file, the field and the value.

use std::cell::RefCell;
use std::collections::BTreeSet;

use serde_json::{Map, Value};

use crate::error::{Error, Result};
use crate::json;

/// One JSON object of `file`. It remembers what was asked for: what nobody reads may have to be refused.
pub(crate) struct Fields<'a> {
    file: &'a str,
    map: &'a Map<String, Value>,
    read: RefCell<BTreeSet<String>>,
}

/// How a value is shown in messages: hostile files hold megabytes.
fn shown(value: &Value) -> String {
    let text = value.to_string();
    if text.len() <= 80 { text } else { text.chars().take(77).chain("...".chars()).collect() }
}

impl<'a> Fields<'a> {
    pub(crate) fn new(file: &'a str, map: &'a Map<String, Value>) -> Self {
        Self { file, map, read: RefCell::default() }
    }

    pub(crate) fn invalid(&self, field: &str, why: &str) -> Error {
        let value = self.map.get(field).map_or_else(|| "absent".to_owned(), shown);
        Error::invalid(self.file, format!("{field} = {value}: {why}"))
    }

    pub(crate) fn unsupported(&self, field: &str) -> Error {
        let value = self.map.get(field).map_or_else(|| "absent".to_owned(), shown);
        Error::UnsupportedField { field: field.to_owned(), value }
    }

    /// Absent and null alike are `None`.
    pub(crate) fn get(&self, field: &str) -> Option<&'a Value> {
        self.read.borrow_mut().insert(field.to_owned());
        self.map.get(field).filter(|value| !value.is_null())
    }

    /// Null is a statement of its own for some fields.
    pub(crate) fn is_null(&self, field: &str) -> bool {
        self.read.borrow_mut().insert(field.to_owned());
        self.map.get(field).is_some_and(Value::is_null)
    }

    /// What is there and not null, though nobody asked for it.
    pub(crate) fn unread(&self) -> impl Iterator<Item = (&'a str, &'a Value)> {
        let read = self.read.borrow().clone();
        let present = self.map.iter().filter(|(_, value)| !value.is_null());
        present.filter(move |(key, _)| !read.contains(*key)).map(|(key, value)| (key.as_str(), value))
    }

    /// The one of two names of a thing that is there, else the first. Both with different values are refused.
    pub(crate) fn either<'b>(&self, first: &'b str, second: &'b str) -> Result<&'b str> {
        match (self.get(first), self.get(second)) {
            (Some(a), Some(b)) if a != b => Err(self.unsupported(second)),
            (None, Some(_)) => Ok(second),
            _ => Ok(first),
        }
    }

    pub(crate) fn text(&self, field: &str) -> Result<Option<&'a str>> {
        self.get(field)
            .map(|value| value.as_str().ok_or_else(|| self.invalid(field, "expected a string")))
            .transpose()
    }

    pub(crate) fn flag(&self, field: &str) -> Result<Option<bool>> {
        self.get(field)
            .map(|value| value.as_bool().ok_or_else(|| self.invalid(field, "expected true or false")))
            .transpose()
    }

    /// A whole number from 1 to `most`.
    pub(crate) fn count(&self, field: &str, most: usize) -> Result<Option<usize>> {
        let Some(value) = self.get(field) else { return Ok(None) };
        value
            .as_u64()
            .filter(|&count| (1..=most as u64).contains(&count))
            .map(|count| Some(count as usize))
            .ok_or_else(|| self.invalid(field, &format!("expected a whole number from 1 to {most}")))
    }

    pub(crate) fn required_count(&self, field: &str, most: usize) -> Result<usize> {
        self.count(field, most)?.ok_or_else(|| self.invalid(field, "is needed"))
    }

    /// A finite number above zero.
    pub(crate) fn positive(&self, field: &str) -> Result<Option<f64>> {
        let Some(value) = self.get(field) else { return Ok(None) };
        value
            .as_f64()
            .filter(|number| number.is_finite() && *number > 0.0 && (*number as f32).is_finite())
            .map(Some)
            .ok_or_else(|| self.invalid(field, "expected a finite number above 0"))
    }

    pub(crate) fn required_positive(&self, field: &str) -> Result<f64> {
        self.positive(field)?.ok_or_else(|| self.invalid(field, "is needed"))
    }

    /// One token id or a list of them.
    pub(crate) fn token_ids(&self, field: &str) -> Result<Vec<u32>> {
        const MOST: usize = 256;
        let wrong = || self.invalid(field, "expected a token id or a list of them");
        let id = |value: &Value| value.as_u64().and_then(|id| u32::try_from(id).ok()).ok_or_else(wrong);
        match self.get(field) {
            None => Ok(Vec::new()),
            Some(Value::Array(ids)) if ids.len() <= MOST => ids.iter().map(id).collect(),
            Some(Value::Array(_)) => Err(wrong()),
            Some(single) => Ok(vec![id(single)?]),
        }
    }

    /// Numbers above zero, as many as expected.
    pub(crate) fn factors(&self, field: &str, expected: usize) -> Result<Vec<f32>> {
        let wrong = || self.invalid(field, &format!("expected {expected} finite numbers above 0"));
        let list = self.get(field).and_then(Value::as_array).ok_or_else(wrong)?;
        let number = |value: &Value| value.as_f64().map(|number| number as f32);
        let list: Vec<f32> =
            list.iter().filter_map(number).filter(|number| number.is_finite() && *number > 0.0).collect();
        if list.len() == expected { Ok(list) } else { Err(wrong()) }
    }

    pub(crate) fn object(&self, field: &str) -> Result<Option<&'a Map<String, Value>>> {
        self.get(field)
            .map(|value| value.as_object().ok_or_else(|| self.invalid(field, "expected an object")))
            .transpose()
    }
}

/// The object that the text of `file` is.
pub fn parse_object(file: &str, text: &str) -> Result<Map<String, Value>> {
    match json::parse(file, text)? {
        Value::Object(map) => Ok(map),
        _ => Err(Error::invalid(file, "is not a JSON object")),
    }
}
