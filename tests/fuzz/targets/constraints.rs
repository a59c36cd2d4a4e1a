//! Schemas, regular expressions and Lark grammars of requests.

use serde_json::{Value, json};

use super::languages;
use crate::harness::{Judged, Server, TINY, post};
use crate::hostile_inputs::{grammars, schemas};
use crate::mutator::Language;
use crate::runner::{Target, run};

async fn held(server: &Server, field: &str, input: &[u8]) -> Judged {
    let mut body = json!({"model": TINY, "prompt": "Hello!", "max_tokens": 8, "temperature": 0});
    body[field] = Value::from(String::from_utf8_lossy(input));
    post(server, "/v1/completions", &body).await
}

struct Schema;

impl Target for Schema {
    const NAME: &'static str = "schema";

    fn language() -> &'static Language {
        &languages::JSON_SCHEMA
    }

    fn seeds() -> Vec<Vec<u8>> {
        schemas::all().into_iter().map(|(_, schema)| schema.to_string().into_bytes()).collect()
    }

    async fn ask(server: &Server, input: &[u8]) -> Judged {
        held(server, "json_schema", input).await
    }
}

struct Regex;

impl Target for Regex {
    const NAME: &'static str = "regex";

    fn language() -> &'static Language {
        &languages::REGEX
    }

    fn seeds() -> Vec<Vec<u8>> {
        grammars::regexes().into_iter().map(|(_, regex)| regex.into_bytes()).collect()
    }

    async fn ask(server: &Server, input: &[u8]) -> Judged {
        held(server, "guided_regex", input).await
    }
}

struct Lark;

impl Target for Lark {
    const NAME: &'static str = "lark";

    fn language() -> &'static Language {
        &languages::LARK
    }

    fn seeds() -> Vec<Vec<u8>> {
        grammars::larks().into_iter().map(|(_, lark)| lark.into_bytes()).collect()
    }

    async fn ask(server: &Server, input: &[u8]) -> Judged {
        held(server, "grammar", input).await
    }
}

#[tokio::test]
async fn schema() {
    run::<Schema>().await;
}

#[tokio::test]
async fn regex() {
    run::<Regex>().await;
}

#[tokio::test]
async fn lark() {
    run::<Lark>().await;
}
