//! Tests of the gRPC service with real models, without a socket.

mod activations;
mod datasets;
mod describe;
mod extract;
mod extract_failures;
mod extract_jobs;
mod fixture;
mod generate;
mod load;
mod load_failures;
mod multiple_models;
mod refusals;
mod status;

use millm_proto::runtime::v1::{
    GenerateRequest, Message, Messages, Sampling, TokenIds, generate_request::Prompt,
};

/// Returns a request with one user message, decoded greedily.
fn question(text: &str) -> GenerateRequest {
    let message = Message { role: "user".into(), content: text.into(), ..Message::default() };
    chat(vec![message], "")
}

fn chat(messages: Vec<Message>, tools_json: &str) -> GenerateRequest {
    GenerateRequest {
        prompt: Some(Prompt::Messages(Messages { messages, tools_json: tools_json.into() })),
        ..greedy()
    }
}

fn text(text: &str) -> GenerateRequest {
    GenerateRequest { prompt: Some(Prompt::Text(text.into())), ..greedy() }
}

fn ids(ids: &[u32]) -> GenerateRequest {
    GenerateRequest { prompt: Some(Prompt::TokenIds(TokenIds { ids: ids.to_vec() })), ..greedy() }
}

fn greedy() -> GenerateRequest {
    let sampling = Some(Sampling { temperature: Some(0.0), ..Sampling::default() });
    GenerateRequest { sampling, ..GenerateRequest::default() }
}

/// Returns a request that generates until the context is full or the request is cancelled.
fn endless() -> GenerateRequest {
    GenerateRequest { ignore_eos: true, ..question("Tell me a happy story about Mia.") }
}
