//! A request's prompt as token ids: messages through the chat template, text as it stands, or ids.

use millm_kit::ServiceError;
use millm_proto::runtime::v1::{Message, Messages, generate_request::Prompt};
use millm_sandbox::Chat;
use serde_json::{Map, Value, json};

use crate::language::Language;

/// A request's prompt, at most `context` tokens long as far as that can be told before it is tokenized.
pub async fn tokens(
    language: &Language,
    prompt: Option<Prompt>,
    context: usize,
) -> Result<Vec<u32>, ServiceError> {
    let Some(prompt) = prompt else {
        return Err(ServiceError::invalid_argument("prompt", "must be messages, text or token ids"));
    };
    let ids = match prompt {
        Prompt::TokenIds(asked) => {
            language.check_ids("token_ids", &asked.ids)?;
            asked.ids
        }
        Prompt::Text(text) => {
            check_length(text.len(), language, context)?;
            language.encode("prompt", text, true).await?
        }
        Prompt::Messages(messages) => {
            let contents = messages.messages.iter().map(|message| message.content.len()).sum();
            check_length(contents, language, context)?;
            language.chat(chat(messages)?, context).await?
        }
    };
    if ids.is_empty() {
        return Err(ServiceError::invalid_argument("prompt", "must hold at least one token"));
    }
    Ok(ids)
}

/// A text that would not fit if all of it were the longest token is not worth tokenizing.
fn check_length(bytes: usize, language: &Language, context: usize) -> Result<(), ServiceError> {
    if bytes > language.most_bytes(context) {
        return Err(language.too_long(bytes, context));
    }
    Ok(())
}

fn chat(messages: Messages) -> Result<Chat, ServiceError> {
    let Messages { messages, tools_json } = messages;
    if messages.is_empty() {
        return Err(ServiceError::invalid_argument("messages", "must hold at least one message"));
    }
    let tools = match tools_json.as_str() {
        "" => None,
        text => match serde_json::from_str(text) {
            Ok(Value::Array(tools)) if tools.is_empty() => None,
            Ok(Value::Array(_)) => Some(tools_json),
            _ => return Err(ServiceError::invalid_argument("tools_json", "must be a JSON array")),
        },
    };
    let messages = messages.into_iter().enumerate().map(|(index, message)| entry(index, message));
    let messages = messages.collect::<Result<Vec<_>, _>>()?;
    let messages = Value::Array(messages).to_string();
    Ok(Chat { messages, tools, variables: None, add_generation_prompt: true, most_bytes: usize::MAX })
}

/// A message as templates know it.
fn entry(index: usize, message: Message) -> Result<Value, ServiceError> {
    let Message { role, content, tool_calls_json, tool_call_id, name } = message;
    let field = |name: &str| format!("messages[{index}].{name}");
    if !matches!(role.as_str(), "system" | "user" | "assistant" | "tool") {
        let why = "must be system, user, assistant or tool";
        return Err(ServiceError::invalid_argument(&field("role"), why));
    }
    let mut entry = Map::new();
    entry.insert("role".to_owned(), role.into());
    entry.insert("content".to_owned(), content.into());
    if !tool_calls_json.is_empty() {
        let calls = calls(&tool_calls_json).ok_or_else(|| {
            let why = "must be a JSON array of {id, type, function: {name, arguments}}";
            ServiceError::invalid_argument(&field("tool_calls_json"), why)
        })?;
        entry.insert("tool_calls".to_owned(), calls);
    }
    for (key, value) in [("tool_call_id", tool_call_id), ("name", name)] {
        if !value.is_empty() {
            entry.insert(key.to_owned(), value.into());
        }
    }
    Ok(Value::Object(entry))
}

/// OpenAI's calls carry their arguments as JSON text; templates are written for the object itself.
fn calls(text: &str) -> Option<Value> {
    let Ok(Value::Array(mut calls)) = serde_json::from_str(text) else { return None };
    for call in &mut calls {
        let function = call.get_mut("function")?.as_object_mut()?;
        function.get("name")?.as_str()?;
        let arguments = function.get("arguments").cloned().unwrap_or_else(|| json!({}));
        let object = arguments.as_str().and_then(|text| serde_json::from_str(text).ok());
        let arguments = object.filter(Value::is_object).unwrap_or(arguments);
        function.insert("arguments".to_owned(), arguments);
    }
    Some(Value::Array(calls))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_become_what_templates_know() {
        let message = Message {
            role: "assistant".into(),
            tool_calls_json:
                r#"[{"id":"1","type":"function","function":{"name":"add","arguments":"{\"a\":1}"}}]"#.into(),
            ..Message::default()
        };
        let expected = json!({
            "role": "assistant",
            "content": "",
            "tool_calls": [{"id": "1", "type": "function", "function": {"name": "add", "arguments": {"a": 1}}}],
        });
        assert_eq!(entry(0, message).unwrap(), expected);
        // Arguments that are no object stay as they came.
        assert_eq!(
            calls(r#"[{"function":{"name":"f","arguments":"{"}}]"#).unwrap()[0]["function"]["arguments"],
            "{"
        );
    }

    #[test]
    fn mistakes_name_the_message() {
        let check = |message: Message, field: &str| {
            let error = entry(3, message).unwrap_err();
            assert_eq!(error.details["field"], field);
        };
        check(Message { role: "robot".into(), ..Message::default() }, "messages[3].role");
        for calls in ["{}", "[1]", "[{}]", "no", r#"[{"function":{}}]"#] {
            let message =
                Message { role: "assistant".into(), tool_calls_json: calls.into(), ..Message::default() };
            check(message, "messages[3].tool_calls_json");
        }
    }
}
