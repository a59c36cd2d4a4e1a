//! One question and its typed answer, over each protocol.

use std::time::Duration;

use millm_proto::runtime::v1::generate_request::Prompt;
use millm_proto::runtime::v1::{GenerateRequest, Sampling};
use serde_json::{Value, json};

use super::verdict::{Judged, Verdict, judge_answer, judge_status};
use super::{Server, grpc_web};

/// The name of the trained model in tests that register it themselves.
pub const TINY: &str = "tiny";

const CHAT: &str = "/v1/chat/completions";
const PATIENCE: Duration = Duration::from_secs(60);

/// Sends a JSON request over REST.
pub async fn post(server: &Server, path: &str, body: &Value) -> Judged {
    post_bytes(server, path, body.to_string().into_bytes()).await
}

/// Sends a request over REST, with any bytes as its body.
pub async fn post_bytes(server: &Server, path: &str, body: Vec<u8>) -> Judged {
    let sent = server.rest().send(path, body).await;
    judge_answer(&sent.map_err(|error| format!("{error:?}"))?)
}

/// Generates over gRPC. Returns the text of the whole answer.
pub async fn generate(server: &Server, request: GenerateRequest) -> Judged {
    let mut stream = match server.runtime().generate(request).await {
        Ok(answer) => answer.into_inner(),
        Err(status) => return judge_status(&status),
    };
    let (mut text, mut ended) = (String::new(), false);
    loop {
        match stream.message().await {
            Ok(Some(message)) => {
                text += &message.text;
                ended |= message.end.is_some();
            }
            Ok(None) if ended => return Ok(Verdict::taken(&text)),
            Ok(None) => return Err(format!("a stream without an end: {text}")),
            Err(status) => return judge_status(&status),
        }
    }
}

/// Generates over gRPC-web.
pub async fn generate_over_web(server: &Server, request: &GenerateRequest) -> Judged {
    grpc_web::generate(server.rest().client(), &server.url(), request).await
}

/// Asks an ordinary question, which must be answered at any time.
pub async fn everyday(server: &Server) -> Result<(), String> {
    let body = json!({"model": TINY, "temperature": 0,
        "messages": [{"role": "user", "content": "What is the capital of Japan?"}]});
    let asked = tokio::time::timeout(PATIENCE, post(server, CHAT, &body)).await;
    let verdict = asked.map_err(|_| "no answer to an everyday question")??;
    let right = verdict.is_taken() && verdict.message == "The capital of Japan is Tokyo.";
    if right { Ok(()) } else { Err(format!("an everyday question gets {verdict}")) }
}

/// Returns a request for a greedy generation of the trained model.
pub fn greedy(prompt: Prompt, max_tokens: u32) -> GenerateRequest {
    GenerateRequest {
        model: TINY.to_owned(),
        prompt: Some(prompt),
        sampling: Some(Sampling { temperature: Some(0.0), ..Sampling::default() }),
        max_tokens: Some(max_tokens),
        ..GenerateRequest::default()
    }
}
