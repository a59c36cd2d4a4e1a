//! A thousand different hostile inputs from fifty clients at once, beside eight answers.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use futures::future::join_all;
use millm_kit::Reason;
use serde_json::{Value, json};
use tokio::runtime::Handle;

use super::batch::{Batch, Wanted, chat};
use super::running::{answers, assert_same, other_answers};
use crate::harness::{Server, TINY, Verdict, post, post_bytes, within};
use crate::hostile_inputs::requests::{CHAT, COMPLETIONS, tool};
use crate::hostile_inputs::{grammars, schemas};

/// The number of inputs. `MILLM_CROWD` sets another number (`make soak`: a thousand).
const INPUTS: usize = 200;
fn inputs() -> usize {
    std::env::var("MILLM_CROWD").map_or(INPUTS, |number| number.parse().expect("a number"))
}

const CLIENTS: usize = 50;
const TAKEN: &str = "taken";

/// Returns the n-th input. No two are the same, so no cache helps.
fn input(n: usize) -> (&'static str, Value) {
    let schema = |schema: Value| chat("guided_json", schema);
    let refs = |n: usize| schemas::chain(650 + n, |next| next);
    // Only one input in twenty-five computes until its budget ends it. With more, fifty clients would wait for hours.
    let kind = if n % 100 < 20 || ![5, 6, 11, 12].contains(&(n % 20)) { n % 20 } else { 2 };
    let body = match kind {
        0 | 1 => schema(refs(n)),
        2 => schema(json!({"title": n, "type": "integer", "minimum": i64::MIN, "maximum": i64::MIN})),
        3 => schema(schemas::chain(300 + n, |next| json!({"type": "object", "properties": {"a": next}}))),
        4 => schema(schemas::chain(1_000 + n, |next| json!({"anyOf": [next, {"type": "null"}]}))),
        5 => schema(json!({"type": "integer", "multipleOf": 100_000_007 + n})),
        6 => {
            let patterns: Vec<Value> =
                ('a'..='t').map(|letter| json!({"pattern": format!(".*{letter}{n}.*")})).collect();
            schema(json!({"type": "string", "allOf": patterns}))
        }
        7 | 8 => chat("grammar", json!(grammars::rules(643 + n))),
        9 | 10 => chat("grammar", json!(grammars::terminals(762 + n))),
        11 => chat("grammar", json!(format!("start: p::0x0\np::_ : p::incr(_) p::incr(_) | \"b{n}\""))),
        12 => chat("guided_regex", json!("a?".repeat(20_000 + n))),
        13 => chat("guided_regex", json!(format!("{}a{}", "(".repeat(5_000 + n), ")".repeat(5_000 + n)))),
        14 => chat("guided_regex", json!(format!("(a|b)*a(a|b){{{}}}", 1_000 + n))),
        15 => {
            let mut body = chat("tools", json!([tool(&refs(n))]));
            body["tool_choice"] = json!("required");
            body
        }
        16 => {
            let mut body = chat("max_tokens", json!(1));
            body["messages"] = json!(vec![json!({"role": "user", "content": format!("{n}")}); 5_000 + n]);
            body
        }
        17 => chat("tools", json!(vec![tool(&json!({"description": "{{".repeat(1_000 + n)})); 100])),
        18 => {
            let arguments = format!("{{\"a\":{}{}}}", "[".repeat(100 + n), "]".repeat(100 + n));
            let call =
                json!({"id": "1", "type": "function", "function": {"name": "f", "arguments": arguments}});
            let mut body = chat("max_tokens", json!(1));
            body["messages"] = json!([{"role": "assistant", "tool_calls": [call]}]);
            body
        }
        _ => {
            let prompt = format!("lorem ipsum {n} ").repeat(20_000);
            return (COMPLETIONS, json!({"model": TINY, "prompt": prompt, "max_tokens": 1}));
        }
    };
    (CHAT, body)
}

/// Returns whether an answer is right: a success, a refusal of the input, or a request to repeat it later.
fn is_right(verdict: &Verdict) -> bool {
    use Reason::{ContextLengthExceeded, InvalidArgument, QueueFull, ServiceUnavailable};
    let right = [InvalidArgument, ContextLengthExceeded, QueueFull, ServiceUnavailable];
    verdict.reason.is_none_or(|reason| right.contains(&reason))
}

/// Returns the paths and bodies of all requests.
fn requests() -> Vec<(&'static str, Vec<u8>)> {
    (0..inputs()).map(input).map(|(path, body)| (path, body.to_string().into_bytes())).collect()
}

/// Sends all requests from a thread that yields to all others: the clients of a server have machines of their own, so their
/// work must not count as the server's. Returns the number of answers of each kind.
fn ask_all(server: &Server, requests: Vec<(&'static str, Vec<u8>)>) -> BTreeMap<String, usize> {
    // SAFETY: plain numbers; 0 is the calling thread.
    unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, 19) };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let next = RefCell::new(requests.into_iter().enumerate());
    let client = async || {
        let mut seen: BTreeMap<String, usize> = BTreeMap::new();
        loop {
            let Some((n, (path, body))) = next.borrow_mut().next() else { return seen };
            let judged = within(&format!("input {n}"), post_bytes(server, path, body)).await;
            let verdict = judged.unwrap_or_else(|why| panic!("input {n}: {why}"));
            assert!(is_right(&verdict), "input {n}: {verdict}");
            let reason = verdict.reason.map_or(TAKEN, Reason::name);
            *seen.entry(reason.to_owned()).or_default() += 1;
        }
    };
    let all = runtime.block_on(join_all((0..CLIENTS).map(|_| client())));
    let mut sum = BTreeMap::new();
    for (reason, count) in all.into_iter().flatten() {
        *sum.entry(reason).or_default() += count;
    }
    sum
}

/// Sets the flag when it is dropped, also by a panic.
struct Done<'a>(&'a AtomicBool);

impl Drop for Done<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_inputs_beside_eight_answers() {
    let mut batch = Batch::start().await;
    let (before, alone) = answers(&batch.server).await;
    other_answers(&batch.server).await;
    batch.is_warm();
    let done = AtomicBool::new(false);
    let server = &batch.server;
    let requests = requests();
    let crowd = || {
        let _done = Done(&done);
        let started = Instant::now();
        (ask_all(server, requests), started.elapsed())
    };
    let beside = async {
        let mut speeds = Vec::new();
        loop {
            let (now, speed) = answers(server).await;
            assert_same(&before, &now);
            if done.load(Ordering::Relaxed) && !speeds.is_empty() {
                return speeds;
            }
            speeds.push(speed);
        }
    };
    let ((seen, took), speeds) = tokio::task::block_in_place(|| {
        std::thread::scope(|scope| {
            let crowd = scope.spawn(crowd);
            let speeds = Handle::current().block_on(beside);
            (crowd.join().expect("every answer is right"), speeds)
        })
    });
    let speed = speeds.iter().sum::<f64>() / speeds.len() as f64;
    let inputs = inputs();
    println!("{inputs} inputs in {:.1} s: {seen:?}", took.as_secs_f64());
    println!("{speed:.0} tokens/s beside them, {alone:.0} without: {:.2}", speed / alone);
    assert_eq!(seen.values().sum::<usize>(), inputs);
    let taken = seen.get(TAKEN).copied().unwrap_or_default();
    assert!(taken < inputs / 2, "most of them are too much: {seen:?}");
    let last = input(2).1;
    let wanted = Wanted::TakenOrRefused("guided_json");
    batch.check("after it all", &wanted, async |server| post(server, CHAT, &last).await).await;
    batch.end().await;
}
