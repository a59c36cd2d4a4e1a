//! JSON as Python's `json.dumps` writes it. Models were trained on tools in exactly this form.

use std::fmt::Write;

use serde_json::{Number, Value};

/// The arguments of `json.dumps` that templates use.
#[derive(Debug, Default)]
pub(super) struct Layout {
    pub(super) indent: Option<usize>,
    pub(super) is_ascii: bool,
    pub(super) sorts_keys: bool,
    /// The separators between items, and between key and value.
    pub(super) separators: Option<[String; 2]>,
}

pub(super) fn dumps(value: &Value, layout: &Layout) -> String {
    let (item, key) = match &layout.separators {
        Some([item, key]) => (item.as_str(), key.as_str()),
        None if layout.indent.is_some() => (",", ": "),
        None => (", ", ": "),
    };
    let mut writer = Writer { out: String::new(), layout, item, key };
    writer.value(value, 0);
    writer.out
}

struct Writer<'a> {
    out: String,
    layout: &'a Layout,
    item: &'a str,
    key: &'a str,
}

impl Writer<'_> {
    fn value(&mut self, value: &Value, depth: usize) {
        match value {
            Value::Null => self.out.push_str("null"),
            Value::Bool(flag) => self.out.push_str(if *flag { "true" } else { "false" }),
            Value::Number(number) => self.out.push_str(&spelled(number)),
            Value::String(text) => self.string(text),
            Value::Array(items) if items.is_empty() => self.out.push_str("[]"),
            Value::Array(items) => {
                self.out.push('[');
                for (place, item) in items.iter().enumerate() {
                    self.before(place, depth + 1);
                    self.value(item, depth + 1);
                }
                self.line(depth);
                self.out.push(']');
            }
            Value::Object(map) if map.is_empty() => self.out.push_str("{}"),
            Value::Object(map) => {
                let mut pairs: Vec<_> = map.iter().collect();
                if self.layout.sorts_keys {
                    pairs.sort_by_key(|(key, _)| *key);
                }
                self.out.push('{');
                for (place, (key, value)) in pairs.into_iter().enumerate() {
                    self.before(place, depth + 1);
                    self.string(key);
                    self.out.push_str(self.key);
                    self.value(value, depth + 1);
                }
                self.line(depth);
                self.out.push('}');
            }
        }
    }

    fn before(&mut self, place: usize, depth: usize) {
        if place > 0 {
            self.out.push_str(self.item);
        }
        self.line(depth);
    }

    fn line(&mut self, depth: usize) {
        if let Some(indent) = self.layout.indent {
            self.out.push('\n');
            self.out.extend(std::iter::repeat_n(' ', indent * depth));
        }
    }

    fn string(&mut self, text: &str) {
        self.out.push('"');
        for character in text.chars() {
            match character {
                '"' => self.out.push_str("\\\""),
                '\\' => self.out.push_str("\\\\"),
                '\n' => self.out.push_str("\\n"),
                '\r' => self.out.push_str("\\r"),
                '\t' => self.out.push_str("\\t"),
                '\u{8}' => self.out.push_str("\\b"),
                '\u{c}' => self.out.push_str("\\f"),
                control if control < ' ' => self.escape(control),
                wide if self.layout.is_ascii && !matches!(wide, ' '..='~') => self.escape(wide),
                plain => self.out.push(plain),
            }
        }
        self.out.push('"');
    }

    fn escape(&mut self, character: char) {
        for unit in character.encode_utf16(&mut [0; 2]) {
            write!(self.out, "\\u{unit:04x}").expect("a string takes all");
        }
    }
}

/// Formats integers as they are, and floats as Python's `repr` does.
fn spelled(number: &Number) -> String {
    match number.as_f64() {
        Some(float) if number.is_f64() => repr(float),
        _ => number.to_string(),
    }
}

/// Formats the shortest digits that read back the same, with an exponent below 10⁻⁴ and from 10¹⁶ on.
fn repr(float: f64) -> String {
    if float == 0.0 || (1e-4..1e16).contains(&float.abs()) {
        return format!("{float:?}");
    }
    let scientific = format!("{float:e}");
    let (digits, exponent) = scientific.split_once('e').expect("the format has an exponent");
    let (sign, exponent) = match exponent.strip_prefix('-') {
        Some(exponent) => ('-', exponent),
        None => ('+', exponent),
    };
    format!("{digits}e{sign}{exponent:0>2}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn as_python_writes_it() {
        let check = |value: Value, expected: &str| assert_eq!(dumps(&value, &Layout::default()), expected);
        check(json!({"a": [1, 2.0, null, true], "b": {}}), r#"{"a": [1, 2.0, null, true], "b": {}}"#);
        check(json!("<a href='x'>&\"é\u{1f}\u{7f}"), "\"<a href='x'>&\\\"é\\u001f\u{7f}\"");
        check(
            json!([1e16, 1.5e-5, 123.456, 1e-4, -1e22, 0.0]),
            "[1e+16, 1.5e-05, 123.456, 0.0001, -1e+22, 0.0]",
        );
    }

    #[test]
    fn with_arguments() {
        let value = json!({"b": [1], "a": "é😀", "c": []});
        let indented = Layout { indent: Some(2), ..Layout::default() };
        assert_eq!(dumps(&value, &indented), "{\n  \"b\": [\n    1\n  ],\n  \"a\": \"é😀\",\n  \"c\": []\n}");
        let compact = Layout {
            is_ascii: true,
            sorts_keys: true,
            separators: Some([",".to_owned(), ":".to_owned()]),
            ..Layout::default()
        };
        assert_eq!(dumps(&value, &compact), r#"{"a":"\u00e9\ud83d\ude00","b":[1],"c":[]}"#);
    }
}
