//! The trained model gives its reference answers from every format and quantization.

use std::collections::BTreeMap;

use millm_proto::catalog::v1::Quantization;
use serde::Deserialize;

use crate::harness::{Fixture, Layout, Options, Server, Tiny, fixture, hub, in_both_layouts, model_hub};

in_both_layouts!(
    quantizations_answer_like_the_original,
    llamacpp_files_answer_as_they_do_there,
    a_changed_tensor_changes_the_answers,
    the_chat_template_is_applied,
);

/// Returns the number of answers, of nineteen, that equal transformers'.
async fn equal_answers(server: &Server, model: &str) -> usize {
    let mut equal = 0;
    for reference in Tiny::references() {
        let room = reference.greedy_ids.len() as u32 + 8;
        let answer = server.rest().greedy(model, &reference.prompt_ids, room).await;
        if answer == reference.greedy_text {
            equal += 1;
        } else {
            eprintln!("{model}: {:?} instead of {:?}", answer, reference.greedy_text);
        }
    }
    equal
}

async fn quantizations_answer_like_the_original(layout: Layout) {
    let hub = model_hub();
    let server = Server::start(layout, Options::with_hub(hub.url())).await;
    for (quantization, at_least) in [
        (Quantization::Native, 19),
        (Quantization::Fp16, 19),
        (Quantization::Q8, 18),
        (Quantization::Q4, 16),
        (Quantization::Q2, 15),
    ] {
        let model = server.pull("millm/tiny-millm", quantization).await;
        assert_eq!(model.actual_quantization(), quantization, "{}", model.quantization_reason);
        server.load(&model.handle).await;
        let equal = equal_answers(&server, &model.handle).await;
        assert!(equal >= at_least, "{quantization:?}: {equal} of 19, at least {at_least}");
    }
}

/// The content of `llamacpp_greedy.json`.
#[derive(Deserialize)]
struct Llamacpp {
    whole_answers_equal: usize,
}

async fn llamacpp_files_answer_as_they_do_there(layout: Layout) {
    let server = Server::start(layout, Options::default()).await;
    let there = std::fs::read(fixture("tiny-millm-gguf/llamacpp_greedy.json")).unwrap();
    let there: BTreeMap<String, Llamacpp> = serde_json::from_slice(&there).unwrap();
    for (kind, file) in [
        ("f16", "tiny-f16.gguf"),
        ("Q8_0", "tiny-Q8_0.gguf"),
        ("Q4_K_M", "tiny-Q4_K_M.gguf"),
        ("Q4_0", "tiny-Q4_0.gguf"),
        ("Q2_K", "tiny-Q2_K.gguf"),
    ] {
        let handle = kind.to_lowercase();
        let model = server.add(&fixture("tiny-millm-gguf").join(file), &handle).await;
        server.load(&model.handle).await;
        let equal = equal_answers(&server, &handle).await;
        assert!(equal >= there[kind].whole_answers_equal, "{kind}: {equal} of 19");
    }
}

async fn a_changed_tensor_changes_the_answers(layout: Layout) {
    let hub = hub(&[Fixture::Changed]);
    let server = Server::start(layout, Options::with_hub(hub.url())).await;
    let model = server.pull("millm/changed", Quantization::Q4).await;
    server.load(&model.handle).await;
    let answer = server.rest().chat(&model.handle, "What is the capital of Japan?").await;
    assert_ne!(answer, "The capital of Japan is Tokyo.");
    assert!(equal_answers(&server, &model.handle).await < 10);
}

async fn the_chat_template_is_applied(layout: Layout) {
    let hub = model_hub();
    let server = Server::start(layout, Options::with_hub(hub.url())).await;
    let model = server.pull("millm/tiny-millm", Quantization::Q8).await;
    server.load(&model.handle).await;
    for reference in Tiny::references().iter().filter(|reference| reference.tools.is_none()).take(8) {
        let answer = server.rest().chat(&model.handle, reference.question()).await;
        assert_eq!(answer, reference.greedy_text);
        let text = serde_json::Value::String(reference.prompt.clone());
        assert_eq!(server.rest().greedy(&model.handle, &text, 100).await, reference.greedy_text);
    }
}
