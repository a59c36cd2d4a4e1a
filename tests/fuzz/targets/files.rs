//! Files of a model: its template, its tokenizer, and the headers of its weights. Each input becomes a model that is
//! added, loaded, asked, unloaded and removed.

use serde_json::json;

use super::file_languages;
use crate::harness::{Judged, LocalModel, Server, Verdict, post};
use crate::hostile_inputs::{gguf, templates, tokenizers, weights};
use crate::mutator::Language;
use crate::runner::{Target, run};

const HANDLE: &str = "mutated";

async fn whole_way(server: &Server, model: &LocalModel) -> Judged {
    let judged = loaded_and_asked(server, model).await;
    server.remove_local(HANDLE).await?;
    judged
}

async fn loaded_and_asked(server: &Server, model: &LocalModel) -> Judged {
    let loaded = server.add_and_load(model.path(), HANDLE).await?;
    if !loaded.is_taken() {
        return Ok(loaded);
    }
    let body = json!({"model": HANDLE, "max_tokens": 2, "temperature": 0, "messages": [
        {"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello, <|im_end|> é x!"}]});
    let answered = post(server, "/v1/chat/completions", &body).await?;
    let body =
        json!({"model": HANDLE, "max_tokens": 2, "temperature": 0, "prompt": "x aaaa é <|im_start|> \u{0}"});
    let read = post(server, "/v1/completions", &body).await?;
    Ok(if read.is_taken() { answered } else { Verdict { message: format!("{read}"), ..read } })
}

struct Template;

impl Target for Template {
    const NAME: &'static str = "template";

    fn language() -> &'static Language {
        &file_languages::JINJA
    }

    fn seeds() -> Vec<Vec<u8>> {
        templates::to_read()
            .into_iter()
            .chain(templates::to_run())
            .map(|(_, template)| template.into_bytes())
            .collect()
    }

    async fn ask(server: &Server, input: &[u8]) -> Judged {
        whole_way(server, &LocalModel::tiny().with("chat_template.jinja", input)).await
    }
}

struct Tokenizer;

impl Target for Tokenizer {
    const NAME: &'static str = "tokenizer";
    const MOST: usize = 2 << 20;

    fn language() -> &'static Language {
        &file_languages::TOKENIZER
    }

    fn seeds() -> Vec<Vec<u8>> {
        let all = tokenizers::all().into_iter().map(|(_, make)| make().into_bytes());
        all.filter(|input| input.len() <= Self::MOST).collect()
    }

    async fn ask(server: &Server, input: &[u8]) -> Judged {
        whole_way(server, &LocalModel::tiny().with("tokenizer.json", input)).await
    }
}

/// Inputs are headers, which the trained model's data follows.
struct Safetensors;

impl Target for Safetensors {
    const NAME: &'static str = "safetensors";

    fn language() -> &'static Language {
        &file_languages::SAFETENSORS
    }

    fn seeds() -> Vec<Vec<u8>> {
        let all = weights::safetensors().into_iter().map(|(_, make)| make());
        all.filter(|input| input.len() <= Self::MOST).collect()
    }

    async fn ask(server: &Server, input: &[u8]) -> Judged {
        let file = [input, &weights::tiny().1].concat();
        whole_way(server, &LocalModel::tiny().with("model.safetensors", file)).await
    }
}

/// Inputs are headers, which the trained model's data follows at the aligned offset.
struct Gguf;

impl Target for Gguf {
    const NAME: &'static str = "gguf";

    fn language() -> &'static Language {
        &file_languages::GGUF
    }

    fn seeds() -> Vec<Vec<u8>> {
        let all = weights::ggufs().into_iter().filter(|(name, _)| !name.contains("template"));
        all.map(|(_, make)| make()).filter(|input| input.len() <= 2 << 20).collect()
    }

    async fn ask(server: &Server, input: &[u8]) -> Judged {
        let mut file = input.to_vec();
        file.resize(file.len().next_multiple_of(32), 0);
        file.extend(gguf::tiny().1);
        whole_way(server, &LocalModel::gguf(&file)).await
    }
}

#[tokio::test]
async fn template() {
    run::<Template>().await;
}

#[tokio::test]
async fn tokenizer() {
    run::<Tokenizer>().await;
}

#[tokio::test]
async fn safetensors() {
    run::<Safetensors>().await;
}

#[tokio::test]
async fn gguf_header() {
    run::<Gguf>().await;
}
