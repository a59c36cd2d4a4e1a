//! Hostile requests without a grammar: prompts, messages, tools, and the amount of output.

use serde_json::{Value, json};

use super::Named;

/// A body without its model, and the field, beside `model`, that a refusal may name.
pub struct Request {
    pub path: &'static str,
    pub body: Value,
    pub field: &'static str,
    /// More than the context holds. It is refused under any limits.
    pub is_too_long: bool,
}

pub const CHAT: &str = "/v1/chat/completions";
pub const COMPLETIONS: &str = "/v1/completions";

pub fn all() -> Vec<Named<Request>> {
    let mut all = prompts();
    all.extend(chats());
    all
}

fn prompts() -> Vec<Named<Request>> {
    let prompt = |text: Value| Request {
        path: COMPLETIONS,
        body: json!({"prompt": text, "max_tokens": 1, "temperature": 0}),
        field: "prompt",
        is_too_long: true,
    };
    vec![
        ("a prompt of 7.8 MB", prompt(json!("lorem ipsum ".repeat(650_000)))),
        ("7.8 MB of one letter", prompt(json!("x".repeat(7_800_000)))),
        ("7.8 MB of spaces", prompt(json!(" ".repeat(7_800_000)))),
        ("2.5 MB of combining marks", prompt(json!("e\u{301}".repeat(1_000_000)))),
        ("1000 prompts of 7 kB", prompt(json!(vec!["lorem ipsum ".repeat(600); 1_000]))),
        ("a million special tokens", prompt(json!("<|im_end|>".repeat(700_000)))),
        ("a million ids", Request { field: "body", ..prompt(json!(vec![5; 1_000_000])) }),
    ]
}

fn chats() -> Vec<Named<Request>> {
    let chat = |messages: Value| Request {
        path: CHAT,
        body: json!({"messages": messages, "max_tokens": 1, "temperature": 0}),
        field: "messages",
        is_too_long: true,
    };
    let user = |text: String| json!({"role": "user", "content": text});
    let calling = |arguments: String| {
        let call = json!({"id": "1", "type": "function", "function": {"name": "f", "arguments": arguments}});
        json!([user("Hello!".into()), {"role": "assistant", "tool_calls": [call]}])
    };
    let deep = |n: usize| format!("{{\"a\":{}{}}}", "[".repeat(n), "]".repeat(n));
    let mut tools = chat(json!([user("Hello!".into())]));
    tools.body["tools"] = json!(vec![tool(&json!({"description": "x".repeat(50_000)})); 120]);
    vec![
        ("a message of 7.8 MB", chat(json!([user("lorem ipsum ".repeat(650_000))]))),
        ("100000 messages", Request { field: "body", ..chat(json!(vec![user("x".into()); 100_000])) }),
        ("100000 parts", {
            let part = json!({"type": "text", "text": "x"});
            let messages = json!([{"role": "user", "content": vec![part; 100_000]}]);
            Request { field: "body", ..chat(messages) }
        }),
        ("arguments 100 deep", Request { is_too_long: false, ..chat(calling(deep(100))) }),
        ("arguments 100000 deep", chat(calling(deep(100_000)))),
        ("120 tools of 50 kB", Request { field: "tools", ..tools }),
    ]
}

/// Returns a request for sixteen answers as long as the context, with twenty alternatives for each token.
pub fn many_choices() -> Value {
    json!({"messages": [{"role": "user", "content": "Hello!"}], "n": 16, "logprobs": true, "top_logprobs": 20,
        "max_tokens": 2_000, "ignore_eos": true})
}

/// Returns a tool whose arguments have this schema.
pub fn tool(schema: &Value) -> Value {
    json!({"type": "function", "function": {"name": "f", "parameters": schema}})
}
