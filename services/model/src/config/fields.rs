//! Typed access to the fields of a JSON object. Absent and null fields are distinguished from wrong ones, and every error
//! names the file, the field and the value.

use std::cell::RefCell;
use std::collections::BTreeSet;

use serde_json::{Map, Value};

use crate::error::{Error, Result};

pub(super) const CONFIG_FILE: &str = "config.json";
pub(super) const GENERATION_FILE: &str = "generation_config.json";

/// One JSON object of `file`. It remembers the fields that were asked for, since fields that are not read may have to be
/// refused.
pub(super) struct Fields<'a> {
    file: &'a str,
    map: &'a Map<String, Value>,
    read: RefCell<BTreeSet<String>>,
}

/// Shortens a value for a message: values in hostile files are megabytes long.
fn excerpt_of(value: &Value) -> String {
    let text = value.to_string();
    if text.len() <= 80 { text } else { text.chars().take(77).chain("...".chars()).collect() }
}

impl<'a> Fields<'a> {
    /// Wraps the object of `file`.
    pub(super) fn new(file: &'a str, map: &'a Map<String, Value>) -> Self {
        Self { file, map, read: RefCell::default() }
    }

    /// Makes an [`Error::InvalidFile`] about a field.
    pub(super) fn invalid(&self, field: &str, why: &str) -> Error {
        let value = self.map.get(field).map_or_else(|| "absent".to_owned(), excerpt_of);
        Error::invalid(self.file, format!("{field} = {value}: {why}"))
    }

    /// Makes an [`Error::UnsupportedField`].
    pub(super) fn unsupported(&self, field: &str) -> Error {
        let value = self.map.get(field).map_or_else(|| "absent".to_owned(), excerpt_of);
        Error::UnsupportedField { field: field.to_owned(), value }
    }

    /// Returns a value; `None` for an absent or null one.
    pub(super) fn get(&self, field: &str) -> Option<&'a Value> {
        self.read.borrow_mut().insert(field.to_owned());
        self.map.get(field).filter(|value| !value.is_null())
    }

    /// Returns whether a field is null, which differs from absent for some fields.
    pub(super) fn is_null(&self, field: &str) -> bool {
        self.read.borrow_mut().insert(field.to_owned());
        self.map.get(field).is_some_and(Value::is_null)
    }

    /// Returns the fields that are present and not null, and were not asked for.
    pub(super) fn unread(&self) -> impl Iterator<Item = (&'a str, &'a Value)> {
        let read = self.read.borrow().clone();
        let present = self.map.iter().filter(|(_, value)| !value.is_null());
        present.filter(move |(key, _)| !read.contains(*key)).map(|(key, value)| (key.as_str(), value))
    }

    /// Returns the name of the two that is present, or the first. Refuses two names with different values.
    pub(super) fn either<'b>(&self, first: &'b str, second: &'b str) -> Result<&'b str> {
        match (self.get(first), self.get(second)) {
            (Some(a), Some(b)) if a != b => Err(self.unsupported(second)),
            (None, Some(_)) => Ok(second),
            _ => Ok(first),
        }
    }

    /// Returns a string.
    pub(super) fn text(&self, field: &str) -> Result<Option<&'a str>> {
        self.get(field)
            .map(|value| value.as_str().ok_or_else(|| self.invalid(field, "expected a string")))
            .transpose()
    }

    /// Returns a boolean.
    pub(super) fn flag(&self, field: &str) -> Result<Option<bool>> {
        self.get(field)
            .map(|value| value.as_bool().ok_or_else(|| self.invalid(field, "expected true or false")))
            .transpose()
    }

    /// Returns a whole number from 1 to `max`.
    pub(super) fn count(&self, field: &str, max: usize) -> Result<Option<usize>> {
        let Some(value) = self.get(field) else { return Ok(None) };
        value
            .as_u64()
            .filter(|&count| (1..=max as u64).contains(&count))
            .map(|count| Some(count as usize))
            .ok_or_else(|| self.invalid(field, &format!("expected a whole number from 1 to {max}")))
    }

    /// Returns a whole number from 1 to `max` that must be present.
    pub(super) fn required_count(&self, field: &str, max: usize) -> Result<usize> {
        self.count(field, max)?.ok_or_else(|| self.invalid(field, "is required"))
    }

    /// Returns a finite number above zero.
    pub(super) fn positive(&self, field: &str) -> Result<Option<f64>> {
        let Some(value) = self.get(field) else { return Ok(None) };
        value
            .as_f64()
            .filter(|number| number.is_finite() && *number > 0.0 && (*number as f32).is_finite())
            .map(Some)
            .ok_or_else(|| self.invalid(field, "expected a finite number above 0"))
    }

    /// Returns a finite number above zero that must be present.
    pub(super) fn required_positive(&self, field: &str) -> Result<f64> {
        self.positive(field)?.ok_or_else(|| self.invalid(field, "is required"))
    }

    /// Returns the token ids of a field that holds one id or a list.
    pub(super) fn token_ids(&self, field: &str) -> Result<Vec<u32>> {
        const MAX_IDS: usize = 256;
        let wrong = || self.invalid(field, "expected a token id or a list of them");
        let id = |value: &Value| value.as_u64().and_then(|id| u32::try_from(id).ok()).ok_or_else(wrong);
        match self.get(field) {
            None => Ok(Vec::new()),
            Some(Value::Array(ids)) if ids.len() <= MAX_IDS => ids.iter().map(id).collect(),
            Some(Value::Array(_)) => Err(wrong()),
            Some(single) => Ok(vec![id(single)?]),
        }
    }

    /// Returns a list of `expected` numbers above zero.
    pub(super) fn factors(&self, field: &str, expected: usize) -> Result<Vec<f32>> {
        let wrong = || self.invalid(field, &format!("expected {expected} finite numbers above 0"));
        let list = self.get(field).and_then(Value::as_array).ok_or_else(wrong)?;
        let number = |value: &Value| value.as_f64().map(|number| number as f32);
        let list: Vec<f32> =
            list.iter().filter_map(number).filter(|number| number.is_finite() && *number > 0.0).collect();
        if list.len() == expected { Ok(list) } else { Err(wrong()) }
    }

    /// Returns an object.
    pub(super) fn object(&self, field: &str) -> Result<Option<&'a Map<String, Value>>> {
        self.get(field)
            .map(|value| value.as_object().ok_or_else(|| self.invalid(field, "expected an object")))
            .transpose()
    }
}
