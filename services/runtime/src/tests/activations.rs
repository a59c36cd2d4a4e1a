//! Activations of prompts, and of jobs' files.

use millm_kit::{Reason, ServiceError};
use millm_proto::{
    catalog::v1::ActivationType,
    inspection::v1::{
        ActivationChunk, Prompt, Prompts, ReadActivationsRequest, prompt::Kind,
        read_activations_request::Source,
    },
    runtime::v1::{Message, Messages, TokenIds},
};
use tonic::Streaming;

use super::{
    datasets::config,
    fixture::{Fixture, check, collect},
    question,
};

/// Returns a request for activations of token ids.
pub fn prompts(prompts: &[Vec<u32>], points: &[&str]) -> ReadActivationsRequest {
    let ids = |ids: &Vec<u32>| Prompt { kind: Some(Kind::TokenIds(TokenIds { ids: ids.clone() })) };
    of(prompts.iter().map(ids).collect(), points)
}

fn of(prompts: Vec<Prompt>, points: &[&str]) -> ReadActivationsRequest {
    ReadActivationsRequest {
        source: Some(Source::Prompts(Prompts { model: "tiny".into(), prompts })),
        points: points.iter().map(|point| (*point).to_owned()).collect(),
        ..ReadActivationsRequest::default()
    }
}

async fn begin(
    fixture: &Fixture,
    request: ReadActivationsRequest,
) -> Result<Streaming<ActivationChunk>, ServiceError> {
    Ok(fixture.inspection.clone().read_activations(request).await?.into_inner())
}

#[tokio::test]
async fn prompts_of_every_kind_are_read() {
    let fixture = Fixture::loaded(&[]).await;
    let message = Message { role: "user".into(), content: "Hello!".into(), ..Message::default() };
    let kinds = [
        Kind::Text("Hello!".into()),
        Kind::TokenIds(TokenIds { ids: vec![5, 6, 7] }),
        Kind::Messages(Messages { messages: vec![message], ..Messages::default() }),
    ];
    let asked: Vec<Prompt> = kinds.into_iter().map(|kind| Prompt { kind: Some(kind) }).collect();
    let request =
        ReadActivationsRequest { dtype: ActivationType::Bf16.into(), ..of(asked, &["embed", "q.0"]) };
    let chunks = collect(begin(&fixture, request).await.unwrap()).await;
    for chunk in &chunks {
        let numbers: u64 = chunk.shape.iter().product();
        assert_eq!(chunk.data.len() as u64, 2 * numbers);
        assert_eq!(chunk.shape[0], chunk.token_ids.len() as u64);
        assert_eq!(
            (chunk.shape.len(), chunk.dtype()),
            (if chunk.point == "embed" { 2 } else { 3 }, ActivationType::Bf16)
        );
    }
    let ids = |sample| -> Vec<u32> {
        let of = chunks.iter().filter(|chunk| chunk.sample == sample && chunk.point == "q.0");
        of.flat_map(|chunk| chunk.token_ids.clone()).collect()
    };
    assert_eq!(ids(1), [5, 6, 7]);
    assert!(!ids(0).is_empty() && ids(2).len() > ids(0).len(), "the chat template adds tokens");
}

#[tokio::test]
async fn a_stream_that_is_not_read_costs_little_and_ends_when_it_is_dropped() {
    let fixture = Fixture::long_running(&[]).await;
    let long = vec![vec![7; 3000]; 4];
    let points = ["residual", "mlp", "attention", "attn_pattern"];
    let mut stream = begin(&fixture, prompts(&long, &points)).await.unwrap();
    assert!(stream.message().await.unwrap().is_some());
    // Answers go on meanwhile.
    assert_eq!(fixture.generate(question("Hello!")).await.text, "Hello! How can I help you?");
    drop(stream);
    // The model is free again.
    let progress = fixture.unload("tiny", 1000).await.unwrap();
    assert_eq!(progress.last().unwrap().pending_requests, 0);
}

#[tokio::test]
async fn unloading_ends_a_stream() {
    let fixture = Fixture::long_running(&[]).await;
    let mut stream =
        begin(&fixture, prompts(&vec![vec![7; 3000]; 4], &["residual", "attn_pattern"])).await.unwrap();
    assert!(stream.message().await.unwrap().is_some());
    fixture.unload("tiny", 0).await.unwrap();
    let end = loop {
        match stream.message().await {
            Ok(Some(_)) => {}
            Ok(None) => panic!("it ends early, with an error"),
            Err(status) => break ServiceError::from(&status),
        }
    };
    assert_eq!(end.reason, Reason::ModelNotLoaded);
}

#[tokio::test]
async fn requests_that_are_refused() {
    let fixture = Fixture::loaded(&[]).await;
    let refused = |request| begin(&fixture, request);
    check(refused(of(Vec::new(), &["embed"])).await, Reason::InvalidArgument, "0 prompts");
    check(refused(prompts(&[vec![1]], &[])).await, Reason::InvalidArgument, "'points' has 0 names");
    check(refused(prompts(&[vec![1]], &["resid_mid.99"])).await, Reason::HookPointUnknown, "99");
    check(refused(prompts(&[vec![1], vec![]], &["embed"])).await, Reason::InvalidArgument, "prompts[1]: ");
    check(refused(prompts(&[vec![1 << 30]], &["embed"])).await, Reason::InvalidArgument, "vocabulary");
    check(refused(prompts(&[vec![1; 5000]], &["embed"])).await, Reason::ContextLengthExceeded, "");
    check(refused(of(vec![Prompt::default()], &["embed"])).await, Reason::InvalidArgument, "prompts[0]");
    check(refused(ReadActivationsRequest::default()).await, Reason::InvalidArgument, "'source'");
    let of_job = |name: &str| ReadActivationsRequest {
        source: Some(Source::Extraction(name.into())),
        ..ReadActivationsRequest::default()
    };
    check(refused(of_job("nothing")).await, Reason::ExtractionNotFound, "nothing");
    fixture.datasets.put_texts(1, "one", &["Hello!"]);
    let job = fixture.extract(config("one", &["embed"], |_| {})).await;
    let unknown = ReadActivationsRequest { points: vec!["logits".into()], ..of_job(&job.id) };
    check(refused(unknown).await, Reason::HookPointUnknown, "nearest: embed");
}
