//! The prompt of a request as token ids: messages rendered with the chat template, plain text, or ids.

use millm_kit::ServiceError;
use millm_proto::runtime::v1::{Message, Messages, generate_request::Prompt};
use millm_sandbox::Chat;
use serde_json::{Map, Value, json};

use crate::tokenizer_bundle::TokenizerBundle;

/// Returns the token ids of a request's prompt. Refuses some prompts that cannot fit `context` tokens before it
/// tokenizes them.
///
/// # Errors
///
/// INVALID_ARGUMENT, CONTEXT_LENGTH_EXCEEDED, and the errors of the tokenizer.
pub(crate) async fn tokens(
    tokenizer: &TokenizerBundle,
    prompt: Option<Prompt>,
    context: usize,
) -> Result<Vec<u32>, ServiceError> {
    let Some(prompt) = prompt else {
        return Err(ServiceError::invalid_argument("prompt", "must be messages, text or token ids"));
    };
    let ids = match prompt {
        Prompt::TokenIds(asked) => {
            tokenizer.check_ids("token_ids", &asked.ids)?;
            asked.ids
        }
        Prompt::Text(text) => {
            check_length(text.len(), tokenizer, context)?;
            tokenizer.encode("prompt", text, true).await?
        }
        Prompt::Messages(messages) => {
            let contents = messages.messages.iter().map(|message| message.content.len()).sum();
            check_length(contents, tokenizer, context)?;
            tokenizer.chat(chat(messages)?, context).await?
        }
    };
    if ids.is_empty() {
        return Err(ServiceError::invalid_argument("prompt", "must hold at least one token"));
    }
    Ok(ids)
}

/// Refuses a text that would not fit even if it consisted of the longest token alone.
fn check_length(bytes: usize, tokenizer: &TokenizerBundle, context: usize) -> Result<(), ServiceError> {
    if bytes > tokenizer.max_prompt_bytes(context) {
        return Err(tokenizer.prompt_too_long(bytes, context));
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
    let messages = messages.into_iter().enumerate().map(|(index, message)| template_message(index, message));
    let messages = messages.collect::<Result<Vec<_>, _>>()?;
    let messages = Value::Array(messages).to_string();
    Ok(Chat { messages, tools, variables: None, add_generation_prompt: true, most_bytes: usize::MAX })
}

/// Returns a message as chat templates expect it.
fn template_message(index: usize, message: Message) -> Result<Value, ServiceError> {
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
        let calls = tool_calls(&tool_calls_json).ok_or_else(|| {
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

/// Parses tool calls. Arguments in JSON text, as in OpenAI's API, become objects, which chat templates expect.
fn tool_calls(text: &str) -> Option<Value> {
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
    fn messages_are_converted_for_templates() {
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
        assert_eq!(template_message(0, message).unwrap(), expected);
        // Arguments that are not an object are unchanged.
        assert_eq!(
            tool_calls(r#"[{"function":{"name":"f","arguments":"{"}}]"#).unwrap()[0]["function"]["arguments"],
            "{"
        );
    }

    #[test]
    fn errors_name_the_message() {
        let check = |message: Message, field: &str| {
            let error = template_message(3, message).unwrap_err();
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
