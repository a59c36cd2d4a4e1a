//! `millm doctor`: it reports problems, and repairs them with `--fix`. Every start repairs the same ones.

use std::fs;

use millm_proto::{
    catalog::v1::{DeleteModelRequest, Quantization, model::State},
    downloader::v1::HubSource,
};

use crate::harness::{Cli, Layout, Options, Server, hub, in_both_layouts, large, model_hub, within};

in_both_layouts!(
    a_healthy_server_is_told_so,
    what_is_wrong_is_told_and_mended,
    the_start_mends_as_the_doctor_does,
    what_arrives_is_no_problem,
);

async fn a_healthy_server_is_told_so(layout: Layout) {
    let hub = model_hub();
    let server = Server::start(layout, Options::with_hub(hub.url())).await;
    server.pull("millm/tiny-millm", Quantization::Q4).await;
    let outcome = server.cli().run(&["doctor"]).await;
    let text = outcome.ok();
    let places =
        ["setting", "models folder", "catalog", "database", "downloader", "runtime", "hub", "models  "].map(
            |part| {
                text.find(&format!("\nok   {part}")).unwrap_or_else(|| panic!("{part} is missing: {text}"))
            },
        );
    assert!(places.is_sorted(), "{text}");
    assert!(!text.contains("BAD"), "{text}");
    let report = server.cli().run(&["doctor", "--json"]).await;
    let value = report.json();
    assert!(value["ok"] == true && value["storage"]["models_bytes"].as_u64() > Some(1_000_000), "{value}");
}

async fn what_is_wrong_is_told_and_mended(layout: Layout) {
    let hub = model_hub();
    let server = Server::start(layout, Options::with_hub(hub.url())).await;
    let gone = server.pull("millm/tiny-millm", Quantization::Native).await;
    let lost = server.pull("millm/tiny-millm", Quantization::Q8).await;
    fs::remove_dir_all(&gone.storage_path).unwrap();
    server
        .catalog()
        .delete_model(DeleteModelRequest { name: lost.name, ..Default::default() })
        .await
        .unwrap();
    let mine = server.models_folder().join("huggingface/mine");
    fs::create_dir(&mine).unwrap();
    fs::write(mine.join("notes.txt"), "x").unwrap();
    let cli = server.cli();
    let told = cli.run(&["doctor"]).await;
    assert_eq!(told.code, 1);
    for part in ["'tiny-millm' has lost files", "a model that the catalog does not know", "not made by miLLM"]
    {
        assert!(told.stdout.contains(part), "{}", told.stdout);
    }
    assert!(told.stderr.contains("2 problems") && told.stderr.contains("--fix"), "{}", told.stderr);
    let told = cli.run(&["doctor", "--json"]).await;
    assert_eq!((told.code, told.json()["problems"].as_u64()), (1, Some(2)));
    assert!(told.json()["storage"]["reclaimable_bytes"].as_u64() > Some(1_000_000));
    let fixed = cli.run(&["doctor", "--fix"]).await;
    assert_eq!(fixed.code, 0, "{fixed:?}");
    assert!(!std::path::Path::new(&lost.storage_path).exists() && mine.join("notes.txt").exists());
    assert_eq!(server.model("tiny-millm").await.unwrap().state(), State::Error);
    assert_eq!(cli.run(&["doctor"]).await.code, 0);
    // Lost files can be downloaded again.
    cli.run(&["pull", "millm/tiny-millm", "-q", "NATIVE"]).await.ok();
}

async fn the_start_mends_as_the_doctor_does(layout: Layout) {
    let hub = model_hub();
    let mut server = Server::start(layout, Options::with_hub(hub.url())).await;
    let gone = server.pull("millm/tiny-millm", Quantization::Native).await;
    let lost = server.pull("millm/tiny-millm", Quantization::Q8).await;
    server
        .catalog()
        .delete_model(DeleteModelRequest { name: lost.name, ..Default::default() })
        .await
        .unwrap();
    server.kill_all().await;
    fs::remove_dir_all(&gone.storage_path).unwrap();
    fs::write(server.models_folder().join("huggingface/keep.txt"), "x").unwrap();
    server.restart_all().await;
    assert_eq!(server.cli().run(&["doctor"]).await.code, 0);
    assert_eq!(server.model("tiny-millm").await.unwrap().state(), State::Error);
    assert!(!std::path::Path::new(&lost.storage_path).exists());
    assert!(server.models_folder().join("huggingface/keep.txt").exists());
    assert!(server.log().contains("FOLDER_WITHOUT_ROW") && server.log().contains("FILES_MISSING"));
}

async fn what_arrives_is_no_problem(layout: Layout) {
    let hub = hub(&[]);
    hub.add_repo(large(16)).unwrap();
    let pause = hub.pause_at("*/model.safetensors", 8 << 20);
    let server = Server::start(layout, Options::with_hub(hub.url())).await;
    let source = HubSource { repo_id: "acme/large".into(), ..HubSource::default() };
    let started = server.start_pull(source, Quantization::Native).await.unwrap();
    within("the first bytes", pause.reached()).await;
    server.cli().run(&["doctor", "--fix"]).await.ok();
    pause.release();
    server.arrived(started.model_id).await;
}

#[tokio::test]
async fn without_a_server_that_is_what_is_wrong() {
    let folder = tempfile::tempdir().unwrap();
    let told = Cli::new("http://127.0.0.1:1", folder.path()).run(&["doctor"]).await;
    assert_eq!(told.code, 1);
    assert!(told.stdout.contains("No server answers at http://127.0.0.1:1"), "{}", told.stdout);
}
