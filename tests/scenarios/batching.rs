//! Requests that join and leave a running batch. Each gets the text that it would get alone, in little more than the
//! forward passes of the longest one.

use futures::future::join_all;
use millm_proto::catalog::v1::Quantization;
use millm_proto::runtime::v1::generate_request::Prompt;
use millm_proto::runtime::v1::{GenerateRequest, Sampling};
use tokio::sync::watch;

use crate::harness::{Layout, Options, Server, Tiny, in_both_layouts, model_hub, within};

in_both_layouts!(joining_streams_change_nothing);

const STREAMS: usize = 8;
/// The tokens of the first and longest answer.
const LONGEST: u32 = 480;

/// Returns the request of the n-th stream. Its prompt is its own, and it is shorter and joins later than the first.
fn request(n: usize, handle: &str, references: &[Tiny]) -> GenerateRequest {
    GenerateRequest {
        model: handle.to_owned(),
        prompt: Some(Prompt::Text(references[n].prompt.clone())),
        sampling: Some(Sampling { temperature: Some(0.0), ..Sampling::default() }),
        max_tokens: Some(if n == 0 { LONGEST } else { 30 + 25 * n as u32 }),
        ignore_eos: true,
        ..GenerateRequest::default()
    }
}

/// Returns the token ids of a whole generation, and sends their number so far to `seen`.
async fn generate(server: &Server, request: GenerateRequest, seen: &watch::Sender<usize>) -> Vec<u32> {
    let mut stream = server.runtime().generate(request).await.expect("it starts").into_inner();
    let mut ids = Vec::new();
    while let Some(message) = stream.message().await.expect("the stream goes on") {
        ids.extend(message.token_ids);
        seen.send_replace(ids.len());
    }
    ids
}

async fn forward_passes(server: &Server) -> u64 {
    server.loaded().await.expect("it is loaded").forward_passes
}

async fn joining_streams_change_nothing(layout: Layout) {
    let hub = model_hub();
    let server = Server::start(layout, Options::with_hub(hub.url())).await;
    let model = server.pull("millm/tiny-millm", Quantization::Q4).await;
    server.load(&model.handle).await;
    let references = Tiny::references();

    let mut alone = Vec::new();
    let mut passes_of_longest = 0;
    for n in 0..STREAMS {
        let before = forward_passes(&server).await;
        let request = request(n, &model.handle, &references);
        alone.push(within("alone", generate(&server, request, &watch::Sender::new(0))).await);
        passes_of_longest = passes_of_longest.max(forward_passes(&server).await - before);
    }
    assert_eq!(alone[0].len(), LONGEST as usize);

    let before = forward_passes(&server).await;
    let first = watch::Sender::new(0usize);
    let together = join_all((0..STREAMS).map(|n| {
        let (server, first) = (&server, &first);
        let request = request(n, &model.handle, &references);
        async move {
            if n == 0 {
                return generate(server, request, first).await;
            }
            // Each joins when the first has this many tokens.
            first.subscribe().wait_for(|seen| *seen >= 12 * n).await.expect("it is held above");
            generate(server, request, &watch::Sender::new(0)).await
        }
    }));
    let together = within("together", together).await;
    let passes = forward_passes(&server).await - before;
    for (n, (alone, together)) in alone.iter().zip(&together).enumerate() {
        assert_eq!(alone, together, "stream {n}");
    }
    let most = passes_of_longest * 13 / 10;
    assert!(passes <= most, "{passes} forward passes; {passes_of_longest} alone, so {most} at most");
}
