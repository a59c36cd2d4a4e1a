//! The form of an answer: OpenAI's `response_format`, and the names that vLLM (`guided_*`, `structured_outputs`) and
//! llama-server (`json_schema`, `grammar`) have for the same and more.

use millm_api::openai::request::{GenerationParams, ResponseFormat};
use millm_kit::ServiceError;
use millm_proto::runtime::v1::{Constraint, constraint::Kind};
use serde::Deserialize as _;
use serde_json::{Map, Value};

type Read = Result<Option<Kind>, ServiceError>;
type Reader = fn(&str, Value) -> Read;

/// Returns the constraint of a request.
///
/// # Errors
///
/// INVALID_ARGUMENT of a field that cannot be read, and of the second field when two are given.
pub fn of(params: GenerationParams) -> Result<Option<Constraint>, ServiceError> {
    let fields: [(&str, Option<Value>, Reader); 8] = [
        ("response_format", params.response_format, response_format),
        ("guided_json", params.guided_json, schema),
        ("json_schema", params.json_schema, schema),
        ("guided_regex", params.guided_regex, regex),
        ("guided_choice", params.guided_choice, choice),
        ("guided_grammar", params.guided_grammar, grammar),
        ("grammar", params.grammar, grammar),
        ("structured_outputs", params.structured_outputs, structured_outputs),
    ];
    let mut found: Option<Constraint> = None;
    for (field, value, read) in fields {
        let Some(value) = value else { continue };
        let Some(kind) = read(field, value)? else { continue };
        if let Some(Constraint { field: other, .. }) = &found {
            let why = format!("cannot be given together with '{other}'");
            return Err(ServiceError::invalid_argument(field, why));
        }
        found = Some(Constraint { kind: Some(kind), field: field.to_owned() });
    }
    Ok(found)
}

/// A schema that any object fits.
fn any_object() -> Kind {
    Kind::JsonSchema(r#"{"type":"object"}"#.to_owned())
}

fn response_format(field: &str, value: Value) -> Read {
    let format = ResponseFormat::deserialize(value).map_err(|error| {
        let why = format!("must be of type 'text', 'json_object' or 'json_schema' with its schema: {error}");
        ServiceError::invalid_argument(field, why)
    })?;
    match format {
        ResponseFormat::Text => Ok(None),
        ResponseFormat::JsonObject => Ok(Some(any_object())),
        ResponseFormat::JsonSchema { json_schema } => schema(field, json_schema.schema),
    }
}

/// Reads a JSON schema, or its text.
fn schema(field: &str, value: Value) -> Read {
    match value {
        Value::String(text) => Ok(Some(Kind::JsonSchema(text))),
        Value::Object(_) | Value::Bool(_) => Ok(Some(Kind::JsonSchema(value.to_string()))),
        _ => Err(ServiceError::invalid_argument(field, "must be a JSON schema")),
    }
}

fn regex(field: &str, value: Value) -> Read {
    text(field, value).map(|text| Some(Kind::Regex(text)))
}

fn grammar(field: &str, value: Value) -> Read {
    text(field, value).map(|text| Some(Kind::Grammar(text)))
}

fn choice(field: &str, value: Value) -> Read {
    let choices: Vec<String> = Vec::deserialize(value)
        .map_err(|_| ServiceError::invalid_argument(field, "must be a list of texts"))?;
    if choices.is_empty() {
        return Err(ServiceError::invalid_argument(field, "must have at least one text"));
    }
    let quoted: Vec<String> = choices.iter().map(|choice| Value::from(choice.as_str()).to_string()).collect();
    Ok(Some(Kind::Grammar(format!("start: {}", quoted.join(" | ")))))
}

fn structured_outputs(field: &str, value: Value) -> Read {
    let members: Map<String, Value> =
        Map::deserialize(value).map_err(|_| ServiceError::invalid_argument(field, "must be an object"))?;
    let mut given = members.into_iter().filter(|(_, value)| !value.is_null());
    let (Some((name, value)), None) = (given.next(), given.next()) else {
        return Err(ServiceError::invalid_argument(field, "must have one member"));
    };
    match name.as_str() {
        "json" => schema(field, value),
        "json_object" => Ok(Some(any_object())),
        "regex" => regex(field, value),
        "choice" => choice(field, value),
        "grammar" => grammar(field, value),
        _ => {
            let why = "must have one of 'json', 'json_object', 'regex', 'choice' and 'grammar'";
            Err(ServiceError::invalid_argument(field, why))
        }
    }
}

fn text(field: &str, value: Value) -> Result<String, ServiceError> {
    match value {
        Value::String(text) => Ok(text),
        _ => Err(ServiceError::invalid_argument(field, "must be text")),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::body::JsonObject;

    fn read(value: &Value) -> Result<Option<Constraint>, ServiceError> {
        of(JsonObject::parse(value.to_string().as_bytes()).unwrap().view()?)
    }

    #[test]
    fn every_name_for_it() {
        let schema = json!({"type": "integer"});
        let as_text = || Kind::JsonSchema(schema.to_string());
        let any = || Kind::JsonSchema(json!({"type": "object"}).to_string());
        let cases = [
            (json!({"response_format": {"type": "json_object"}}), any()),
            (
                json!({"response_format": {"type": "json_schema",
                    "json_schema": {"name": "n", "strict": true, "schema": schema}}}),
                as_text(),
            ),
            (json!({"guided_json": schema}), as_text()),
            (json!({"guided_json": schema.to_string()}), as_text()),
            (json!({"json_schema": schema}), as_text()),
            (json!({"guided_regex": "a+"}), Kind::Regex("a+".into())),
            (json!({"guided_choice": ["a", "b\"c"]}), Kind::Grammar(r#"start: "a" | "b\"c""#.into())),
            (json!({"guided_grammar": "start: \"a\""}), Kind::Grammar("start: \"a\"".into())),
            (json!({"grammar": "start: \"a\""}), Kind::Grammar("start: \"a\"".into())),
            (json!({"structured_outputs": {"json": schema, "regex": null}}), as_text()),
            (json!({"structured_outputs": {"regex": "a+"}}), Kind::Regex("a+".into())),
        ];
        for (given, kind) in cases {
            let constraint = read(&given).unwrap().unwrap();
            assert_eq!(constraint.kind, Some(kind), "{given}");
            assert!(given.get(&constraint.field).is_some());
        }
        assert_eq!(read(&json!({"response_format": {"type": "text"}, "guided_json": null})).unwrap(), None);
    }

    #[test]
    fn mistakes_name_their_field() {
        let cases = [
            ("response_format", json!({"response_format": "json"})),
            ("response_format", json!({"response_format": {"type": "xml"}})),
            (
                "response_format",
                json!({"response_format": {"type": "json_schema", "json_schema": {"name": "n"}}}),
            ),
            ("guided_json", json!({"guided_json": [1]})),
            ("guided_regex", json!({"guided_regex": 1})),
            ("guided_choice", json!({"guided_choice": []})),
            ("guided_choice", json!({"guided_choice": "a"})),
            ("grammar", json!({"grammar": {}})),
            ("structured_outputs", json!({"structured_outputs": {}})),
            ("structured_outputs", json!({"structured_outputs": {"regex": "a", "json": {}}})),
            ("structured_outputs", json!({"structured_outputs": {"xml": "a"}})),
            ("guided_regex", json!({"guided_regex": "a", "response_format": {"type": "json_object"}})),
        ];
        for (field, given) in cases {
            assert_eq!(read(&given).unwrap_err().details["field"], field, "{given}");
        }
    }
}
