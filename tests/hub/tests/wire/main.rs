//! The fake hub over the wire: each row of the protocol, and each fault.

mod faults;
mod protocol;

use std::sync::Once;
use std::time::Duration;

use fake_hub::{Content, Gated, Hub, HubBuilder, RepoSpec};
use reqwest::redirect::Policy;
use reqwest::{Client, Response};
use serde_json::Value;

/// The timeout of each answer, so that a hang fails.
const DEADLINE: Duration = Duration::from_secs(30);
const MEMBER: &str = "hf_member";
const CONFIG: &str = r#"{"architectures":["LlamaForCausalLM"],"model_type":"llama"}"#;
/// Bytes of `o/open`'s LFS file.
const SIZE: u64 = 1_000_000;

/// Returns a client that follows no redirects, so that tests see each answer.
fn client() -> Client {
    static PROVIDER: Once = Once::new();
    PROVIDER.call_once(|| {
        rustls::crypto::ring::default_provider().install_default().expect("installed once");
    });
    Client::builder().redirect(Policy::none()).timeout(DEADLINE).build().unwrap()
}

fn builder() -> HubBuilder {
    let open = RepoSpec::new("o/open")
        .file("config.json", CONFIG)
        .file("sub/a.txt", "a")
        .file("sub/deep/b.txt", "b")
        .file("weights.bin", Content::noise(1, SIZE))
        .branch("v1", vec![("config.json".into(), "{}".into())]);
    let gated = RepoSpec::new("o/gated").file("config.json", CONFIG).gated(Gated::Auto).access(MEMBER);
    let private = RepoSpec::new("o/private").file("config.json", CONFIG).private().access(MEMBER);
    let data = RepoSpec::new("o/data").file("rows.csv", "text\n1\n").dataset();
    Hub::builder().repo(open).repo(gated).repo(private).repo(data)
}

/// The bytes of `o/open`'s LFS file.
async fn weights(url: &str) -> Vec<u8> {
    let link = link(url).await;
    client().get(link).send().await.unwrap().bytes().await.unwrap().to_vec()
}

/// A signed link to `o/open`'s LFS file.
async fn link(url: &str) -> String {
    let answer = get(&format!("{url}/o/open/resolve/main/weights.bin")).await;
    assert_eq!(answer.status(), 302);
    header(&answer, "location")
}

async fn get(url: &str) -> Response {
    client().get(url).send().await.unwrap()
}

async fn get_range(url: &str, range: &str) -> Response {
    client().get(url).header("Range", range).send().await.unwrap()
}

async fn get_as(token: &str, url: &str) -> Response {
    client().get(url).bearer_auth(token).send().await.unwrap()
}

async fn json(url: &str) -> Value {
    let answer = get(url).await;
    assert_eq!(answer.status(), 200, "{url}");
    answer.json().await.unwrap()
}

/// Returns a header's value, or an empty text if it is absent.
fn header(answer: &Response, name: &str) -> String {
    answer.headers().get(name).map(|value| value.to_str().unwrap().to_owned()).unwrap_or_default()
}
