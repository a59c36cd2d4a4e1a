//! Prompts: a chat's messages, or texts and token ids.

use millm_api::openai::request::{ChatMessage, ContentPart};
use millm_kit::ServiceError;
use millm_proto::runtime::v1::{Message, TokenIds, generate_request::Prompt};
use serde::Deserialize as _;
use serde_json::Value;

/// Prompts of one request.
const MAX_PROMPTS: usize = 1024;
/// Messages of one conversation.
const MAX_MESSAGES: usize = 10_000;

/// Returns the messages of a chat for the Runtime.
///
/// # Errors
///
/// INVALID_ARGUMENT of `messages`, or of the part of one: `messages[2].content`.
pub fn messages(given: Vec<ChatMessage>) -> Result<Vec<Message>, ServiceError> {
    if given.is_empty() {
        return Err(ServiceError::invalid_argument("messages", "must have at least one message"));
    }
    if given.len() > MAX_MESSAGES {
        let why = format!("has {} messages, the most allowed are {MAX_MESSAGES}", given.len());
        return Err(ServiceError::invalid_argument("messages", why));
    }
    given.into_iter().enumerate().map(|(n, given)| message(&format!("messages[{n}]"), given)).collect()
}

fn message(field: &str, given: ChatMessage) -> Result<Message, ServiceError> {
    let invalid = |part: &str, why: &str| ServiceError::invalid_argument(&format!("{field}{part}"), why);
    let role = match given.role.as_str() {
        "developer" => "system",
        "system" | "user" | "assistant" | "tool" => &given.role,
        _ => return Err(invalid(".role", "must be system, developer, user, assistant or tool")),
    };
    if given.tool_calls.is_some() && role != "assistant" {
        return Err(invalid(".tool_calls", "are an assistant's"));
    }
    let calls = given.tool_calls.filter(|calls| !calls.is_empty());
    let content = match given.content {
        Value::String(text) => text,
        Value::Array(parts) => text_of(parts, &format!("{field}.content"))?,
        Value::Null if role == "assistant" => String::new(),
        Value::Null => return Err(invalid(".content", "must be given")),
        _ => return Err(invalid(".content", "must be text or a list of parts")),
    };
    Ok(Message {
        role: role.to_owned(),
        content,
        tool_calls_json: calls.map(|calls| Value::from(calls).to_string()).unwrap_or_default(),
        tool_call_id: given.tool_call_id.unwrap_or_default(),
        name: given.name.unwrap_or_default(),
    })
}

fn text_of(parts: Vec<Value>, field: &str) -> Result<String, ServiceError> {
    let mut joined = String::new();
    for part in parts {
        let part = ContentPart::deserialize(part)
            .map_err(|error| ServiceError::invalid_argument(field, format!("is wrong: {error}")))?;
        match part.text {
            Some(text) if part.r#type == "text" => joined.push_str(&text),
            _ => {
                let kind: String = part.r#type.chars().take(40).flat_map(char::escape_debug).collect();
                let why = format!("must have parts of type 'text' only, not '{kind}'; nothing is fetched");
                return Err(ServiceError::invalid_argument(field, why));
            }
        }
    }
    Ok(joined)
}

/// Returns the prompts of a plain completion, which come in four shapes.
///
/// # Errors
///
/// INVALID_ARGUMENT of `prompt`.
pub fn prompts(given: Option<Value>) -> Result<Vec<Prompt>, ServiceError> {
    let invalid = |why: &str| ServiceError::invalid_argument("prompt", why);
    let prompts = match given.ok_or_else(|| invalid("must be given"))? {
        Value::Array(list) if !list.first().is_some_and(Value::is_number) => {
            if list.len() > MAX_PROMPTS {
                let why = format!("has {} prompts, the most allowed are {MAX_PROMPTS}", list.len());
                return Err(invalid(&why));
            }
            list.into_iter().map(prompt).collect()
        }
        one => prompt(one).map(|prompt| vec![prompt]),
    };
    let prompts: Vec<Prompt> = prompts
        .ok_or_else(|| invalid("must be text, token ids, or a list of texts or of lists of token ids"))?;
    let empty = |prompt: &Prompt| matches!(prompt, Prompt::TokenIds(list) if list.ids.is_empty());
    if prompts.is_empty() || prompts.iter().any(empty) {
        return Err(invalid("must not be empty"));
    }
    let texts = prompts.iter().filter(|prompt| matches!(prompt, Prompt::Text(_))).count();
    if texts != 0 && texts != prompts.len() {
        return Err(invalid("must be a list of texts or of lists of token ids"));
    }
    Ok(prompts)
}

/// Returns a text or token ids; `None` when it is neither.
fn prompt(value: Value) -> Option<Prompt> {
    match value {
        Value::String(text) => Some(Prompt::Text(text)),
        Value::Array(ids) => {
            let id = |id: &Value| id.as_u64().and_then(|id| u32::try_from(id).ok());
            let ids = ids.iter().map(id).collect::<Option<_>>()?;
            Some(Prompt::TokenIds(TokenIds { ids }))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use millm_api::openai::request::{ChatParams, CompletionParams};

    use super::*;
    use crate::body::JsonObject;

    fn object(value: &Value) -> JsonObject {
        JsonObject::parse(value.to_string().as_bytes()).unwrap()
    }

    fn read_messages(value: &Value) -> Result<Vec<Message>, ServiceError> {
        messages(object(value).into_typed::<ChatParams>()?.messages.unwrap_or_default())
    }

    fn read_prompts(value: &Value) -> Result<Vec<Prompt>, ServiceError> {
        prompts(object(value).into_typed::<CompletionParams>()?.prompt)
    }

    #[test]
    fn messages_of_every_kind() {
        let read = read_messages(&json!({"messages": [
            {"role": "developer", "content": "be kind"},
            {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}], "name": "me"},
            {"role": "assistant", "content": null, "tool_calls": [{"id": "1"}]},
            {"role": "tool", "content": "42", "tool_call_id": "1"},
        ]}))
        .unwrap();
        let roles: Vec<_> = read.iter().map(|message| message.role.as_str()).collect();
        assert_eq!(roles, ["system", "user", "assistant", "tool"]);
        assert_eq!((read[1].content.as_str(), read[1].name.as_str()), ("ab", "me"));
        assert_eq!(read[2].tool_calls_json, r#"[{"id":"1"}]"#);
        assert_eq!(read[3].tool_call_id, "1");
    }

    #[test]
    fn bad_messages_name_their_place() {
        let check = |value: Value, field: &str| {
            let error = read_messages(&json!({"messages": value})).unwrap_err();
            assert_eq!(error.details["field"], field, "{}", error.message);
        };
        check(json!([]), "messages");
        check(json!(null), "messages");
        check(json!("hi"), "messages");
        check(json!(["hi"]), "messages[0]");
        check(
            json!([{"role": "user", "content": "a"}, {"role": "robot", "content": "a"}]),
            "messages[1].role",
        );
        check(json!([{"content": "a"}]), "messages[0]");
        check(json!([{"role": "user"}]), "messages[0].content");
        check(json!([{"role": "user", "content": 5}]), "messages[0].content");
        let image = json!({"type": "image_url", "image_url": {"url": "http://x/y.png"}});
        check(json!([{"role": "user", "content": [image]}]), "messages[0].content");
        check(json!([{"role": "user", "content": "a", "tool_calls": []}]), "messages[0].tool_calls");
    }

    #[test]
    fn too_many_are_refused_with_what_was_found_and_is_allowed() {
        let message = json!({"role": "user", "content": "a"});
        let many = json!({"messages": vec![message; MAX_MESSAGES + 1]});
        let error = read_messages(&many).unwrap_err();
        assert_eq!(error.details["field"], "messages");
        assert!(
            error.message.contains("has 10001 messages, the most allowed are 10000"),
            "{}",
            error.message
        );
        let error = read_prompts(&json!({"prompt": vec!["a"; MAX_PROMPTS + 1]})).unwrap_err();
        assert!(error.message.contains("has 1025 prompts, the most allowed are 1024"), "{}", error.message);
    }

    #[test]
    fn prompts_of_every_shape() {
        let read = |value: Value| read_prompts(&json!({"prompt": value}));
        let ids = |ids: &[u32]| Prompt::TokenIds(TokenIds { ids: ids.to_vec() });
        assert_eq!(read(json!("a")).unwrap(), [Prompt::Text("a".into())]);
        assert_eq!(read(json!(["a", "b"])).unwrap().len(), 2);
        assert_eq!(read(json!([1, 2])).unwrap(), [ids(&[1, 2])]);
        assert_eq!(read(json!([[1], [2, 3]])).unwrap(), [ids(&[1]), ids(&[2, 3])]);
        for bad in [
            json!(null),
            json!([]),
            json!([[]]),
            json!([-1]),
            json!(["a", 1]),
            json!(["a", [1]]),
            json!({"a": 1}),
            json!(7),
        ] {
            assert_eq!(read(bad.clone()).unwrap_err().details["field"], "prompt", "{bad}");
        }
    }
}
