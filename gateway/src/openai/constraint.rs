//! What an answer must look like: OpenAI's `response_format`, and the names that vLLM (`guided_*`,
//! `structured_outputs`) and llama-server (`json_schema`, `grammar`) have for the same and more.

use millm_kit::ServiceError;
use millm_proto::runtime::v1::{Constraint, constraint::Kind};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::body::Fields;

type Taken = Result<Option<Kind>, ServiceError>;

/// At most one way to say it.
pub fn take(fields: &mut Fields) -> Result<Option<Constraint>, ServiceError> {
    let mut taken: Option<Constraint> = None;
    for (field, read) in READERS {
        let Some(value) = fields.take_value(field) else { continue };
        let Some(kind) = read(field, value)? else { continue };
        if let Some(Constraint { field: other, .. }) = &taken {
            let why = format!("cannot be given together with '{other}'");
            return Err(ServiceError::invalid_argument(field, why));
        }
        taken = Some(Constraint { kind: Some(kind), field: (*field).to_owned() });
    }
    Ok(taken)
}

type Reader = fn(&str, Value) -> Taken;

const READERS: &[(&str, Reader)] = &[
    ("response_format", response_format),
    ("guided_json", schema),
    ("json_schema", schema),
    ("guided_regex", regex),
    ("guided_choice", choice),
    ("guided_grammar", grammar),
    ("grammar", grammar),
    ("structured_outputs", structured_outputs),
];

#[derive(Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Format {
    Text,
    JsonObject,
    JsonSchema { json_schema: Named },
}

#[derive(Deserialize)]
struct Named {
    schema: Value,
}

fn response_format(field: &str, value: Value) -> Taken {
    let format = Format::deserialize(value).map_err(|error| {
        let why = format!("must be of type 'text', 'json_object' or 'json_schema' with its schema: {error}");
        ServiceError::invalid_argument(field, why)
    })?;
    match format {
        Format::Text => Ok(None),
        Format::JsonObject => schema(field, json!({"type": "object"})),
        Format::JsonSchema { json_schema } => schema(field, json_schema.schema),
    }
}

/// A schema, or its text.
fn schema(field: &str, value: Value) -> Taken {
    match value {
        Value::String(text) => Ok(Some(Kind::JsonSchema(text))),
        Value::Object(_) | Value::Bool(_) => Ok(Some(Kind::JsonSchema(value.to_string()))),
        _ => Err(ServiceError::invalid_argument(field, "must be a JSON schema")),
    }
}

fn regex(field: &str, value: Value) -> Taken {
    text(field, value).map(|text| Some(Kind::Regex(text)))
}

fn grammar(field: &str, value: Value) -> Taken {
    text(field, value).map(|text| Some(Kind::Grammar(text)))
}

fn choice(field: &str, value: Value) -> Taken {
    let choices: Vec<String> = Vec::deserialize(value)
        .map_err(|_| ServiceError::invalid_argument(field, "must be a list of texts"))?;
    if choices.is_empty() {
        return Err(ServiceError::invalid_argument(field, "must have at least one text"));
    }
    let quoted: Vec<String> = choices.iter().map(|choice| Value::from(choice.as_str()).to_string()).collect();
    Ok(Some(Kind::Grammar(format!("start: {}", quoted.join(" | ")))))
}

fn structured_outputs(field: &str, value: Value) -> Taken {
    let members: Map<String, Value> =
        Map::deserialize(value).map_err(|_| ServiceError::invalid_argument(field, "must be an object"))?;
    let mut given = members.into_iter().filter(|(_, value)| !value.is_null());
    let (Some((name, value)), None) = (given.next(), given.next()) else {
        return Err(ServiceError::invalid_argument(field, "must have one member"));
    };
    match name.as_str() {
        "json" => schema(field, value),
        "json_object" => schema(field, json!({"type": "object"})),
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
    use super::*;

    fn read(value: &Value) -> Result<Option<Constraint>, ServiceError> {
        take(&mut Fields::parse(value.to_string().as_bytes()).unwrap())
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
