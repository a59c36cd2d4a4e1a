//! Sandbox processes that are killed, hang or run out of memory in the middle of their work: the waiting request gets
//! a typed error, and the next one succeeds.

use std::time::{Duration, Instant};

use millm_kit::Reason;
use millm_proto::runtime::v1::GenerateRequest;
use millm_proto::runtime::v1::constraint::Kind;
use serde_json::json;

use super::batch::{Batch, Wanted, held, message};
use crate::harness::{
    Judged, LocalModel, ProcessTree, Role, Seen, Server, TINY, Verdict, everyday, generate, greedy,
    judge_status, within,
};
use crate::hostile_inputs::templates;

const SLOW: &str = "slow";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Harm {
    Kill,
    Stop,
    Starve,
}

impl Harm {
    fn does(self, victim: &Seen) {
        match self {
            Self::Kill => victim.signal(libc::SIGKILL),
            Self::Stop => victim.signal(libc::SIGSTOP),
            Self::Starve => victim.starve(),
        }
    }

    /// Returns whether a refusal fits the harm. A process that is stopped or out of memory may look like an input that
    /// is too much.
    fn explains(self, verdict: &Verdict) -> bool {
        let input = [Reason::InvalidArgument, Reason::InvalidModelFile];
        verdict.reason.is_some_and(|reason| {
            reason == Reason::ServiceUnavailable || self != Self::Kill && input.contains(&reason)
        })
    }
}

/// Returns a request for a long answer of letters. Its text begins soon and ends late.
fn letters() -> GenerateRequest {
    let request = held(Kind::Regex("[a-z ]{1600}".to_owned()));
    GenerateRequest { max_tokens: Some(1_600), ..request }
}

/// Runs an answer with a constraint, harms `victims` once its first text has arrived, and reads to the end.
async fn harmed_answer(server: &Server, harm: Harm, victims: impl AsyncFnOnce() -> Vec<Seen>) -> Judged {
    let mut stream = match server.runtime().generate(letters()).await {
        Ok(answer) => answer.into_inner(),
        Err(status) => return judge_status(&status),
    };
    let (mut text, mut ended) = (String::new(), false);
    let mut victims = Some(victims);
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
        if !text.is_empty()
            && let Some(victims) = victims.take()
        {
            for victim in &victims().await {
                harm.does(victim);
            }
        }
    }
}

/// Checks that the next request succeeds. If a helper hangs, the first request after that finds out and fails.
async fn serves_again(server: &Server, was_noticed: bool) -> Result<(), String> {
    let mut chances = if was_noticed { 1 } else { 2 };
    loop {
        let verdict =
            within("the next answer", generate(server, held(Kind::Regex("[a-z]{3}".into())))).await?;
        chances -= 1;
        match verdict.reason {
            None if verdict.message.len() == 3 => return within("an answer", everyday(server)).await,
            Some(Reason::ServiceUnavailable) if chances > 0 => {}
            _ => return Err(format!("the next gets {verdict}")),
        }
    }
}

/// Harms the fork that follows an answer: the answer ends with a typed error.
async fn forks_of_an_answer(harm: Harm) {
    let batch = Batch::start().await;
    let (server, tree) = (&batch.server, &batch.tree);
    let judged = within("the harmed answer", harmed_answer(server, harm, || tree.first_forks())).await;
    let verdict = judged.expect("a typed end");
    println!("{harm:?} to the forks: {verdict}");
    assert!(harm.explains(&verdict), "{harm:?}: {verdict}");
    serves_again(server, true).await.expect("the next is served");
    batch.settle().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fork_is_killed_in_an_answer() {
    forks_of_an_answer(Harm::Kill).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fork_is_stopped_in_an_answer() {
    forks_of_an_answer(Harm::Stop).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fork_is_starved_in_an_answer() {
    let batch = Batch::start().await;
    let (server, tree) = (&batch.server, &batch.tree);
    let judged =
        within("the harmed answer", harmed_answer(server, Harm::Starve, || tree.first_forks())).await;
    let verdict = judged.expect("a typed end");
    println!("starved: {verdict}");
    // The memory that it has may be enough for the rest.
    let whole = verdict.is_taken() && verdict.message.chars().count() > 1_000;
    assert!(whole || Harm::Starve.explains(&verdict), "{verdict}");
    serves_again(server, true).await.expect("the next is served");
    batch.settle().await;
}

async fn helpers_of_an_answer(harm: Harm) {
    let batch = Batch::start().await;
    let (server, tree) = (&batch.server, &batch.tree);
    let victims = async || {
        let helpers = tree.helpers();
        assert!(!helpers.is_empty(), "a loaded model has a helper");
        helpers
    };
    let judged = within("the harmed answer", harmed_answer(server, harm, victims)).await;
    let verdict = judged.expect("a typed end");
    println!("{harm:?} to the helper: {verdict}");
    assert!(verdict.is_taken() || harm.explains(&verdict), "{harm:?}: {verdict}");
    serves_again(server, !verdict.is_taken()).await.expect("the next is served");
    batch.settle().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_helper_is_killed_in_an_answer() {
    helpers_of_an_answer(Harm::Kill).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_helper_is_stopped_in_an_answer() {
    helpers_of_an_answer(Harm::Stop).await;
}

/// Waits for forks that work on a long prompt, up to a deadline: no event tells when one begins.
async fn busy_forks(tree: &ProcessTree) -> Vec<Seen> {
    let started = Instant::now();
    loop {
        let busy: Vec<Seen> = tree.forks().into_iter().filter(|seen| seen.state == 'R').collect();
        if !busy.is_empty() {
            return busy;
        }
        assert!(
            started.elapsed() < Duration::from_secs(60),
            "no helper worked; {:?}",
            tree.sandbox_processes()
        );
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// Sends a prompt that takes long, and harms the forks that work on it, or their helpers.
async fn harmed_prompt(harm: Harm, is_helper: bool) {
    let batch = Batch::start().await;
    let (server, tree) = (&batch.server, &batch.tree);
    let template = if harm == Harm::Starve { templates::growing_steps() } else { templates::slow_steps() };
    let model = LocalModel::tiny().with("chat_template.jinja", template);
    let loaded = server.add_and_load(model.path(), SLOW).await.expect("a typed answer");
    assert!(loaded.is_taken(), "{loaded}");
    let request = GenerateRequest { model: SLOW.to_owned(), ..greedy(message("Hello!".into()), 4) };
    let asked = within("the harmed prompt", generate(server, request));
    let harming = async {
        let busy = busy_forks(tree).await;
        // Only processes of this model: the other model's helper is not harmed.
        let victims = if is_helper {
            let parents: Vec<u32> = busy.iter().map(|seen| seen.parent).collect();
            tree.helpers().into_iter().filter(|seen| parents.contains(&seen.id)).collect()
        } else {
            busy
        };
        assert!(!victims.is_empty(), "nobody to harm: {:?}", tree.sandbox_processes());
        for victim in &victims {
            harm.does(victim);
        }
    };
    let (judged, ()) = tokio::join!(asked, harming);
    let verdict = judged.expect("a typed end");
    println!("{harm:?} in a prompt, helper: {is_helper}: {verdict}");
    // A fork whose helper has ended may continue until the template's time is up.
    let too_much = [Reason::InvalidArgument, Reason::InvalidModelFile];
    let own_end = is_helper && verdict.reason.is_some_and(|reason| too_much.contains(&reason));
    assert!(own_end || harm.explains(&verdict), "{harm:?}: {verdict}");

    // The same model still answers a prompt that needs no template.
    let text = millm_proto::runtime::v1::generate_request::Prompt::Text("Hello!".to_owned());
    let next = GenerateRequest { model: SLOW.to_owned(), ..greedy(text, 4) };
    let mut chances = if is_helper { 2 } else { 1 };
    loop {
        let verdict = within("the next", generate(server, next.clone())).await.expect("a typed end");
        chances -= 1;
        let again = chances > 0 && verdict.reason == Some(Reason::ServiceUnavailable);
        assert!(verdict.is_taken() || again, "the next gets {verdict}");
        if verdict.is_taken() {
            break;
        }
    }
    server.remove_local(SLOW).await.expect("it can be removed");
    batch.settle().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fork_is_killed_in_a_prompt() {
    harmed_prompt(Harm::Kill, false).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fork_is_stopped_in_a_prompt() {
    harmed_prompt(Harm::Stop, false).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fork_is_starved_in_a_prompt() {
    harmed_prompt(Harm::Starve, false).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_helper_is_killed_in_a_prompt() {
    harmed_prompt(Harm::Kill, true).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_helper_is_stopped_in_a_prompt() {
    harmed_prompt(Harm::Stop, true).await;
}

/// Waits until none of the processes runs any more, up to a deadline: no event tells when they end.
async fn until_gone(helpers: &[Seen]) {
    let started = Instant::now();
    while helpers.iter().any(Seen::is_alive) {
        assert!(started.elapsed() < Duration::from_secs(30), "they stay: {helpers:?}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn helpers_end_with_their_model_and_their_server() {
    let mut batch = Batch::start().await;
    let first = batch.tree.helpers();
    assert!(!first.is_empty(), "a loaded model has a helper");
    batch.server.unload().await;
    until_gone(&first).await;
    assert_eq!(batch.tree.sandbox_processes(), [], "nothing is loaded");

    batch.server.load(TINY).await;
    let body = json!({"model": TINY, "prompt": "Hello!", "stream": true, "max_tokens": 1_500,
        "guided_regex": "[a-z ]{1600}"});
    let running = batch.server.rest().open("/v1/completions", &body).await;
    assert_eq!(running.status(), 200);
    let helpers = batch.tree.sandbox_processes();
    assert!(!helpers.is_empty(), "a held answer has a helper");
    batch.server.kill(Role::Runtime).await;
    until_gone(&helpers).await;
}

/// The work ends when its client disconnects.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn work_ends_when_the_client_leaves() {
    let mut batch = Batch::start().await;
    let request = held(Kind::JsonSchema(json!({"type": "integer", "multipleOf": 100_000_007}).to_string()));
    let tree = batch.tree.clone();
    let forks = {
        let asked = generate(&batch.server, request.clone());
        let (mut asked, mut busy) = (std::pin::pin!(asked), std::pin::pin!(busy_forks(&tree)));
        tokio::select! {
            judged = &mut asked => panic!("it was no work: {judged:?}"),
            forks = &mut busy => forks,
        }
    };
    until_gone(&forks).await;
    let wanted = Wanted::TakenOrRefused("constraint");
    batch.check("the same again", &wanted, async |server| generate(server, request).await).await;
    batch.end().await;
}
