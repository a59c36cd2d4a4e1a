//! Hostile files: chat templates in every place, tokenizers, headers of weights. Each model is added and loaded on
//! the command line, asked, and removed.

use serde_json::{Value, json};

use super::batch::{Batch, Wanted, message};
use crate::harness::{Judged, LocalModel, Server, fixture, generate, greedy, post};
use crate::hostile_inputs::requests::{CHAT, COMPLETIONS};
use crate::hostile_inputs::{gguf, templates, tokenizers, weights};
use millm_proto::runtime::v1::generate_request::Prompt;

const HANDLE: &str = "hostile";
const TEMPLATE: &str = "chat_template.jinja";
/// A template that exceeds a budget with these messages is an error of the messages, too. It may also render nothing.
const TEMPLATES: Wanted = Wanted::Typed(&["messages", "prompt"]);
/// The model is asked with messages and with a text.
const TOKENIZERS: Wanted = Wanted::Typed(&["messages", "prompt"]);

/// Adds and loads a model, asks it with messages and with a text of x, and removes it. Returns the first refusal, or
/// the last answer.
async fn whole_way(server: &Server, model: &LocalModel, by_cli: bool) -> Judged {
    let judged = asked(server, model, by_cli).await;
    server.remove_local(HANDLE).await?;
    judged
}

async fn asked(server: &Server, model: &LocalModel, by_cli: bool) -> Judged {
    let loaded = if by_cli {
        server.add_and_load_by_cli(model.path(), HANDLE).await?
    } else {
        server.add_and_load(model.path(), HANDLE).await?
    };
    if !loaded.is_taken() {
        return Ok(loaded);
    }
    let body = json!({"model": HANDLE, "max_tokens": 4, "temperature": 0,
        "messages": [{"role": "user", "content": "Hello!"}]});
    let answered = post(server, CHAT, &body).await?;
    if !answered.is_taken() {
        return Ok(answered);
    }
    let body = json!({"model": HANDLE, "max_tokens": 4, "temperature": 0, "prompt": "x"});
    post(server, COMPLETIONS, &body).await
}

/// Returns a `tokenizer_config.json` with this template, or with a list that has it.
fn tokenizer_config(template: &str, is_listed: bool) -> String {
    let text = std::fs::read(fixture("tiny-millm/tokenizer_config.json")).expect("it is there");
    let mut config: Value = serde_json::from_slice(&text).expect("it is JSON");
    config["chat_template"] =
        if is_listed { json!([{"name": "default", "template": template}]) } else { json!(template) };
    config.to_string()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn templates_to_read() {
    let mut batch = Batch::start().await;
    for (n, (name, template)) in templates::to_read().into_iter().enumerate() {
        let model = match n % 3 {
            0 => LocalModel::tiny().with(TEMPLATE, &template),
            1 => LocalModel::tiny()
                .without(TEMPLATE)
                .with("tokenizer_config.json", tokenizer_config(&template, false)),
            _ => LocalModel::tiny()
                .without(TEMPLATE)
                .with("tokenizer_config.json", tokenizer_config(&template, true)),
        };
        let by_cli = n % 2 == 0;
        batch.check(name, &TEMPLATES, async |server| whole_way(server, &model, by_cli).await).await;
    }
    batch.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn templates_to_run() {
    let mut batch = Batch::start().await;
    for (n, (name, template)) in templates::to_run().into_iter().enumerate() {
        let model = LocalModel::tiny().with(TEMPLATE, &template);
        batch.check(name, &TEMPLATES, async |server| whole_way(server, &model, n == 0).await).await;
    }
    batch.end().await;
}

/// Each rendering that is stopped frees its memory, however often.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_template_that_is_stopped_again_and_again() {
    let mut batch = Batch::start().await;
    let (name, template) = templates::to_run().swap_remove(0);
    let model = LocalModel::tiny().with(TEMPLATE, &template);
    batch.server.add_and_load(model.path(), HANDLE).await.expect("a typed answer");
    for n in 0..12 {
        // The message differs each time, so no cached result helps.
        let mut request = greedy(message(format!("Hello {n}!")), 4);
        request.model = HANDLE.to_owned();
        let wanted = Wanted::Typed(&["messages"]);
        batch.check(&format!("{name}, {n}"), &wanted, async |server| generate(server, request).await).await;
    }
    batch.server.remove_local(HANDLE).await.expect("it can be removed");
    batch.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tokenizer_files() {
    let mut batch = Batch::start().await;
    for (n, (name, tokenizer)) in tokenizers::all().into_iter().enumerate() {
        let model = LocalModel::tiny().with("tokenizer.json", tokenizer());
        let by_cli = n % 2 == 0;
        batch.check(name, &TOKENIZERS, async |server| whole_way(server, &model, by_cli).await).await;
    }
    batch.end().await;
}

/// Sends texts to a hostile tokenizer over gRPC. The model is loaded once and asked twice.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tokenizer_that_multiplies() {
    let mut batch = Batch::start().await;
    let (name, tokenizer) = tokenizers::all()[0];
    let model = LocalModel::tiny().with("tokenizer.json", tokenizer());
    batch.server.add_and_load(model.path(), HANDLE).await.expect("a typed answer");
    for text in ["x", "xx", "a"] {
        let mut request = greedy(Prompt::Text(text.to_owned()), 2);
        request.model = HANDLE.to_owned();
        let name = format!("{name}: {text}");
        batch.check(&name, &Wanted::Typed(&["prompt"]), async |server| generate(server, request).await).await;
    }
    batch.server.remove_local(HANDLE).await.expect("it can be removed");
    batch.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn headers_of_weights() {
    let mut batch = Batch::start().await;
    for (name, bytes) in weights::safetensors() {
        let model = LocalModel::tiny().with("model.safetensors", bytes());
        // Metadata beside the model's own tensors may be accepted.
        let wanted = if name.contains("beside") || name.contains("remarks") {
            Wanted::Typed(&[])
        } else {
            Wanted::BadFile
        };
        batch.check(name, &wanted, async |server| whole_way(server, &model, true).await).await;
    }
    let (name, bytes) = weights::safetensors()[0];
    let model = LocalModel::tiny().with("model.safetensors", bytes());
    let body = json!({"source": "local", "local_path": model.path(), "custom_name": HANDLE});
    let ask = async |server: &Server| post(server, "/api/models", &body).await;
    batch.check(&format!("REST: {name}"), &Wanted::BadFile, ask).await;
    for (name, bytes) in weights::ggufs() {
        let model = LocalModel::gguf(&bytes());
        let wanted = if name.contains("template") { TEMPLATES } else { Wanted::BadFile };
        batch.check(name, &wanted, async |server| whole_way(server, &model, true).await).await;
    }
    batch.end().await;
}

/// Sends valid files through the same steps as the hostile ones.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn good_files_go_the_same_way() {
    let template = std::fs::read_to_string(fixture("tiny-millm/chat_template.jinja")).expect("it is there");
    let models = [
        LocalModel::tiny(),
        LocalModel::tiny().without(TEMPLATE).with("tokenizer_config.json", tokenizer_config(&template, true)),
        LocalModel::tiny().with("tokenizer.json", tokenizers::tiny().to_string()),
        LocalModel::gguf(&gguf::tiny_with_template(&template)),
    ];
    let mut batch = Batch::start().await;
    for (n, model) in models.iter().enumerate() {
        let ask = async |server: &_| {
            let verdict = whole_way(server, model, n % 2 == 0).await?;
            if verdict.is_taken() { Ok(verdict) } else { Err(format!("refused: {verdict}")) }
        };
        batch.check(&format!("good files, {n}"), &Wanted::Typed(&[]), ask).await;
    }
    batch.end().await;
}
