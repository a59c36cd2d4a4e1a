//! Loading, replacing, unloading, renaming and removing a model. The files of a local model stay.

use millm_proto::catalog::v1::Quantization;
use serde_json::json;

use crate::harness::{Layout, Options, Server, fixture, in_both_layouts, model_hub};

in_both_layouts!(
    the_whole_way_on_the_command_line,
    loading_replaces_and_unloading_frees,
    loaded_models_are_not_removed,
    local_files_stay,
    a_model_is_loaded_at_the_start,
    models_are_renamed,
    rest_and_the_command_line_print_the_same,
);

async fn the_whole_way_on_the_command_line(layout: Layout) {
    let hub = model_hub();
    let server = Server::start(layout, Options::with_hub(hub.url())).await;
    let cli = server.cli();
    let preview = cli.run(&["preview", "millm/tiny-millm", "--json"]).await;
    assert_eq!(preview.json()["architecture_details"]["name"], "LlamaForCausalLM");
    let pulled = cli.run(&["pull", "millm/tiny-millm", "-q", "Q4", "--json"]).await;
    assert_eq!(pulled.code, 0, "{pulled:?}");
    assert_eq!(pulled.json()["status"], "ready");
    let name = pulled.json()["name"].as_str().expect("a name").to_owned();
    assert_eq!(name, "tiny-millm");
    let listed = cli.run(&["list", "--json"]).await;
    assert_eq!(listed.json()[0]["name"], name.as_str());
    assert!(cli.run(&["list"]).await.ok().contains("tiny-millm"));
    cli.run(&["load", &name]).await.ok();
    let answer = cli.run(&["run", &name, "-t", "0", "What is the capital of Japan?"]).await;
    assert_eq!(answer.ok().trim(), "The capital of Japan is Tokyo.");
    let ps = cli.run(&["ps"]).await.ok();
    assert!(ps.contains(&name) && ps.contains("MAX MEMORY"), "{ps}");
    assert_eq!(cli.run(&["show", &name, "--json"]).await.json()["status"], "loaded");
    cli.run(&["unload"]).await.ok();
    cli.run(&["rm", &name, "--yes"]).await.ok();
    assert_eq!(cli.run(&["list", "--json"]).await.json(), json!([]));
    let misuse = cli.run(&["pull"]).await;
    assert_eq!(misuse.code, 2, "{misuse:?}");
}

async fn loading_replaces_and_unloading_frees(layout: Layout) {
    let hub = model_hub();
    let server = Server::start(layout, Options::with_hub(hub.url())).await;
    let first = server.pull("millm/tiny-millm", Quantization::Q4).await;
    let second = server.pull("millm/tiny-millm", Quantization::Q8).await;
    assert_eq!((first.handle.as_str(), second.handle.as_str()), ("tiny-millm", "tiny-millm-q8"));
    let progress = server.load(&first.handle).await;
    assert!(progress.estimate.expect("an estimate").total_bytes > 0);
    server.load(&second.handle).await;
    let loaded = server.loaded().await.expect("one is loaded");
    assert_eq!(loaded.handle, second.handle);
    assert!(loaded.measured_memory_bytes > 0);
    let list = server.rest().get("/v1/models").await.json;
    let ids: Vec<&str> = list["data"].as_array().unwrap().iter().filter_map(|m| m["id"].as_str()).collect();
    assert_eq!(ids, [second.handle.as_str()]);
    server.unload().await;
    assert!(server.loaded().await.is_none());
    let shown = server.rest().get(&format!("/api/models/{}", second.id)).await.data();
    assert_eq!(shown["status"], "ready");
}

async fn loaded_models_are_not_removed(layout: Layout) {
    let hub = model_hub();
    let server = Server::start(layout, Options::with_hub(hub.url())).await;
    let model = server.pull("millm/tiny-millm", Quantization::Q4).await;
    server.load(&model.handle).await;
    let path = format!("/api/models/{}", model.id);
    let refused = server.rest().delete(&path).await;
    assert_eq!((refused.status, refused.code()), (409, "MODEL_IN_USE"), "{}", refused.text);
    let unloaded = server.rest().post(&format!("{path}/unload"), &json!({})).await.data();
    assert_eq!(unloaded["id"], model.id);
    server.unload_settled().await;
    assert!(server.rest().delete(&path).await.data().is_null());
    assert_eq!(server.rest().get(&path).await.code(), "MODEL_NOT_FOUND");
    assert!(!std::path::Path::new(&model.storage_path).exists(), "{}", model.storage_path);
}

async fn local_files_stay(layout: Layout) {
    let server = Server::start(layout, Options::default()).await;
    let own = server.folder().join("own");
    std::fs::create_dir(&own).unwrap();
    for entry in std::fs::read_dir(fixture("tiny-millm")).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), own.join(entry.file_name())).unwrap();
    }
    let model = server.add(&own, "mine").await;
    assert_eq!(model.actual_quantization(), Quantization::Native);
    assert_eq!(std::path::Path::new(&model.local_path), own.canonicalize().unwrap());
    server.load("mine").await;
    let answer = server.rest().chat("mine", "What is the capital of Japan?").await;
    assert_eq!(answer, "The capital of Japan is Tokyo.");
    server.unload().await;
    assert!(server.rest().delete(&format!("/api/models/{}", model.id)).await.data().is_null());
    assert!(own.join("model.safetensors").exists(), "the user's own files stay");
}

async fn a_model_is_loaded_at_the_start(layout: Layout) {
    let hub = model_hub();
    let options = Options::with_hub(hub.url()).set("AUTO_LOAD_MODEL", "tiny-millm");
    let mut server = Server::start(layout, options).await;
    server.pull("millm/tiny-millm", Quantization::Q4).await;
    server.kill_all().await;
    server.restart_all().await;
    assert_eq!(server.load_settled().await.handle, "tiny-millm");
    let answer = server.rest().chat("tiny-millm", "What is the capital of Japan?").await;
    assert_eq!(answer, "The capital of Japan is Tokyo.");
}

async fn models_are_renamed(layout: Layout) {
    let hub = model_hub();
    let server = Server::start(layout, Options::with_hub(hub.url())).await;
    let model = server.pull("millm/tiny-millm", Quantization::Q4).await;
    server.pull("millm/tiny-millm", Quantization::Q8).await;
    let path = format!("/api/models/{}", model.id);
    let renamed = server.rest().patch(&path, &json!({ "name": "mine" })).await.data();
    assert_eq!((&renamed["name"], &renamed["id"]), (&json!("mine"), &json!(model.id)));
    let taken = server.rest().patch(&path, &json!({ "name": "tiny-millm-q8" })).await;
    assert_eq!((taken.status, taken.code()), (409, "MODEL_ALREADY_EXISTS"), "{}", taken.text);
    let bad = server.rest().patch(&path, &json!({ "name": "a b" })).await;
    assert_eq!((bad.status, &bad.json["error"]["details"]["field"]), (400, &json!("name")), "{}", bad.text);

    let cli = server.cli();
    cli.run(&["rename", "mine", "ours"]).await.ok();
    let printed = cli.run(&["rename", "ours", "yours", "--json"]).await;
    assert_eq!((printed.code, &printed.json()["name"]), (0, &json!("yours")), "{printed:?}");
    assert_eq!(server.rest().get("/api/models/yours").await.data()["id"], model.id);
    let gone = cli.run(&["rename", "ours", "x", "--json"]).await;
    assert_eq!((gone.code, &gone.json()["error"]["code"]), (1, &json!("MODEL_NOT_FOUND")), "{gone:?}");
}

async fn rest_and_the_command_line_print_the_same(layout: Layout) {
    let hub = model_hub();
    let server = Server::start(layout, Options::with_hub(hub.url())).await;
    let model = server.pull("millm/tiny-millm", Quantization::Q4).await;
    server.load(&model.handle).await;
    let (rest, cli) = (server.rest(), server.cli());
    let printed = async |arguments: &[&str]| cli.run(arguments).await.json();
    assert_eq!(printed(&["list", "--json"]).await, rest.get("/api/models").await.data());
    assert_eq!(
        printed(&["show", &model.handle, "--json"]).await,
        rest.get(&format!("/api/models/{}", model.id)).await.data()
    );
    let repo = "millm/tiny-millm";
    let mut previews = [
        printed(&["preview", repo, "--json"]).await,
        rest.post("/api/models/preview", &json!({ "repo_id": repo })).await.data(),
    ];
    for preview in &mut previews {
        // Free disk space changes all the time.
        assert!(preview["available_disk_bytes"].take().as_u64() > Some(0));
    }
    assert_eq!(previews[0], previews[1]);
    assert_eq!(printed(&["search", "tiny", "--json"]).await, rest.get("/api/search?q=tiny").await.data());
    let (ps, system) = (printed(&["ps", "--json"]).await, rest.get("/api/system").await.data());
    let names =
        |value: &serde_json::Value| value.as_object().expect("an object").keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(&ps["models"][0]), names(&system["models"][0]));
    assert_eq!(
        (&ps["models"][0]["state"], names(&ps["devices"][0])),
        (&json!("loaded"), names(&system["devices"][0]))
    );
    let refused = cli.run(&["show", "nobody", "--json"]).await.json();
    let answer = rest.get("/api/models/nobody").await.json;
    assert_eq!(refused["error"]["code"], answer["error"]["code"]);
    assert_eq!(refused["error"]["message"], answer["error"]["message"]);
}
