//! Bodies of the OpenAI API. The first line is the path. The rest is sent as it is.

use serde_json::json;

use super::languages;
use crate::harness::asking::post_bytes;
use crate::harness::{Judged, Server, TINY};
use crate::hostile_inputs::{grammars, requests, schemas};
use crate::mutator::Language;
use crate::runner::{Target, run};

struct Body;

impl Target for Body {
    const NAME: &'static str = "openai";
    const MOST: usize = 1 << 20;

    fn language() -> &'static Language {
        &languages::BODY
    }

    fn seeds() -> Vec<Vec<u8>> {
        let chat = |field: &str, value| {
            let mut body =
                json!({"model": TINY, "max_tokens": 4, "messages": [{"role": "user", "content": "Hello!"}]});
            body[field] = value;
            format!("{}\n{body}", requests::CHAT).into_bytes()
        };
        let held = schemas::numbers().into_iter().map(|(_, schema)| {
            chat(
                "response_format",
                json!({"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}),
            )
        });
        let tools = schemas::chains()
            .into_iter()
            .take(3)
            .map(|(_, schema)| chat("tools", json!([requests::tool(&schema)])));
        let larks = grammars::larks().into_iter().take(5).map(|(_, lark)| chat("grammar", json!(lark)));
        let long = requests::all().into_iter().map(|(_, request)| {
            let mut body = request.body;
            body["model"] = json!(TINY);
            format!("{}\n{body}", request.path).into_bytes()
        });
        let long = long.filter(|input| input.len() <= Self::MOST);
        held.chain(tools).chain(larks).chain(long).collect()
    }

    async fn ask(server: &Server, input: &[u8]) -> Judged {
        let line = input.iter().position(|byte| *byte == b'\n').unwrap_or(0);
        let path = if input.starts_with(requests::COMPLETIONS.as_bytes()) {
            requests::COMPLETIONS
        } else {
            requests::CHAT
        };
        post_bytes(server, path, input[line..].to_vec()).await
    }
}

#[tokio::test]
async fn openai() {
    run::<Body>().await;
}
