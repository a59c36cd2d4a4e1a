//! Inputs within the limits work: schemas of a usual size, demanded calls, expressions, choices, grammars.

use std::time::Instant;

use serde_json::{Map, Value, json};

use super::batch::{Batch, Wanted, chat};
use crate::harness::{Judged, Server, Verdict, post};
use crate::hostile_inputs::requests::CHAT;

/// Returns a schema of twenty properties of the usual kinds, all required.
fn twenty() -> Value {
    let kinds = [
        json!({"type": "integer", "minimum": 0, "maximum": 150}),
        json!({"type": "boolean"}),
        json!({"enum": ["red", "green", "blue"]}),
        json!({"type": "array", "items": {"type": "integer", "minimum": 1, "maximum": 9}, "maxItems": 3}),
        json!({"type": "object", "properties": {"x": {"type": "boolean"}}, "required": ["x"],
            "additionalProperties": false}),
    ];
    let properties: Map<String, Value> = (0..20).map(|n| (format!("p{n}"), kinds[n % 5].clone())).collect();
    let names: Vec<&String> = properties.keys().collect();
    json!({"type": "object", "required": names, "properties": properties, "additionalProperties": false})
}

/// Returns whether a text is JSON that follows [`twenty`].
fn is_twenty(text: &str) -> bool {
    let Ok(Value::Object(members)) = serde_json::from_str::<Value>(text) else { return false };
    let fits = |n: usize, value: &Value| match n % 5 {
        0 => value.as_u64().is_some_and(|number| number <= 150),
        1 => value.is_boolean(),
        2 => ["red", "green", "blue"].iter().any(|color| value == color),
        3 => value.as_array().is_some_and(|list| list.len() <= 3),
        _ => value["x"].is_boolean(),
    };
    members.len() == 20 && (0..20).all(|n| members.get(&format!("p{n}")).is_some_and(|value| fits(n, value)))
}

/// Sends a request, whose answer must be right.
async fn right(server: &Server, body: &Value, is_right: impl Fn(&str) -> bool) -> Judged {
    let verdict = post(server, CHAT, body).await?;
    let right = verdict.is_taken() && is_right(&verdict.message);
    if right { Ok(verdict) } else { Err(format!("not as asked: {verdict}")) }
}

fn long(field: &str, value: Value) -> Value {
    let mut body = chat(field, value);
    body["max_tokens"] = json!(800);
    body
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn constraints_of_a_usual_size() {
    let mut batch = Batch::start().await;
    let schema = json!({"type": "json_schema", "json_schema": {"name": "x", "schema": twenty()}});
    let body = long("response_format", schema);
    let taken = Wanted::Typed(&[]);
    let mut times = Vec::new();
    for use_ in ["first", "second"] {
        let ask = async |server: &Server| {
            let started = Instant::now();
            let judged = right(server, &body, is_twenty).await;
            times.push(started.elapsed());
            judged
        };
        batch.check(&format!("twenty properties, {use_} use"), &taken, ask).await;
    }
    println!("twenty properties: the whole answer in {times:?}");

    let mut demanded = long(
        "tools",
        json!([{"type": "function", "function": {"name": "paint", "parameters": {
        "type": "object", "properties": {"color": {"enum": ["red", "green"]}}, "required": ["color"],
        "additionalProperties": false}}}]),
    );
    demanded["tool_choice"] = json!("required");
    let is_call = |arguments: &str| {
        let arguments: Value = serde_json::from_str(arguments).unwrap_or_default();
        arguments["color"] == "red" || arguments["color"] == "green"
    };
    batch.check("a demanded call", &taken, async |server| right(server, &demanded, is_call).await).await;

    let date = long("guided_regex", json!("[0-9]{4}-[0-9]{2}-[0-9]{2}"));
    let is_date = |text: &str| text.len() == 10 && text.split('-').map(str::len).eq([4, 2, 2]);
    batch.check("a regular expression", &taken, async |server| right(server, &date, is_date).await).await;

    let choice = long("guided_choice", json!(["Tokyo", "Kyoto", "an \"other\" city"]));
    let is_choice = |text: &str| ["Tokyo", "Kyoto", "an \"other\" city"].contains(&text);
    batch.check("a choice", &taken, async |server| right(server, &choice, is_choice).await).await;

    let sum = long("grammar", json!("start: term (\" + \" term){1,3}\nterm: /[1-9][0-9]?/"));
    let is_sum =
        |text: &str| text.contains(" + ") && text.split(" + ").all(|term| term.parse::<u8>().is_ok());
    batch.check("a grammar", &taken, async |server| right(server, &sum, is_sum).await).await;

    let nested = (0..20).fold(json!({"type": "boolean"}), |inner, _| {
        json!({"type": "object", "properties": {"a": inner}, "required": ["a"], "additionalProperties": false})
    });
    let is_nested = |text: &str| text.matches("\"a\"").count() == 20;
    let nested = long("guided_json", nested);
    batch
        .check("twenty objects in each other", &taken, async |server| right(server, &nested, is_nested).await)
        .await;
    batch.end().await;
}

/// The check itself rejects wrong texts.
#[test]
fn twenty_properties_are_told_apart() {
    let good: Map<String, Value> = (0..20)
        .map(|n| {
            (
                format!("p{n}"),
                [json!(7), json!(true), json!("red"), json!([1]), json!({"x": false})][n % 5].clone(),
            )
        })
        .collect();
    let text = Value::Object(good).to_string();
    assert!(is_twenty(&text));
    assert!(!is_twenty(&text.replace("red", "pink")) && !is_twenty(&text[1..]) && !is_twenty("{}"));
    assert!(Verdict::taken(&text).is_taken());
}
