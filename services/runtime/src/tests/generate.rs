//! Generation: equal to the references, stop conditions, log probabilities and usage.

use std::{collections::HashMap, time::Duration};

use futures::future::join_all;
use millm_kit::Reason;
use millm_proto::runtime::v1::{
    DetokenizeRequest, FinishReason, GenerateRequest, Message, Sampling, TokenizeRequest,
};
use serde::Deserialize;

use super::{
    chat, endless,
    fixture::{Fixture, check, finish, fixtures},
    greedy, ids, question, text,
};

#[derive(Deserialize)]
struct Reference {
    messages: Vec<ReferenceMessage>,
    tools: Option<serde_json::Value>,
    prompt: String,
    prompt_ids: Vec<u32>,
    greedy_ids: Vec<u32>,
    greedy_text: String,
}

#[derive(Deserialize)]
struct ReferenceMessage {
    role: String,
    content: String,
}

fn references() -> Vec<Reference> {
    let text = std::fs::read_to_string(fixtures().join("tiny-millm/reference_greedy.json")).unwrap();
    serde_json::from_str(&text).unwrap()
}

fn asked(reference: &Reference) -> GenerateRequest {
    let messages = reference.messages.iter().map(|message| Message {
        role: message.role.clone(),
        content: message.content.clone(),
        ..Message::default()
    });
    let tools = reference.tools.as_ref().map(ToString::to_string).unwrap_or_default();
    chat(messages.collect(), &tools)
}

/// Sends all prompts at once and counts the responses that equal the reference.
async fn equal_answers(fixture: &Fixture) -> usize {
    let references = references();
    let answers = join_all(references.iter().map(|reference| fixture.generate(asked(reference)))).await;
    let mut equal = 0;
    for (reference, answer) in references.iter().zip(answers) {
        let start = answer.messages[0].start.as_ref().unwrap();
        assert_eq!(start.prompt_token_ids, reference.prompt_ids, "{}", reference.prompt);
        assert_eq!(answer.end.prompt_tokens as usize, reference.prompt_ids.len());
        assert_eq!(answer.end.finish_reason(), FinishReason::Stop);
        assert_eq!(answer.end.generated_tokens as usize, answer.ids.len() + 1, "the stop token counts");
        let (_stop, whole) = reference.greedy_ids.split_last().unwrap();
        if answer.ids == whole && answer.text == reference.greedy_text {
            equal += 1;
        }
    }
    equal
}

#[tokio::test]
async fn bf16_generates_the_text_of_transformers() {
    let fixture = Fixture::loaded(&[]).await;
    assert_eq!(equal_answers(&fixture).await, 19);
    let status = fixture.wait(|status| status.models[0].running_requests == 0).await;
    let model = &status.models[0];
    assert!(model.forward_passes > 0 && model.forward_passes < model.generated_tokens, "batched: {model:?}");
    assert!(model.last_used_time.is_some() && model.measured_memory_bytes > 0);
}

#[tokio::test]
async fn a_gguf_file_generates_the_text_of_llama_cpp() {
    let fixture = Fixture::start(&[]).await;
    fixture.load("tiny-q8").await;
    assert_eq!(equal_answers(&fixture).await, 19);
}

#[tokio::test]
async fn text_and_ids_are_not_changed_by_the_template() {
    let fixture = Fixture::loaded(&[]).await;
    let reference = &references()[2];
    let (by_text, by_ids) =
        (fixture.generate(text(&reference.prompt)).await, fixture.generate(ids(&reference.prompt_ids)).await);
    assert_eq!(by_text.text, "The capital of Japan is Tokyo.");
    assert_eq!(by_ids.text, by_text.text);
    assert_eq!(by_ids.messages[0].start, by_text.messages[0].start);
}

#[tokio::test]
async fn a_stop_string_ends_the_text_before_it() {
    let fixture = Fixture::loaded(&[]).await;
    let stop = vec!["never".to_owned(), ", 6".to_owned()];
    let answer = fixture.generate(GenerateRequest { stop, ..question("Count from 3 to 12.") }).await;
    assert_eq!(answer.text, "3, 4, 5");
    assert_eq!(answer.end.finish_reason(), FinishReason::Stop);
    assert_eq!(answer.end.stop, ", 6");
    assert!(answer.messages.iter().all(|message| !message.text.contains('6')));
    // The engine has released the request.
    fixture.wait(|status| status.models[0].running_requests == 0).await;
    // The prefix of a stop string is sent at the end.
    let stop = vec!["12.!".to_owned()];
    let whole = fixture.generate(GenerateRequest { stop, ..question("Count from 3 to 12.") }).await;
    assert_eq!(whole.text, "3, 4, 5, 6, 7, 8, 9, 10, 11, 12.");
}

#[tokio::test]
async fn stop_token_ids_and_max_tokens_end_the_response() {
    let fixture = Fixture::loaded(&[]).await;
    let count = || question("Count from 3 to 12.");
    let comma = 14;
    let answer = fixture.generate(GenerateRequest { stop_token_ids: vec![comma], ..count() }).await;
    assert_eq!((answer.text.as_str(), answer.end.finish_reason()), ("3", FinishReason::Stop));
    // Also when the model's stop tokens are ignored.
    let through = GenerateRequest { stop_token_ids: vec![comma], ignore_eos: true, ..count() };
    assert_eq!(fixture.generate(through).await.text, "3");

    let answer = fixture.generate(GenerateRequest { max_tokens: Some(3), ..count() }).await;
    assert_eq!((answer.text.as_str(), answer.end.finish_reason()), ("3, 4", FinishReason::Length));
    assert_eq!(answer.end.generated_tokens, 3);
    let times = (answer.end.time_to_first_token.unwrap(), answer.end.total_time.unwrap());
    let (first, total) = (Duration::try_from(times.0).unwrap(), Duration::try_from(times.1).unwrap());
    assert!(first > Duration::ZERO && total >= first);

    let nothing = fixture.generate(GenerateRequest { max_tokens: Some(0), ..count() }).await;
    assert_eq!((nothing.text.as_str(), nothing.end.finish_reason()), ("", FinishReason::Length));
}

#[tokio::test]
async fn log_probabilities_come_with_the_tokens_own_text() {
    let fixture = Fixture::loaded(&[]).await;
    let request = GenerateRequest { logprobs: Some(3), ..question("What color is snow?") };
    let answer = fixture.generate(request).await;
    let logprobs: Vec<_> = answer.messages.iter().flat_map(|message| &message.logprobs).collect();
    assert_eq!(logprobs.len(), answer.ids.len());
    let spelled: Vec<u8> = logprobs.iter().flat_map(|token| token.raw.clone()).collect();
    assert_eq!(String::from_utf8(spelled).unwrap(), answer.text);
    for token in logprobs {
        // Greedy decoding takes the most likely token.
        assert_eq!(token.top.len(), 3);
        assert_eq!((token.top[0].token_id, token.top[0].logprob), (token.token_id, token.logprob));
        assert!(token.logprob.unwrap() <= 0.0 && token.top[0].logprob >= token.top[1].logprob);
    }
    let without = fixture.generate(question("What color is snow?")).await;
    assert!(without.messages.iter().all(|message| message.logprobs.is_empty()));
}

#[tokio::test]
async fn prompts_have_log_probabilities() {
    let fixture = Fixture::loaded(&[]).await;
    let reference = &references()[2];
    // The model's own answer as part of the prompt: each of its tokens is likely.
    let whole = [reference.prompt_ids.as_slice(), &reference.greedy_ids].concat();
    let request =
        GenerateRequest { max_tokens: Some(0), prompt_logprobs: true, logprobs: Some(1), ..ids(&whole) };
    let answer = fixture.generate(request).await;
    let start = answer.messages[0].start.as_ref().unwrap();
    assert_eq!(start.prompt_logprobs.len(), whole.len());
    assert_eq!(start.prompt_logprobs[0].logprob, None);
    for (token, id) in start.prompt_logprobs.iter().zip(&whole).skip(reference.prompt_ids.len()) {
        assert_eq!((token.token_id, token.top[0].token_id), (*id, *id));
    }
    assert!(answer.ids.is_empty());
}

#[tokio::test]
async fn the_same_seed_gives_the_same_text() {
    let fixture = Fixture::loaded(&[]).await;
    let seeded = |seed| {
        let sampling = Sampling { temperature: Some(1.5), seed: Some(seed), ..Sampling::default() };
        GenerateRequest { sampling: Some(sampling), ..question("Tell me a happy story about Mia.") }
    };
    let texts = join_all([7, 7, 8, 9].map(|seed| fixture.generate(seeded(seed)))).await;
    assert_eq!(texts[0].text, texts[1].text);
    assert!(texts[0].text != texts[2].text || texts[0].text != texts[3].text);
}

#[tokio::test]
async fn a_bias_changes_the_answer() {
    let fixture = Fixture::loaded(&[]).await;
    let reference = &references()[2];
    let logit_bias = HashMap::from([(reference.greedy_ids[0], -100.0)]);
    let sampling = Sampling { temperature: Some(0.0), logit_bias, ..Sampling::default() };
    let answer = fixture.generate(GenerateRequest { sampling: Some(sampling), ..asked(reference) }).await;
    assert_ne!(answer.ids[0], reference.greedy_ids[0]);
}

#[tokio::test]
async fn dropping_a_stream_cancels_its_generation() {
    let fixture = Fixture::long_running(&[("queue_size", "1")]).await;
    let mut endless_one = fixture.begin(endless()).await.unwrap();
    assert!(endless_one.message().await.unwrap().is_some());
    fixture.wait(|status| status.models[0].running_requests == 1).await;
    // A second request waits for the only slot, a third exceeds the queue.
    let waiting = fixture.begin(question("Hello!")).await.unwrap();
    check(fixture.begin(question("Hello!")).await, Reason::QueueFull, "Too many requests");
    drop(endless_one);
    assert_eq!(finish(waiting).await.text, "Hello! How can I help you?");
    fixture.wait(|status| status.models[0].running_requests == 0).await;
}

#[tokio::test]
async fn tokenize_and_detokenize() {
    let fixture = Fixture::loaded(&[]).await;
    let reference = &references()[2];
    let request = TokenizeRequest { text: reference.prompt.clone(), ..TokenizeRequest::default() };
    let token_ids = fixture.client.clone().tokenize(request).await.unwrap().into_inner().token_ids;
    assert_eq!(token_ids, reference.prompt_ids);
    let request = DetokenizeRequest { token_ids, ..DetokenizeRequest::default() };
    assert_eq!(fixture.client.clone().detokenize(request).await.unwrap().into_inner().text, reference.prompt);
    // Generation ends at the end of the context.
    let long = greedy();
    let full = GenerateRequest { ignore_eos: true, prompt: text("Hello").prompt, ..long };
    let answer = fixture.generate(full).await;
    let tokens = answer.end.prompt_tokens + answer.end.generated_tokens;
    assert_eq!((tokens, answer.end.finish_reason()), (2048, FinishReason::Length));
}
