//! Tools: handed to the model's chat template, and calls read out of its text in the form most open models write
//! them: `<tool_call>{"name": …, "arguments": …}</tool_call>`.

use millm_api::openai::answer::{FunctionCall, ToolCall};
use millm_kit::ServiceError;
use millm_proto::runtime::v1::{Constraint, constraint::Kind};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::ids;

const OPEN: &str = "<tool_call>";
const CLOSE: &str = "</tool_call>";
const MAX_TOOLS: usize = 128;
/// The maximum size of all tools together, as JSON.
const MAX_TOOL_BYTES: usize = 1 << 20;

/// The tools of a request.
#[derive(Debug, PartialEq)]
pub struct Tools {
    /// For the template; empty when there are none or none may be used.
    pub json: String,
    /// The answer must be a call, with arguments of the tool's schema.
    pub required: Option<Constraint>,
}

/// Returns the tools of a request.
///
/// # Errors
///
/// INVALID_ARGUMENT of `tools`, of one of them (`tools[2]`), or of `tool_choice`.
pub fn of(tools: Vec<Value>, choice: Option<&Value>) -> Result<Tools, ServiceError> {
    if tools.len() > MAX_TOOLS {
        let why = format!("has {} tools, the most allowed are {MAX_TOOLS}", tools.len());
        return Err(ServiceError::invalid_argument("tools", why));
    }
    for (n, tool) in tools.iter().enumerate() {
        if tool["type"] != "function" || !tool["function"]["name"].is_string() {
            let field = format!("tools[{n}]");
            return Err(ServiceError::invalid_argument(&field, "must be a function with a name"));
        }
    }
    let json = if tools.is_empty() { String::new() } else { json!(tools).to_string() };
    if json.len() > MAX_TOOL_BYTES {
        let why = format!("take {} bytes, the most allowed are {MAX_TOOL_BYTES}", json.len());
        return Err(ServiceError::invalid_argument("tools", why));
    }
    let required = match choice {
        Some(Value::String(choice)) if choice == "none" => {
            return Ok(Tools { json: String::new(), required: None });
        }
        None => None,
        Some(Value::String(choice)) if choice == "auto" => None,
        Some(Value::String(choice)) if choice == "required" => Some(require(&tools, None)?),
        Some(choice) if choice["type"] == "function" && choice["function"]["name"].is_string() => {
            Some(require(&tools, choice["function"]["name"].as_str())?)
        }
        Some(_) => {
            let why = "must be 'auto', 'none', 'required' or a function's name";
            return Err(ServiceError::invalid_argument("tool_choice", why));
        }
    };
    Ok(Tools { json, required })
}

/// Returns the constraint that the answer is a call of one of the tools, or of the named one, in the form that
/// [`CallParser`] reads.
fn require(tools: &[Value], named: Option<&str>) -> Result<Constraint, ServiceError> {
    let wanted = |function: &&Value| named.is_none_or(|name| function["name"] == name);
    let calls: Vec<Value> = tools
        .iter()
        .map(|tool| &tool["function"])
        .filter(wanted)
        .map(|function| {
            let any = || json!({"type": "object"});
            let arguments = Some(&function["parameters"]).filter(|schema| !schema.is_null());
            json!({
                "type": "object",
                "properties": {
                    "name": {"const": function["name"]},
                    "arguments": arguments.cloned().unwrap_or_else(any),
                },
                "required": ["name", "arguments"],
                "additionalProperties": false,
            })
        })
        .collect();
    if calls.is_empty() {
        return Err(ServiceError::invalid_argument("tool_choice", "must be one of 'tools'"));
    }
    let mut call = json!({"anyOf": calls});
    for (name, definition) in
        tools.iter().filter_map(|tool| tool["function"]["parameters"]["$defs"].as_object()).flatten()
    {
        // References name them from the root, which is here now.
        call["$defs"][name] = definition.clone();
    }
    let grammar = format!("start: \"{OPEN}\\n\" call \"\\n{CLOSE}\"\ncall: %json {call}");
    Ok(Constraint { kind: Some(Kind::Grammar(grammar)), field: "tools".to_owned() })
}

/// Splits a model's text into what it says and what it calls, while it comes.
#[derive(Debug, Default)]
pub struct CallParser {
    /// Text that may be, or is, the beginning of a call.
    held: String,
}

impl CallParser {
    /// Takes more text and returns what is no part of a call.
    pub fn push(&mut self, text: &str) -> String {
        self.held.push_str(text);
        let end = self.held.find(OPEN).unwrap_or_else(|| self.held.len() - overlap(&self.held));
        self.held.drain(..end).collect()
    }

    /// Returns the rest of the text, and the calls. What is not a valid call is text.
    pub fn end(self) -> (String, Vec<ToolCall>) {
        let (mut said, mut calls) = (String::new(), Vec::new());
        let mut rest = self.held.as_str();
        while let Some(start) = rest.find(OPEN) {
            said.push_str(&rest[..start]);
            let inner = &rest[start + OPEN.len()..];
            let (body, after) = inner.split_once(CLOSE).unwrap_or((inner, ""));
            match call(body) {
                Some(call) => calls.push(call),
                None => said.push_str(&rest[start..rest.len() - after.len()]),
            }
            rest = after;
        }
        said.push_str(rest);
        let said = if calls.is_empty() { said } else { said.trim().to_owned() };
        (said, calls)
    }
}

/// Returns how many bytes at the end of `text` may begin an opening mark.
fn overlap(text: &str) -> usize {
    (1..OPEN.len()).rev().find(|&n| text.ends_with(&OPEN[..n])).unwrap_or(0)
}

#[derive(Deserialize)]
struct Call {
    name: String,
    #[serde(default, alias = "parameters")]
    arguments: Value,
}

fn call(body: &str) -> Option<ToolCall> {
    let Call { name, arguments } = serde_json::from_str(body.trim()).ok()?;
    let arguments = match arguments {
        Value::String(text) => text,
        Value::Null => "{}".to_owned(),
        other => other.to_string(),
    };
    let id = format!("call_{}", &ids::random_id()[..24]);
    Some(ToolCall { id, r#type: "function", function: FunctionCall { name, arguments }, index: None })
}

#[cfg(test)]
mod tests {
    use millm_api::openai::request::ChatParams;

    use super::*;
    use crate::body::JsonObject;

    /// Checks that a text gives the same content and calls, whatever the size of its pieces.
    fn check(text: &str, said: &str, called: &[&str]) {
        for size in [1, 3, 1000] {
            let mut parser = CallParser::default();
            let mut heard = String::new();
            let chars: Vec<char> = text.chars().collect();
            for piece in chars.chunks(size) {
                heard += &parser.push(&piece.iter().collect::<String>());
            }
            let (rest, calls) = parser.end();
            assert_eq!(heard + &rest, said);
            let names: Vec<_> =
                calls.iter().map(|call| serde_json::to_string(&call.function).unwrap()).collect();
            assert_eq!(names, called);
        }
    }

    #[test]
    fn calls_are_read_out_of_text() {
        check("just <b>text</b> <tool", "just <b>text</b> <tool", &[]);
        check(
            "<tool_call>\n{\"name\": \"sum\", \"arguments\": {\"a\": [1, 2]}}\n</tool_call>",
            "",
            &[r#"{"name":"sum","arguments":"{\"a\":[1,2]}"}"#],
        );
        check(
            "ok <tool_call>{\"name\": \"a\"}</tool_call>\n<tool_call>{\"name\": \"b\", \"arguments\": \"{}\"}</tool_call>",
            "ok ",
            &[r#"{"name":"a","arguments":"{}"}"#, r#"{"name":"b","arguments":"{}"}"#],
        );
        check("<tool_call>no json</tool_call> é", "<tool_call>no json</tool_call> é", &[]);
        check("<tool_call>{\"name\": \"a\"}", "", &[r#"{"name":"a","arguments":"{}"}"#]);
    }

    #[test]
    fn choices() {
        let take = |value: Value| {
            let object = JsonObject::parse(value.to_string().as_bytes()).unwrap();
            let params: ChatParams = object.into_typed()?;
            of(params.tools.unwrap_or_default(), params.tool_choice.as_ref())
        };
        let schema = json!({"type": "object", "properties": {"city": {"$ref": "#/$defs/city"}},
            "$defs": {"city": {"type": "string"}}});
        let tools = json!([
            {"type": "function", "function": {"name": "f", "parameters": schema}},
            {"type": "function", "function": {"name": "g"}},
        ]);
        let offer = |choice: Value| take(json!({"tools": tools, "tool_choice": choice}));
        for open in [json!("auto"), json!(null)] {
            let offer = offer(open).unwrap();
            assert!(offer.json.contains("\"f\"") && offer.required.is_none());
        }
        assert_eq!(offer(json!("none")).unwrap().json, "");
        assert_eq!(take(json!({})).unwrap(), Tools { json: String::new(), required: None });

        let grammar = |choice: Value| match offer(choice).unwrap().required.unwrap().kind {
            Some(Kind::Grammar(grammar)) => grammar,
            other => panic!("{other:?}"),
        };
        let any = grammar(json!("required"));
        assert!(any.contains(&schema.to_string()) && any.contains(r#""const":"g""#), "{any}");
        assert!(any.ends_with(r#""$defs":{"city":{"type":"string"}}}"#), "{any}");
        let one = grammar(json!({"type": "function", "function": {"name": "g"}}));
        assert!(!one.contains(r#""const":"f""#) && one.contains(r#""const":"g""#), "{one}");

        let unknown = json!({"type": "function", "function": {"name": "h"}});
        for bad in [unknown, json!("always"), json!({"type": "function"}), json!(1)] {
            assert_eq!(offer(bad).unwrap_err().details["field"], "tool_choice");
        }
        assert_eq!(take(json!({"tool_choice": "required"})).unwrap_err().details["field"], "tool_choice");
        assert_eq!(take(json!({"tools": [{}]})).unwrap_err().details["field"], "tools[0]");
        let long = json!({"type": "function", "function": {"name": "x".repeat(MAX_TOOL_BYTES)}});
        for (tools, allowed) in [(vec![long], "are 1048576"), (vec![json!({}); 129], "are 128")] {
            let error = take(json!({"tools": tools})).unwrap_err();
            assert_eq!(error.details["field"], "tools");
            assert!(error.message.contains(allowed), "{}", error.message);
        }
    }
}
