//! JSON request bodies as types. Every mistake names its field.

use axum::{
    body::Bytes,
    extract::{FromRequest as _, Request},
    http::{StatusCode, header},
};
use millm_kit::ServiceError;
use serde::{Deserializer, de::DeserializeOwned};
use serde_json::{Map, Value};

use crate::{BODY_LIMIT, error::Failure};

/// The JSON object of a request's body. A member that is `null` is the same as a missing one.
#[derive(Debug)]
pub struct JsonObject(Value);

impl Default for JsonObject {
    fn default() -> Self {
        Self(Value::Object(Map::new()))
    }
}

impl JsonObject {
    /// Reads the body of a request.
    ///
    /// # Errors
    ///
    /// 415 unless the content type is JSON, 413 beyond the limit, 400 with the position unless it is an object.
    pub async fn read(request: Request) -> Result<Self, Failure> {
        if !is_json(&request) {
            return Err(not_json());
        }
        Self::parse(&bytes(request).await?)
    }

    /// Reads the body of a request as [`JsonObject::read`] does. The body may be missing.
    ///
    /// # Errors
    ///
    /// The same as for [`JsonObject::read`].
    pub async fn read_optional(request: Request) -> Result<Self, Failure> {
        if is_json(&request) {
            let bytes = bytes(request).await?;
            return if bytes.is_empty() { Ok(Self::default()) } else { Self::parse(&bytes) };
        }
        let has_type = request.headers().contains_key(header::CONTENT_TYPE);
        if has_type && !bytes(request).await?.is_empty() {
            return Err(not_json());
        }
        Ok(Self::default())
    }

    /// Parses an object.
    ///
    /// # Errors
    ///
    /// 400 of the field `body`, with the position, unless it is an object whose values fit into memory.
    pub fn parse(bytes: &[u8]) -> Result<Self, Failure> {
        let found = room_for(bytes);
        if found > MAX_VALUE_BYTES {
            let why = format!(
                "has values that take {found} bytes of memory, the most allowed are {MAX_VALUE_BYTES}: send fewer and \
                 longer ones"
            );
            return Err(ServiceError::invalid_argument("body", why).into());
        }
        let value: Value = serde_json::from_slice(bytes)
            .map_err(|error| ServiceError::invalid_argument("body", format!("is not JSON: {error}")))?;
        match value {
            Value::Object(_) => Ok(Self(value)),
            _ => Err(ServiceError::invalid_argument("body", "must be a JSON object").into()),
        }
    }

    /// Refuses members that would change the answer if miLLM knew them: they are not silently ignored.
    ///
    /// # Errors
    ///
    /// INVALID_ARGUMENT of the first of `names` that is given.
    pub fn refuse(&self, names: &[&str]) -> Result<(), ServiceError> {
        match names.iter().find(|&&name| self.0.get(name).is_some_and(|value| !value.is_null())) {
            Some(name) => Err(ServiceError::invalid_argument(name, "is not supported")),
            None => Ok(()),
        }
    }

    /// Returns the members that `T` knows, as copies.
    ///
    /// # Errors
    ///
    /// INVALID_ARGUMENT of the field that has another type.
    pub fn view<T: DeserializeOwned>(&self) -> Result<T, ServiceError> {
        typed(&self.0)
    }

    /// Returns the members that `T` knows.
    ///
    /// # Errors
    ///
    /// INVALID_ARGUMENT of the field that has another type.
    pub fn into_typed<T: DeserializeOwned>(self) -> Result<T, ServiceError> {
        typed(self.0)
    }
}

fn typed<'de, T, D>(deserializer: D) -> Result<T, ServiceError>
where
    T: DeserializeOwned,
    D: Deserializer<'de>,
{
    serde_path_to_error::deserialize(deserializer).map_err(|error| {
        let path = error.path().to_string();
        let field = if path == "." { "body" } else { &path };
        ServiceError::invalid_argument(field, format!("is wrong: {}", error.inner()))
    })
}

fn not_json() -> Failure {
    let error = ServiceError::invalid_argument("content-type", "must be application/json");
    Failure::with_status(StatusCode::UNSUPPORTED_MEDIA_TYPE, error)
}

/// The maximum memory of a body's parsed values. Eight million digits and commas, for example, would become six
/// hundred megabytes of numbers.
const MAX_VALUE_BYTES: usize = 64 << 20;

/// Returns the bytes that JSON takes at most once it is parsed, counted from the marks outside its strings. The sizes are
/// those of `serde_json`'s types.
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
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, Default, Deserialize)]
    #[serde(default)]
    struct Body {
        s: Option<String>,
        list: Option<Vec<u32>>,
        absent: Option<u32>,
    }

    #[test]
    fn mistakes_name_field_and_place() {
        let error = JsonObject::parse(b"{\"a\": 1,\n \"b\" 2}").unwrap_err().error;
        assert!(error.message.contains("line 2 column 6"), "{}", error.message);
        assert!(JsonObject::parse(b"[]").is_err());
        let check = |json: &[u8], field: &str| {
            let object = JsonObject::parse(json).unwrap();
            assert_eq!(object.view::<Body>().unwrap_err().details["field"], field);
            assert_eq!(object.into_typed::<Body>().unwrap_err().details["field"], field);
        };
        check(b"{\"s\": 7}", "s");
        check(b"{\"list\": [1, -2]}", "list[1]");
        let object = JsonObject::parse(b"{\"s\": \"a\", \"list\": null, \"x\": [1], \"s\": \"b\"}").unwrap();
        assert_eq!(object.refuse(&["list", "x"]).unwrap_err().details["field"], "x");
        let body: Body = object.into_typed().unwrap();
        assert_eq!((body.s.as_deref(), body.list, body.absent), (Some("b"), None, None));
    }

    #[test]
    fn values_that_take_too_much_memory_are_refused() {
        for part in ["1,", "[],", "{\"\":0},", "\"\","] {
            let body = format!("{{\"prompt\":[{}1]}}", part.repeat(BODY_LIMIT / part.len()));
            let error = JsonObject::parse(body.as_bytes()).unwrap_err().error;
            assert_eq!(error.details["field"], "body");
            assert!(error.message.contains("the most allowed are 67108864"), "{}", error.message);
        }
        let marks = format!("{{\"prompt\": \"{}\"}}", r#"[{\"\\:,"#.repeat(1 << 20));
        assert!(JsonObject::parse(marks.as_bytes()).is_ok(), "what is in a string is text");
        let ids = format!("{{\"prompt\":[{}1]}}", "100000,".repeat(500_000));
        assert!(JsonObject::parse(ids.as_bytes()).is_ok());
    }

    #[test]
    fn numbers_beyond_floats_are_no_numbers() {
        assert!(JsonObject::parse(b"{\"t\": 1e999}").is_err());
        assert!(JsonObject::parse(b"{\"t\": NaN}").is_err());
        assert!(JsonObject::parse("[".repeat(100_000).as_bytes()).is_err());
    }
}
