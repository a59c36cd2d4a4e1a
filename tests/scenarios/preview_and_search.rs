//! Search, preview and dry run, over REST and the command line.

use fake_hub::{RepoSpec, RunningHub};
use millm_kit::Reason;
use millm_proto::catalog::v1::Quantization;
use serde_json::{Value, json};

use crate::harness::{Fixture, Layout, Options, Server, fixture, hub, in_both_layouts};

in_both_layouts!(
    a_preview_is_what_the_model_becomes,
    a_dry_run_says_what_would_refuse,
    repositories_are_found,
);

const LIAR: &str = "liar/tiny-70b";

/// Starts a hub with the tiny model under a misleading name, whose API does not describe its weights.
fn liar() -> RunningHub {
    let hub = hub(&[]);
    let repo = RepoSpec::folder(LIAR, &fixture("tiny-millm")).unwrap();
    hub.add_repo(repo.info("safetensors", Value::Null)).unwrap();
    hub
}

async fn a_preview_is_what_the_model_becomes(layout: Layout) {
    let hub = liar();
    let server = Server::start(layout, Options::with_hub(hub.url())).await;
    let body = json!({ "repo_id": LIAR });
    let preview = server.rest().post("/api/models/preview", &body).await.data();
    assert_eq!(preview["obstacles"], json!([]));
    let said = server.cli().run(&["preview", LIAR, "--json"]).await.json();
    for field in ["parameter_count", "commit", "supported", "download_size_bytes", "files"] {
        assert_eq!(said[field], preview[field], "{field}");
    }
    let text = server.cli().run(&["preview", LIAR]).await.ok();
    assert!(text.contains(&format!("({})", preview["parameter_count"])), "{text}");
    let weights: Vec<_> =
        hub.log().into_iter().filter(|entry| entry.path.ends_with(".safetensors")).collect();
    assert!(!weights.is_empty() && weights.iter().all(|entry| entry.range.is_some()), "{weights:?}");
    let size = preview["download_size_bytes"].as_u64().unwrap();
    assert!(weights.iter().all(|entry| entry.bytes_sent < size / 3), "{weights:?}");

    let model = server.pull(LIAR, Quantization::Q4).await;
    assert_eq!(preview["parameter_count"], model.parameter_count);
    let estimated = &preview["estimated_sizes"]["Q4"];
    let shown = server.rest().get(&format!("/api/models/{}", model.id)).await.data();
    assert_eq!(shown["estimated_memory_bytes"], estimated["memory_bytes"], "the card");
    let memory = server.rest().get(&format!("/api/models/{}/memory", model.id)).await.data();
    assert_eq!(memory["total_bytes"], estimated["memory_bytes"], "before it is loaded");
    let again = server.rest().post("/api/models/preview", &body).await.data();
    assert_eq!(again["estimated_sizes"]["Q4"]["model_id"], model.id);
    assert_eq!(again["obstacles"][0]["code"], "MODEL_ALREADY_EXISTS");
}

async fn a_dry_run_says_what_would_refuse(layout: Layout) {
    let hub = hub(&[Fixture::Tiny, Fixture::CustomCode, Fixture::Pickle, Fixture::Enormous]);
    let server = Server::start(layout, Options::with_hub(hub.url())).await;
    let dry = server.cli().run(&["pull", "millm/tiny-millm", "-q", "Q8", "--dry-run", "--json"]).await;
    assert_eq!(dry.json()["obstacles"], json!([]));
    assert!(dry.json()["available_disk_bytes"].as_i64() > Some(0));
    let text = server.cli().run(&["pull", "millm/tiny-millm", "-q", "Q8", "--dry-run"]).await.ok();
    assert!(text.lines().any(|line| line.starts_with("Q8") && line.ends_with('<')), "{text}");
    for (repo, reason) in [
        ("acme/custom", Reason::RemoteCodeRequired),
        ("acme/pickle", Reason::InvalidModelFile),
        ("acme/enormous", Reason::InsufficientDisk),
    ] {
        let dry = server.cli().run(&["pull", repo, "--dry-run", "--json"]).await;
        let real = server.cli().run(&["pull", repo, "--json"]).await;
        assert_eq!((dry.code, real.code), (1, 1), "{dry:?}");
        let last =
            |text: &str| -> Value { serde_json::from_str(text.trim_end().lines().last().unwrap()).unwrap() };
        assert_eq!(last(&dry.stdout)["error"]["code"], reason.name(), "{dry:?}");
        assert_eq!(last(&real.stdout)["error"]["code"], reason.name(), "{real:?}");
    }
    server.cli().run(&["pull", "acme/custom", "--dry-run", "--trust-remote-code"]).await.ok();
    assert_eq!(server.rest().get("/api/models").await.data(), json!([]), "nothing was registered");
}

async fn repositories_are_found(layout: Layout) {
    let hub = hub(&[Fixture::Tiny, Fixture::TinyGguf, Fixture::Unsupported, Fixture::Gated]);
    let server = Server::start(layout, Options::with_hub(hub.url())).await;
    let found = server.rest().get("/api/search?q=TINY&sort=downloads").await.data();
    let ids: Vec<&str> =
        found.as_array().unwrap().iter().map(|repo| repo["repo_id"].as_str().unwrap()).collect();
    assert_eq!(ids, ["millm/tiny-gguf", "millm/tiny-millm"]);
    assert_eq!((&found[1]["supported"], &found[1]["is_gated"]), (&json!(true), &json!(false)));
    let said = server.cli().run(&["search", "TINY", "--sort", "downloads", "--json"]).await.json();
    assert_eq!(said, found);
    let table = server.cli().run(&["search", "--author", "acme"]).await.ok();
    assert!(table.contains("acme/gated") && table.contains("yes, gated"), "{table}");
    assert!(table.lines().any(|line| line.contains("acme/mamba") && line.contains(" no ")), "{table}");
    let nothing = server.cli().run(&["search", "nothing-like-it"]).await;
    assert_eq!((nothing.code, nothing.stdout.as_str()), (0, ""));
    assert_eq!(server.rest().get("/api/search?q=").await.status, 400);
    assert_eq!(server.cli().run(&["search"]).await.code, 2);
    assert_eq!(server.cli().run(&["search", "a", "--sort", "size"]).await.code, 2);
}
