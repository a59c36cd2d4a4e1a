//! JSON request bodies, read field by field so that every mistake names its field.

use std::ops::RangeInclusive;

use axum::{
    body::Bytes,
    extract::{FromRequest as _, Request},
    http::{StatusCode, header},
};
use millm_kit::ServiceError;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::{BODY_LIMIT, failure::Failure};

/// The members of a request's JSON object; each is taken once. `null` is the same as absent.
#[derive(Debug, Default)]
pub struct Fields(Map<String, Value>);

impl Fields {
    /// 415 unless JSON, 413 beyond the limit, 400 with the position unless an object.
    pub async fn read(request: Request) -> Result<Self, Failure> {
        if !is_json(&request) {
            let error = ServiceError::invalid_argument("content-type", "must be application/json");
            return Err(Failure::with_status(StatusCode::UNSUPPORTED_MEDIA_TYPE, error));
        }
        Self::parse(&bytes(request).await?)
    }

    /// As [`Fields::read`], but the body may be missing.
    pub async fn read_optional(request: Request) -> Result<Self, Failure> {
        if is_json(&request) {
            let bytes = bytes(request).await?;
            return if bytes.is_empty() { Ok(Self::default()) } else { Self::parse(&bytes) };
        }
        let has_type = request.headers().contains_key(header::CONTENT_TYPE);
        if has_type && !bytes(request).await?.is_empty() {
            let error = ServiceError::invalid_argument("content-type", "must be application/json");
            return Err(Failure::with_status(StatusCode::UNSUPPORTED_MEDIA_TYPE, error));
        }
        Ok(Self::default())
    }

    pub fn parse(bytes: &[u8]) -> Result<Self, Failure> {
        let found = room_for(bytes);
        if found > MOST_VALUE_BYTES {
            let why = format!(
                "has values that take {found} bytes of memory, the most allowed are {MOST_VALUE_BYTES}: send fewer and \
                 longer ones"
            );
            return Err(ServiceError::invalid_argument("body", why).into());
        }
        let value: Value = serde_json::from_slice(bytes)
            .map_err(|error| ServiceError::invalid_argument("body", format!("is not JSON: {error}")))?;
        match value {
            Value::Object(members) => Ok(Self(members)),
            _ => Err(ServiceError::invalid_argument("body", "must be a JSON object").into()),
        }
    }

    pub fn take_value(&mut self, name: &str) -> Option<Value> {
        self.0.shift_remove(name).filter(|value| !value.is_null())
    }

    pub fn take<T: DeserializeOwned>(&mut self, name: &str) -> Result<Option<T>, ServiceError> {
        self.take_value(name)
            .map(|value| {
                T::deserialize(value)
                    .map_err(|error| ServiceError::invalid_argument(name, format!("is wrong: {error}")))
            })
            .transpose()
    }

    /// Text that is there and not empty.
    pub fn required(&mut self, name: &str) -> Result<String, ServiceError> {
        self.take::<String>(name)?
            .filter(|text| !text.is_empty())
            .ok_or_else(|| ServiceError::invalid_argument(name, "must be given"))
    }

    pub fn number(&mut self, name: &str, range: RangeInclusive<f64>) -> Result<Option<f32>, ServiceError> {
        let Some(value) = self.take_value(name) else { return Ok(None) };
        match value.as_f64() {
            Some(number) if range.contains(&number) => Ok(Some(number as f32)),
            _ => {
                let why = format!("must be a number from {} to {}", range.start(), range.end());
                Err(ServiceError::invalid_argument(name, why))
            }
        }
    }

    pub fn integer(&mut self, name: &str, range: RangeInclusive<i64>) -> Result<Option<i64>, ServiceError> {
        let Some(value) = self.take_value(name) else { return Ok(None) };
        match value.as_i64() {
            Some(number) if range.contains(&number) => Ok(Some(number)),
            _ => {
                let why = format!("must be an integer from {} to {}", range.start(), range.end());
                Err(ServiceError::invalid_argument(name, why))
            }
        }
    }

    /// What we do not do is refused, not ignored.
    pub fn refuse(&mut self, names: &[&str]) -> Result<(), ServiceError> {
        match names.iter().find(|&&name| self.take_value(name).is_some()) {
            Some(name) => Err(ServiceError::invalid_argument(name, "is not supported")),
            None => Ok(()),
        }
    }
}

/// What the values of a body may take in memory: a body of eight million digits and commas would be six hundred
/// megabytes of numbers.
const MOST_VALUE_BYTES: usize = 64 << 20;

/// Bytes that JSON takes at most once it is parsed, from the marks outside its strings; the numbers are `serde_json`'s.
fn room_for(json: &[u8]) -> usize {
    const TEXT: usize = 24;
    const VALUE: usize = 72;
    const MEMBER: usize = 64;
    const LIST: usize = 288;
    const OBJECT: usize = 384;
    let (mut room, mut rest) = (json.len(), json.iter());
    while let Some(byte) = rest.next() {
        room += match byte {
            b'"' => {
                // To the end of the string.
                while let Some(byte) = rest.next() {
                    match byte {
                        b'"' => break,
                        b'\\' => _ = rest.next(),
                        _ => {}
                    }
                }
                TEXT
            }
            b',' => VALUE,
            b':' => MEMBER,
            b'[' => LIST,
            b'{' => OBJECT,
            _ => 0,
        };
    }
    room
}

fn is_json(request: &Request) -> bool {
    let content_type = request.headers().get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let essence = content_type.and_then(|value| value.split(';').next()).unwrap_or_default().trim();
    essence.eq_ignore_ascii_case("application/json")
        || (essence.starts_with("application/") && essence.ends_with("+json"))
}

async fn bytes(request: Request) -> Result<Bytes, Failure> {
    Bytes::from_request(request, &()).await.map_err(|rejection| {
        if rejection.status() == StatusCode::PAYLOAD_TOO_LARGE {
            let why = format!("must be at most {} MiB", BODY_LIMIT >> 20);
            let error = ServiceError::invalid_argument("body", why);
            Failure::with_status(StatusCode::PAYLOAD_TOO_LARGE, error)
        } else {
            ServiceError::invalid_argument("body", "ended early").into()
        }
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn fields(value: &Value) -> Fields {
        Fields::parse(value.to_string().as_bytes()).unwrap()
    }

    #[test]
    fn mistakes_name_field_and_place() {
        let error = Fields::parse(b"{\"a\": 1,\n \"b\" 2}").unwrap_err().error;
        assert!(error.message.contains("line 2 column 6"), "{}", error.message);
        assert!(Fields::parse(b"[]").is_err());
        let mut fields = fields(&json!({"t": 2.5, "n": 1.5, "s": 7, "x": [1], "null": null}));
        assert!(fields.number("t", 0.0..=2.0).unwrap_err().message.starts_with("'t' must be a number"));
        assert!(fields.integer("n", 1..=4).unwrap_err().message.starts_with("'n' must be an integer"));
        assert_eq!(fields.take::<String>("s").unwrap_err().details["field"], "s");
        assert_eq!(fields.refuse(&["null", "x"]).unwrap_err().details["field"], "x");
        assert_eq!(fields.number("absent", 0.0..=1.0).unwrap(), None);
        assert!(fields.required("null").is_err());
    }

    #[test]
    fn values_that_take_too_much_memory_are_refused() {
        for part in ["1,", "[],", "{\"\":0},", "\"\","] {
            let body = format!("{{\"prompt\":[{}1]}}", part.repeat(BODY_LIMIT / part.len()));
            let error = Fields::parse(body.as_bytes()).unwrap_err().error;
            assert_eq!(error.details["field"], "body");
            assert!(error.message.contains("the most allowed are 67108864"), "{}", error.message);
        }
        let marks = format!("{{\"prompt\": \"{}\"}}", r#"[{\"\\:,"#.repeat(1 << 20));
        assert!(Fields::parse(marks.as_bytes()).is_ok(), "what is in a string is text");
        let ids = format!("{{\"prompt\":[{}1]}}", "100000,".repeat(500_000));
        assert!(Fields::parse(ids.as_bytes()).is_ok());
    }

    #[test]
    fn numbers_beyond_floats_are_no_numbers() {
        assert!(Fields::parse(b"{\"t\": 1e999}").is_err());
        assert!(Fields::parse(b"{\"t\": NaN}").is_err());
        assert!(Fields::parse("[".repeat(100_000).as_bytes()).is_err());
    }
}
