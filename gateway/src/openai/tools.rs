//! Tools: handed to the model's chat template, and calls read out of its text in the form most open models write
//! them: `<tool_call>{"name": …, "arguments": …}</tool_call>`.

use millm_kit::ServiceError;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::{body::Fields, clock};

const OPEN: &str = "<tool_call>";
const CLOSE: &str = "</tool_call>";
const MOST_TOOLS: usize = 128;

/// The tools as JSON text for the template; empty when there are none or none may be used.
pub fn take(fields: &mut Fields) -> Result<String, ServiceError> {
    let tools: Vec<Value> = fields.take("tools")?.unwrap_or_default();
    let choice = fields.take_value("tool_choice");
    if tools.len() > MOST_TOOLS {
        return Err(ServiceError::invalid_argument("tools", "must be at most 128 tools"));
    }
    for (n, tool) in tools.iter().enumerate() {
        if tool["type"] != "function" || !tool["function"]["name"].is_string() {
            let field = format!("tools[{n}]");
            return Err(ServiceError::invalid_argument(&field, "must be a function with a name"));
        }
    }
    match choice.as_ref().map(Value::as_str) {
        None | Some(Some("auto")) => {}
        Some(Some("none")) => return Ok(String::new()),
        Some(_) => {
            return Err(ServiceError::invalid_argument("tool_choice", "must be 'auto' or 'none'"));
        }
    }
    Ok(if tools.is_empty() { String::new() } else { Value::from(tools).to_string() })
}

/// Parts a model's text into what is said and what is called, as it comes.
#[derive(Debug, Default)]
pub struct Listener {
    /// Text that may be, or is, the beginning of a call.
    held: String,
}

impl Listener {
    /// What can be said already.
    pub fn hear(&mut self, text: &str) -> String {
        self.held.push_str(text);
        let end = self.held.find(OPEN).unwrap_or_else(|| self.held.len() - overlap(&self.held));
        self.held.drain(..end).collect()
    }

    /// What remains to be said, and the calls. Text that is no call after all is said.
    pub fn end(self) -> (String, Vec<Value>) {
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

/// How many bytes at the end of `text` may begin an opening mark.
fn overlap(text: &str) -> usize {
    (1..OPEN.len()).rev().find(|&n| text.ends_with(&OPEN[..n])).unwrap_or(0)
}

#[derive(Deserialize)]
struct Call {
    name: String,
    #[serde(default, alias = "parameters")]
    arguments: Value,
}

fn call(body: &str) -> Option<Value> {
    let Call { name, arguments } = serde_json::from_str(body.trim()).ok()?;
    let arguments = match arguments {
        Value::String(text) => text,
        Value::Null => "{}".to_owned(),
        other => other.to_string(),
    };
    let id = format!("call_{}", &clock::fresh_id()[..24]);
    Some(json!({"id": id, "type": "function", "function": {"name": name, "arguments": arguments}}))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whatever the pieces are, the same is said and called.
    fn check(text: &str, said: &str, called: &[&str]) {
        for size in [1, 3, 1000] {
            let mut listener = Listener::default();
            let mut heard = String::new();
            let chars: Vec<char> = text.chars().collect();
            for piece in chars.chunks(size) {
                heard += &listener.hear(&piece.iter().collect::<String>());
            }
            let (rest, calls) = listener.end();
            assert_eq!(heard + &rest, said);
            let names: Vec<_> = calls.iter().map(|call| call["function"].to_string()).collect();
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
        let take = |value: Value| super::take(&mut Fields::parse(value.to_string().as_bytes()).unwrap());
        let tool = json!({"type": "function", "function": {"name": "f"}});
        assert!(take(json!({"tools": [tool], "tool_choice": "auto"})).unwrap().contains("\"f\""));
        assert_eq!(take(json!({"tools": [tool], "tool_choice": "none"})).unwrap(), "");
        assert_eq!(take(json!({})).unwrap(), "");
        for bad in [json!("required"), json!({"type": "function", "function": {"name": "f"}}), json!(1)] {
            let error = take(json!({"tools": [tool], "tool_choice": bad})).unwrap_err();
            assert_eq!(error.details["field"], "tool_choice");
        }
        assert_eq!(take(json!({"tools": [{}]})).unwrap_err().details["field"], "tools[0]");
    }
}
