//! Answers that run beside hostile inputs: none breaks, and each equals the answer alone.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Instant;

use futures::future::{join, join_all};
use millm_proto::runtime::v1::generate_request::Prompt;
use millm_proto::runtime::v1::{GenerateRequest, constraint::Kind};

use super::batch::{Batch, Wanted, held, is_starved};
use crate::harness::{Server, Tiny, generate, greedy, within};
use crate::hostile_inputs::{grammars, schemas};

pub const ANSWERS: usize = 8;
const TOKENS: u32 = 1_000;
/// Clients that send hostile inputs meanwhile.
const DISTURBERS: usize = 3;

/// Returns the n-th request. Its prompt is its own, and its answer is long.
fn request(n: usize, references: &[Tiny]) -> GenerateRequest {
    let prompt = Prompt::Text(references[n].prompt.clone());
    GenerateRequest { ignore_eos: true, ..greedy(prompt, TOKENS) }
}

/// Returns the token ids of a whole answer, and the tokens per second after its first. An answer that breaks or ends
/// early is an error.
async fn answer(server: &Server, request: GenerateRequest) -> Result<(Vec<u32>, f64), String> {
    let mut stream =
        server.runtime().generate(request).await.map_err(|status| status.to_string())?.into_inner();
    let (mut ids, mut ended, mut began) = (Vec::new(), false, None);
    while let Some(message) =
        stream.message().await.map_err(|status| format!("after {}: {status}", ids.len()))?
    {
        began.get_or_insert_with(|| (message.token_ids.len(), Instant::now()));
        ids.extend(message.token_ids);
        ended |= message.end.is_some();
    }
    match began {
        Some((first, began)) if ended => {
            let speed = (ids.len() - first) as f64 / began.elapsed().as_secs_f64();
            Ok((ids, speed))
        }
        _ => Err(format!("no end after {} tokens", ids.len())),
    }
}

/// Runs as many other answers. Together with [`answers`] they use all of the KV cache once.
pub async fn other_answers(server: &Server) {
    let references = Tiny::references();
    let all = join_all((ANSWERS..2 * ANSWERS).map(|n| answer(server, request(n, &references))));
    assert!(within("the other answers", all).await.iter().all(Result::is_ok), "nothing disturbs them");
}

/// Runs all answers at the same time. Returns them, and their tokens per second together.
pub async fn answers(server: &Server) -> (Vec<Result<Vec<u32>, String>>, f64) {
    let references = Tiny::references();
    let all = join_all((0..ANSWERS).map(|n| answer(server, request(n, &references))));
    let all = within("the answers", all).await;
    let speed = all.iter().flatten().map(|(_, speed)| speed).sum();
    (all.into_iter().map(|answer| answer.map(|(ids, _)| ids)).collect(), speed)
}

/// Panics unless each answer is the same as before.
pub fn assert_same(before: &[Result<Vec<u32>, String>], now: &[Result<Vec<u32>, String>]) {
    for (n, (before, now)) in before.iter().zip(now).enumerate() {
        assert!(now.is_ok() && before == now, "answer {n}: {now:?} instead of {before:?}");
        assert_eq!(now.as_ref().map(Vec::len), Ok(TOKENS as usize), "answer {n}");
    }
}

/// Returns one input of each kind of harm, to be sent repeatedly.
fn hostile() -> Vec<(String, Kind)> {
    let schemas = schemas::all().into_iter().filter(|(name, _)| {
        ["650 $refs", "multipleOf 100000007", "twenty patterns in allOf", "minimum and maximum at -2^63"]
            .contains(name)
    });
    let mut kinds: Vec<(String, Kind)> =
        schemas.map(|(name, schema)| (name.to_owned(), Kind::JsonSchema(schema.to_string()))).collect();
    kinds.push(("20000 times a?".to_owned(), Kind::Regex("a?".repeat(20_000))));
    let larks = grammars::larks().into_iter().take(5);
    kinds.extend(larks.map(|(name, lark)| (name.to_owned(), Kind::Grammar(lark))));
    kinds
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn eight_answers_beside_hostile_inputs() {
    let mut batch = Batch::start().await;
    let (before, alone) = answers(&batch.server).await;
    let single = answer(&batch.server, request(3, &Tiny::references())).await.map(|(ids, _)| ids);
    assert_eq!(single, before[3], "an answer is the same in company");

    let (done, asked) = (AtomicBool::new(false), AtomicUsize::new(0));
    let kinds = hostile();
    let server = &batch.server;
    let disturb = async |first: usize| {
        for (name, kind) in kinds.iter().cycle().skip(first) {
            if done.load(Ordering::Relaxed) {
                return;
            }
            let started = Instant::now();
            let judged = within(name, generate(server, held(kind.clone()))).await;
            let verdict = judged.unwrap_or_else(|why| panic!("{name}: {why}"));
            let is_right = Wanted::TakenOrRefused("constraint").accepts(&verdict);
            assert!(is_right || is_starved(&verdict, started.elapsed()), "{name}: {verdict}");
            asked.fetch_add(1, Ordering::Relaxed);
        }
    };
    let beside = async {
        let all = answers(server).await;
        done.store(true, Ordering::Relaxed);
        all
    };
    let disturbing = join_all((0..DISTURBERS).map(|n| disturb(3 * n)));
    let ((now, speed), _) = join(beside, disturbing).await;
    assert_same(&before, &now);
    let asked = asked.into_inner();
    assert!(asked > 0, "nothing was asked beside the answers");
    println!(
        "{asked} hostile inputs; {speed:.0} tokens/s beside them, {alone:.0} without: {:.2}",
        speed / alone
    );
    let last = hostile().remove(0).1;
    batch
        .check("after it all", &Wanted::TakenOrRefused("constraint"), async |server| {
            generate(server, held(last)).await
        })
        .await;
    batch.end().await;
}
