//! Hostile schemas, regular expressions and grammars, through every field and protocol that accepts them. An input
//! may be within the limits: then the answer follows it.

use millm_proto::runtime::v1::constraint::Kind;
use serde_json::{Value, json};

use super::batch::{Batch, Wanted, chat, held};
use crate::harness::{Layout, TINY, generate, generate_over_web, post};
use crate::hostile_inputs::requests::{CHAT, COMPLETIONS, tool};
use crate::hostile_inputs::{Named, grammars, schemas};

/// One of each kind of harm: a deep stack, much time, much memory.
const SAMPLE: [&str; 3] = ["650 $refs", "multipleOf 100000007", "twenty patterns in allOf"];

fn sample() -> Vec<Named<Value>> {
    let picked: Vec<_> = schemas::all().into_iter().filter(|(name, _)| SAMPLE.contains(name)).collect();
    assert_eq!(picked.len(), SAMPLE.len());
    picked
}

fn response_format(schema: &Value) -> Value {
    json!({"type": "json_schema", "json_schema": {"name": "x", "schema": schema}})
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn schemas_over_rest() {
    let mut batch = Batch::start().await;
    for (name, schema) in schemas::all() {
        let body = chat("response_format", response_format(&schema));
        let wanted = Wanted::TakenOrRefused("response_format");
        batch.check(name, &wanted, async |server| post(server, CHAT, &body).await).await;
    }
    batch.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn schemas_in_every_field() {
    let mut batch = Batch::start().await;
    for (name, schema) in &sample() {
        let fields = [
            ("guided_json", schema.clone()),
            ("guided_json", json!(schema.to_string())),
            ("json_schema", schema.clone()),
            ("structured_outputs", json!({"json": schema})),
            ("grammar", json!(format!("start: \"a\" json\njson: %json {schema}"))),
            ("guided_grammar", json!(format!("start: %json {schema}"))),
        ];
        for (field, value) in fields {
            let body = chat(field, value);
            let wanted = Wanted::TakenOrRefused(field);
            let name = format!("{field}: {name}");
            batch.check(&name, &wanted, async |server| post(server, CHAT, &body).await).await;
        }
        let mut body = chat("tools", json!([tool(schema)]));
        body["tool_choice"] = json!("required");
        let wanted = Wanted::TakenOrRefused("tools");
        batch.check(&format!("tools: {name}"), &wanted, async |server| post(server, CHAT, &body).await).await;
        let body = json!({"model": TINY, "prompt": "Hello!", "stream": true, "json_schema": schema});
        let wanted = Wanted::TakenOrRefused("json_schema");
        let name = format!("a stream: {name}");
        batch.check(&name, &wanted, async |server| post(server, COMPLETIONS, &body).await).await;
    }
    batch.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn expressions_and_grammars_over_rest() {
    let mut batch = Batch::start().await;
    for (name, regex) in grammars::regexes() {
        let body = chat("guided_regex", json!(regex));
        let wanted = Wanted::TakenOrRefused("guided_regex");
        batch.check(name, &wanted, async |server| post(server, CHAT, &body).await).await;
    }
    for (name, lark) in grammars::larks() {
        let body = chat("grammar", json!(lark));
        let wanted = Wanted::TakenOrRefused("grammar");
        batch.check(name, &wanted, async |server| post(server, CHAT, &body).await).await;
    }
    let words: Vec<String> = (0..20_000).map(|n| format!("choice{n}")).collect();
    let long = "a".repeat(250_000);
    let fields = [
        ("structured_outputs", json!({"regex": "a?".repeat(20_000)})),
        ("structured_outputs", json!({"grammar": grammars::rules(643)})),
        ("structured_outputs", json!({"choice": words})),
        ("guided_choice", json!(words)),
        ("guided_choice", json!([long, format!("{long}b")])),
        ("guided_grammar", json!(grammars::terminals(762))),
    ];
    for (field, value) in fields {
        let body = chat(field, value);
        let wanted = Wanted::TakenOrRefused(field);
        batch.check(field, &wanted, async |server| post(server, CHAT, &body).await).await;
    }
    batch.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn over_grpc_and_grpc_web() {
    let mut kinds: Vec<(&str, Kind)> = Vec::new();
    let schemas = schemas::numbers().into_iter().take(2).chain(schemas::chains().into_iter().take(6));
    kinds.extend(schemas.map(|(name, schema)| (name, Kind::JsonSchema(schema.to_string()))));
    kinds.extend(sample().iter().map(|(name, schema)| (*name, Kind::JsonSchema(schema.to_string()))));
    kinds.extend(grammars::regexes().into_iter().take(3).map(|(name, regex)| (name, Kind::Regex(regex))));
    kinds.extend(grammars::larks().into_iter().take(6).map(|(name, lark)| (name, Kind::Grammar(lark))));
    let wanted = Wanted::TakenOrRefused("constraint");
    let mut batch = Batch::start().await;
    for (n, (name, kind)) in kinds.into_iter().enumerate() {
        let request = held(kind);
        if n % 4 == 0 {
            let again = request.clone();
            let name = format!("gRPC-web: {name}");
            batch.check(&name, &wanted, async |server| generate_over_web(server, &again).await).await;
        }
        batch.check(&format!("gRPC: {name}"), &wanted, async |server| generate(server, request).await).await;
    }
    batch.end().await;
}

/// Many JSON parsers read numbers as floats, which cannot distinguish these bounds from their neighbours.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn integers_beyond_floats_are_exact_or_refused() {
    let mut batch = Batch::start().await;
    let mut taken = Vec::new();
    for (least, most) in schemas::beyond_floats() {
        let schema = json!({"type": "integer", "minimum": least, "maximum": most});
        let mut body = chat("guided_json", schema);
        body["max_tokens"] = json!(40);
        let wanted = Wanted::TakenOrRefused("guided_json");
        let ask = async |server: &_| {
            let judged = post(server, CHAT, &body).await;
            if let Ok(verdict) = &judged
                && verdict.is_taken()
            {
                taken.push((least, verdict.message.clone(), most));
            }
            judged
        };
        batch.check(&format!("{least} to {most}"), &wanted, ask).await;
    }
    batch.end().await;
    for (least, text, most) in taken {
        let number: i64 = text.trim().parse().unwrap_or_else(|e| panic!("{text:?}: {e}"));
        assert!((least..=most).contains(&number), "{number} is not within {least} to {most}");
    }
}

/// The sandbox processes belong to the Runtime's process.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn in_four_processes() {
    let mut batch = Batch::start_in(Layout::FourProcesses).await;
    let wanted = Wanted::TakenOrRefused("guided_json");
    for (name, schema) in schemas::numbers().into_iter().take(1).chain(sample()) {
        let body = chat("guided_json", schema);
        batch.check(name, &wanted, async |server| post(server, CHAT, &body).await).await;
    }
    batch.end().await;
}
