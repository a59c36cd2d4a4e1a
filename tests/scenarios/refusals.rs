//! Refusals have the same reason over REST, gRPC and the command line.

use millm_kit::{Reason, ServiceError};
use millm_proto::catalog::v1::Quantization;
use millm_proto::downloader::v1::{HubSource, PreviewModelRequest, download::State};
use millm_proto::runtime::v1::generate_request::Prompt;
use millm_proto::runtime::v1::{GenerateRequest, LoadModelRequest, LoadState};
use serde_json::{Value, json};

use crate::harness::{Fixture, Layout, Options, Server, fixture, hub, in_both_layouts, is_final, model_hub};

in_both_layouts!(
    repositories_are_refused,
    unknown_models_are_refused,
    too_little_memory_is_refused,
    prompts_are_refused,
    foreign_hosts_are_refused,
);

/// A repository, the token for it, and the reason for its refusal.
struct Refused {
    repo: &'static str,
    token: &'static str,
    reason: Reason,
    /// A part of the message.
    says: &'static str,
}

const fn refused(repo: &'static str, token: &'static str, reason: Reason, says: &'static str) -> Refused {
    Refused { repo, token, reason, says }
}

const REFUSED: [Refused; 11] = [
    refused("acme/none", "", Reason::RepoNotFound, "acme/none"),
    refused("acme/gated", "", Reason::GatedModelNoToken, "acme/gated"),
    refused("acme/gated", "hf_wrong", Reason::InvalidHfToken, "token"),
    refused("acme/gated", fake_hub::READER_TOKEN, Reason::GatedModelNoAccess, "acme/gated"),
    refused("a--b", "", Reason::InvalidRepoId, "owner/name"),
    refused("../etc", "", Reason::InvalidRepoId, "owner/name"),
    refused("a/b/c", "", Reason::InvalidRepoId, "owner/name"),
    refused("acme/pickle", "", Reason::InvalidModelFile, "pytorch_model.bin"),
    refused("acme/mamba", "", Reason::UnsupportedArchitecture, "LlamaForCausalLM"),
    refused("acme/custom", "", Reason::RemoteCodeRequired, "never runs"),
    refused("acme/enormous", "", Reason::InsufficientDisk, "Insufficient disk space. Need"),
];

/// Returns a message without the free disk space, which changes from one call to the next.
fn settled(message: &str) -> &str {
    message.split(" only ").next().unwrap_or(message)
}

async fn repositories_are_refused(layout: Layout) {
    let hub =
        hub(&[Fixture::Gated, Fixture::Pickle, Fixture::Unsupported, Fixture::CustomCode, Fixture::Enormous]);
    let server = Server::start(layout, Options::with_hub(hub.url())).await;
    for case in &REFUSED {
        let Refused { repo, token, reason, says } = case;
        // gRPC refuses the request at once, or the download fails.
        let source = HubSource { repo_id: (*repo).into(), hf_token: (*token).into(), ..HubSource::default() };
        let error = match server.start_pull(source, Quantization::Q4).await {
            Err(status) => ServiceError::from(&status),
            Ok(started) => {
                let end = server.watch_until(started.model_id, is_final).await;
                assert_eq!(end.state(), State::Failed, "{repo}");
                ServiceError::from_rpc(&end.error.expect("a reason"))
            }
        };
        assert_eq!(error.reason, *reason, "{repo}: {error}");
        assert!(error.message.contains(says), "{repo}: {error}");

        let mut body = json!({ "source": "huggingface", "repo_id": repo, "quantization": "Q4" });
        if !token.is_empty() {
            body["hf_token"] = json!(token);
        }
        let answer = server.rest().post("/api/models", &body).await;
        assert_eq!((answer.status, answer.code()), (reason.http_status(), reason.name()), "{}", answer.text);
        assert_eq!((&answer.json["success"], &answer.json["data"]), (&json!(false), &Value::Null));
        assert_eq!(settled(answer.message()), settled(&error.message), "{repo}");

        let outcome = server.cli().env("HF_TOKEN", token).run(&["pull", repo, "--json"]).await;
        assert_eq!(outcome.code, 1, "{repo}: {outcome:?}");
        assert_eq!(outcome.json()["error"]["code"], reason.name(), "{repo}: {outcome:?}");
        assert!(outcome.stderr.contains(settled(&error.message)), "{repo}: {outcome:?}");
    }
    assert_eq!(server.rest().get("/api/models").await.data(), json!([]), "nothing was registered");
    let request = PreviewModelRequest { repo_id: "acme/none".into(), ..PreviewModelRequest::default() };
    let status = server.downloader().preview_model(request).await.unwrap_err();
    assert_eq!(ServiceError::from(&status).reason, Reason::RepoNotFound);
}

async fn unknown_models_are_refused(layout: Layout) {
    let server = Server::start(layout, Options::default()).await;
    let status = server.model("nobody").await.unwrap_err();
    let error = ServiceError::from(&status);
    assert_eq!((error.reason, error.message.as_str()), (Reason::ModelNotFound, "Model not found: 'nobody'."));
    for (method, path) in
        [("get", ""), ("delete", ""), ("post", "/load"), ("post", "/unload"), ("post", "/cancel")]
    {
        let path = format!("/api/models/99{path}");
        let answer = match method {
            "get" => server.rest().get(&path).await,
            "delete" => server.rest().delete(&path).await,
            _ => server.rest().post(&path, &json!({})).await,
        };
        assert_eq!(
            (answer.status, answer.code()),
            (404, "MODEL_NOT_FOUND"),
            "{method} {path}: {}",
            answer.text
        );
    }
    let body = json!({ "model": "nobody", "messages": [{ "role": "user", "content": "Hello!" }] });
    let answer = server.rest().post("/v1/chat/completions", &body).await;
    assert_eq!(answer.status, 404, "{}", answer.text);
    for command in ["load", "show", "run"] {
        let outcome = server.cli().run(&[command, "nobody"]).await;
        assert_eq!(outcome.code, 1, "{outcome:?}");
        assert!(outcome.stderr.contains("Model not found: 'nobody'."), "{outcome:?}");
    }
}

/// A model whose config announces a context of sixty million tokens.
async fn too_little_memory_is_refused(layout: Layout) {
    let server = Server::start(layout, Options::default()).await;
    let own = server.folder().join("far");
    std::fs::create_dir(&own).unwrap();
    for entry in std::fs::read_dir(fixture("tiny-millm")).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), own.join(entry.file_name())).unwrap();
    }
    let config = std::fs::read_to_string(own.join("config.json")).unwrap();
    let far = config.replace("\"max_position_embeddings\": 2048", "\"max_position_embeddings\": 60000000");
    assert_ne!(config, far);
    std::fs::write(own.join("config.json"), far).unwrap();
    server.add(&own, "far").await;
    let request = LoadModelRequest { model: "far".into(), context_length: 60_000_000, ..Default::default() };
    let error = match server.runtime().load_model(request).await {
        Err(status) => ServiceError::from(&status),
        Ok(answer) => {
            let mut stream = answer.into_inner();
            loop {
                match stream.message().await {
                    Ok(Some(progress)) if progress.state() == LoadState::Failed => {
                        break ServiceError::from_rpc(&progress.error.expect("a reason"));
                    }
                    Ok(Some(_)) => {}
                    Ok(None) => panic!("it ended well"),
                    Err(status) => break ServiceError::from(&status),
                }
            }
        }
    };
    assert_eq!(error.reason, Reason::InsufficientMemory, "{error}");
    assert!(error.message.starts_with("Model requires ~"), "{error}");
    assert!(server.loaded().await.is_none());
    let outcome = server.cli().run(&["load", "far", "--context-length", "60000000"]).await;
    assert_eq!(outcome.code, 1, "{outcome:?}");
    assert!(outcome.stderr.contains("Model requires ~"), "{outcome:?}");
}

async fn prompts_are_refused(layout: Layout) {
    let hub = model_hub();
    let server = Server::start(layout, Options::with_hub(hub.url())).await;
    let model = server.pull("millm/tiny-millm", Quantization::Q4).await.handle;
    let ask = |text: &str| json!({ "model": model, "messages": [{ "role": "user", "content": text }] });
    let generate = |text: &str| GenerateRequest {
        model: model.clone(),
        prompt: Some(Prompt::Text(text.to_owned())),
        ..GenerateRequest::default()
    };
    let failure = async |request: GenerateRequest| {
        let answer = server.runtime().generate(request).await;
        match answer {
            Err(status) => ServiceError::from(&status),
            Ok(answer) => ServiceError::from(&answer.into_inner().message().await.unwrap_err()),
        }
    };

    let error = failure(generate("Hello!")).await;
    assert_eq!(error.reason, Reason::ModelNotLoaded, "{error}");
    let answer = server.rest().post("/v1/chat/completions", &ask("Hello!")).await;
    assert_eq!(answer.status, 503, "{}", answer.text);
    assert_eq!(answer.message(), error.message);

    server.load(&model).await;
    let long = "What is 7 plus 5? ".repeat(2000);
    let error = failure(generate(&long)).await;
    assert_eq!(error.reason, Reason::ContextLengthExceeded, "{error}");
    assert!(error.message.contains("the context holds 2048"), "{error}");
    let answer = server.rest().post("/v1/chat/completions", &ask(&long)).await;
    assert_eq!(answer.status, 400, "{}", answer.text);
    assert!(answer.message().contains("the context holds 2048"), "{}", answer.text);
    let outcome = server.cli().run(&["run", &model, &long]).await;
    assert_eq!(outcome.code, 1);
    assert!(outcome.stderr.contains("the context holds 2048"), "{outcome:?}");

    for (body, field) in [
        (json!({ "model": model }), "messages"),
        (json!({ "model": model, "messages": [] }), "messages"),
        (json!({ "messages": [{ "role": "user", "content": "Hello!" }] }), "model"),
        (
            json!({ "model": model, "messages": [{ "role": "user", "content": "a" }], "temperature": 9 }),
            "temperature",
        ),
        (
            json!({ "model": model, "messages": [{ "role": "user", "content": "a" }], "max_tokens": 0 }),
            "max_tokens",
        ),
        (json!({ "model": model, "messages": [{ "role": "user", "content": "a" }], "top_p": 1.5 }), "top_p"),
    ] {
        let answer = server.rest().post("/v1/chat/completions", &body).await;
        assert_eq!(answer.status, 400, "{field}: {}", answer.text);
        assert!(answer.text.contains(field), "{field}: {}", answer.text);
    }
    assert_eq!(
        server.rest().chat(&model, "What is the capital of Japan?").await,
        "The capital of Japan is Tokyo."
    );
}

async fn foreign_hosts_are_refused(layout: Layout) {
    let server = Server::start(layout, Options::default()).await;
    for headers in [
        [("host", "evil.example"), ("accept", "*/*")],
        [("origin", "http://evil.example"), ("accept", "*/*")],
        [("host", "127.0.0.1.evil.example:80"), ("accept", "*/*")],
    ] {
        let answer = server.rest().get_with("/api/models", &headers).await;
        assert_eq!((answer.status, answer.code()), (403, "FORBIDDEN"), "{headers:?}: {}", answer.text);
    }
    let local = server.rest().get_with("/api/models", &[("host", "localhost")]).await;
    assert_eq!(local.status, 200, "{}", local.text);
    let own = server.rest().get_with("/api/models", &[("origin", &server.url())]).await;
    assert_eq!(own.status, 200, "{}", own.text);
}
