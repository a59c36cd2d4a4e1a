//! Hostile requests without a grammar: long prompts, many messages, deep calls, many choices.

use std::time::{Duration, Instant};

use millm_proto::runtime::v1::generate_request::Prompt;
use millm_proto::runtime::v1::{Message, Messages, TokenizeRequest};
use serde_json::json;

use super::batch::{Batch, Wanted, message};
use crate::harness::{
    Judged, Server, TINY, Verdict, generate, generate_over_web, greedy, judge_status, post,
};
use crate::hostile_inputs::requests;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_over_rest() {
    let mut batch = Batch::start().await;
    for (name, request) in requests::all() {
        let mut body = request.body;
        body["model"] = json!(TINY);
        let (field, is_too_long) = (request.field, request.is_too_long);
        let wanted = if is_too_long { Wanted::Refused(field) } else { Wanted::TakenOrRefused(field) };
        batch.check(name, &wanted, async |server| post(server, request.path, &body).await).await;
    }
    batch.end().await;
}

/// Sends a request for much output. Its memory is bounded while it runs, and freed when the client disconnects.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_choices_are_bounded() {
    const MOST: u64 = 256 << 20;
    const WATCHED: Duration = Duration::from_secs(15);
    let batch = Batch::start().await;
    let before = batch.tree.resident_bytes();
    let mut body = requests::many_choices();
    body["model"] = json!(TINY);
    let (mut most, started) = (0, Instant::now());
    let watched = async {
        while started.elapsed() < WATCHED {
            most = batch.tree.resident_bytes().max(most);
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    let judged = tokio::select! {
        judged = post(&batch.server, requests::CHAT, &body) => Some(judged.expect("a typed answer")),
        () = watched => None,
    };
    println!("{judged:?}; {} MB before, at most {} MB", before >> 20, most >> 20);
    let refused = judged.is_some_and(|verdict| !verdict.is_taken());
    assert!(refused || most > 0, "neither refused nor watched");
    assert!(most <= before + MOST, "{} MB more", (most - before) >> 20);
    batch.settle().await;
}

async fn tokenize(server: &Server, text: String) -> Judged {
    let request = TokenizeRequest { model: TINY.to_owned(), text, add_special_tokens: true };
    match server.runtime().tokenize(request).await {
        Ok(_) => Ok(Verdict::taken("")),
        Err(status) => judge_status(&status),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_and_texts_over_grpc() {
    // A gRPC message may have 4 MiB.
    let long = "lorem ipsum ".repeat(330_000);
    let deep =
        format!("[{}]", r#"{"function":{"name":"f","arguments":{"a":"#.repeat(40) + "1" + &"}}}".repeat(40));
    let calling = Message { role: "assistant".to_owned(), tool_calls_json: deep, ..Message::default() };
    let with_calls = Messages { messages: vec![calling], tools_json: String::new() };
    let brackets = Messages { messages: vec![Message::default(); 1], tools_json: "[".repeat(1_000_000) };
    let many = Message { role: "user".to_owned(), content: "x".to_owned(), ..Message::default() };
    let many = Messages { messages: vec![many; 200_000], tools_json: String::new() };
    let cases = [
        ("a text of 4 MB", "prompt", Prompt::Text(long.clone())),
        ("a message of 4 MB", "messages", message(long.clone())),
        ("calls in calls", "messages", Prompt::Messages(with_calls)),
        ("a million brackets", "tools_json", Prompt::Messages(brackets)),
        ("200000 messages", "messages", Prompt::Messages(many)),
    ];
    let mut batch = Batch::start().await;
    for (name, field, prompt) in cases {
        let request = greedy(prompt, 4);
        let wanted = Wanted::TakenOrRefused(field);
        let again = request.clone();
        batch.check(&format!("gRPC: {name}"), &wanted, async |server| generate(server, request).await).await;
        let name = format!("gRPC-web: {name}");
        batch.check(&name, &wanted, async |server| generate_over_web(server, &again).await).await;
    }
    let wanted = Wanted::TakenOrRefused("text");
    batch.check("Tokenize: 4 MB", &wanted, async |server| tokenize(server, long).await).await;
    let ones = "1".repeat(4_000_000);
    batch.check("Tokenize: 4 MB of ones", &wanted, async |server| tokenize(server, ones).await).await;
    batch.end().await;
}
