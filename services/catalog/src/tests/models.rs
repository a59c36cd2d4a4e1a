//! Creating, reading, listing, updating and deleting models.

use millm_kit::Reason;
use millm_proto::catalog::v1::{
    Architecture, ListModelsRequest, Model, ModelFile, Quantization, Source, model::State,
};

use super::fixture::{Fixture, hub, local};

super::on_both_databases! {
    a_new_model_is_pending_and_has_defaults, keys_are_unique, colliding_models_get_different_handles,
    invalid_models_are_refused, models_are_found_by_id_and_handle, all_fields_are_stored, lists_are_paged,
    lists_are_filtered, pages_are_limited_in_bytes, updates_respect_etags, renaming, deleting,
    concurrent_creation, rows_survive_a_restart, the_catalog_id_is_stable,
}

async fn a_new_model_is_pending_and_has_defaults(fixture: Fixture) {
    let asked = Model {
        id: 99,
        name: "models/99".into(),
        etag: "x".into(),
        ..hub("google/gemma-2-2b", Quantization::Unspecified)
    };
    let model = fixture.create(Model { state: State::Ready.into(), ..asked }).await.unwrap();
    assert_eq!(model.id, 1);
    assert_eq!((model.name.as_str(), model.handle.as_str()), ("models/1", "gemma-2-2b"));
    assert_eq!((model.state(), model.requested_quantization()), (State::Pending, Quantization::Q4));
    assert_eq!(model.revision, "main");
    assert!(model.create_time.is_some() && model.create_time == model.update_time && !model.etag.is_empty());
    let model = fixture.create(local("/models/mine")).await.unwrap();
    assert_eq!((model.source(), model.requested_quantization()), (Source::Local, Quantization::Native));
    assert_eq!((model.handle.as_str(), model.revision.as_str()), ("mine", ""));
}

async fn keys_are_unique(fixture: Fixture) {
    let first = fixture.create(hub("google/gemma-2-2b", Quantization::Q4)).await.unwrap();
    for again in [
        hub("google/gemma-2-2b", Quantization::Q4),
        hub("Google/Gemma-2-2B", Quantization::Q4),
        Model { handle: "other".into(), ..hub("google/gemma-2-2b", Quantization::Q4) },
        Model { revision: "v2".into(), ..hub("google/gemma-2-2b", Quantization::Q4) },
    ] {
        let error = fixture.create(again).await.unwrap_err();
        assert_eq!(error.reason, Reason::ModelAlreadyExists);
        assert_eq!(error.details["model_id"], first.id.to_string());
        assert_eq!(error.message, "Model already exists: 'gemma-2-2b' (Q4).");
    }
    let file = |file: &str| Model { file: file.into(), ..hub("a/ggufs", Quantization::Native) };
    fixture.create(file("x.gguf")).await.unwrap();
    fixture.create(file("y.gguf")).await.unwrap();
    assert!(fixture.create(file("x.gguf")).await.is_err());
    let here = fixture.create(local("/models/here")).await.unwrap();
    let again = Model { requested_quantization: Quantization::Q8.into(), ..local("/models/here") };
    let error = fixture.create(again).await.unwrap_err();
    assert_eq!(error.details["model_id"], here.id.to_string());
}

async fn colliding_models_get_different_handles(fixture: Fixture) {
    let create = async |model: Model| fixture.create(model).await.map(|model| model.handle);
    assert_eq!(create(hub("a/m", Quantization::Q4)).await.unwrap(), "m");
    assert_eq!(create(hub("a/m", Quantization::Q8)).await.unwrap(), "m-q8");
    assert_eq!(create(hub("b/m", Quantization::Q8)).await.unwrap(), "m-q8-2");
    assert_eq!(create(local("/x/m")).await.unwrap(), "m-native");
    // An underscore is not a wildcard.
    assert_eq!(create(hub("a/x_y", Quantization::Q4)).await.unwrap(), "x_y");
    assert_eq!(
        create(Model { handle: "mine".into(), ..hub("c/m", Quantization::Q4) }).await.unwrap(),
        "mine"
    );
    let error = create(Model { handle: "mine".into(), ..hub("d/m", Quantization::Q4) }).await.unwrap_err();
    assert_eq!(error.message, "Model already exists: 'mine' (Q4).");
}

async fn invalid_models_are_refused(fixture: Fixture) {
    let check = async |model: Model, reason: Reason, field: Option<&str>| {
        let error = fixture.create(model).await.unwrap_err();
        assert_eq!((error.reason, error.details.get("field").map(String::as_str)), (reason, field));
    };
    let good = || hub("a/b", Quantization::Q4);
    let invalid = Reason::InvalidArgument;
    check(Model::default(), invalid, Some("source")).await;
    check(hub("../x", Quantization::Q4), Reason::InvalidRepoId, None).await;
    check(local("relative/path"), Reason::InvalidLocalPath, None).await;
    check(local("/nul\0"), invalid, Some("local_path")).await;
    check(Model { revision: "a..b".into(), ..good() }, invalid, Some("revision")).await;
    check(Model { handle: "a b".into(), ..good() }, invalid, Some("handle")).await;
    check(Model { commit: "abc".into(), ..good() }, invalid, Some("commit")).await;
    check(Model { local_path: "/x".into(), ..good() }, invalid, Some("local_path")).await;
    check(Model { requested_quantization: 77, ..good() }, invalid, Some("requested_quantization")).await;
    check(Model { disk_size_bytes: -1, ..good() }, invalid, Some("disk_size_bytes")).await;
    let named = Architecture { name: "\0".into(), ..Architecture::default() };
    check(Model { architecture: Some(named), ..good() }, invalid, Some("architecture.name")).await;
}

async fn models_are_found_by_id_and_handle(fixture: Fixture) {
    let model = fixture.create(hub("a/b", Quantization::Q4)).await.unwrap();
    for name in ["models/1", "1", "b"] {
        assert_eq!(fixture.get(name).await.unwrap(), model);
    }
    let digits =
        fixture.create(Model { handle: "007".into(), ..hub("a/c", Quantization::Q4) }).await.unwrap();
    assert_eq!(fixture.get("007").await.unwrap(), digits);
    for name in ["", "x", "models/9", "models/007", "models/b", "9", "a/b", "' OR 1=1 --"] {
        assert_eq!(fixture.get(name).await.unwrap_err().reason, Reason::ModelNotFound, "{name}");
    }
}

async fn all_fields_are_stored(fixture: Fixture) {
    let id = fixture.create(hub("a/b", Quantization::Q4)).await.unwrap().id;
    let error = millm_kit::ServiceError::insufficient_disk(9, 5).to_rpc();
    let written = Model {
        name: id.to_string(),
        handle: "new.name".into(),
        revision: "refs/pr/1".into(),
        commit: "0123456789abcdef0123456789abcdef01234567".into(),
        storage_path: "/models/ü '\"\\".into(),
        actual_quantization: Quantization::Q8.into(),
        quantization_reason: "rows are no multiple of 256".into(),
        architecture: Some(Architecture {
            name: "LlamaForCausalLM".into(),
            family: "llama".into(),
            layers: 22,
            context_length: u32::MAX,
            ..Architecture::default()
        }),
        parameter_count: i64::MAX,
        disk_size_bytes: 5_000_000_000,
        memory_estimate_bytes: 7,
        config_json: "{ \"b\": 1,\n \"a\": \"\\u0000\" }".into(),
        files: vec![ModelFile { path: "a/ü.json".into(), size_bytes: 3, sha256: "ff".into() }],
        trust_remote_code: true,
        state: State::Error.into(),
        error: Some(error),
        has_chat_template: true,
        ..Model::default()
    };
    let answer = fixture.update(written.clone(), &["*"]).await.unwrap();
    let read = fixture.get("new.name").await.unwrap();
    assert_eq!(answer, read);
    assert!(read.update_time.unwrap().seconds >= read.create_time.unwrap().seconds);
    let expected = Model {
        name: read.name.clone(),
        id,
        source: Source::Huggingface.into(),
        repo_id: "a/b".into(),
        requested_quantization: Quantization::Q4.into(),
        create_time: read.create_time,
        update_time: read.update_time,
        etag: read.etag.clone(),
        ..written
    };
    assert_eq!(read, expected);
}

async fn lists_are_paged(fixture: Fixture) {
    for n in 0..7 {
        fixture.create(hub(&format!("a/m{n}"), Quantization::Q4)).await.unwrap();
    }
    let mut seen = Vec::new();
    let mut request = ListModelsRequest { page_size: 3, ..ListModelsRequest::default() };
    loop {
        let page = fixture.list(request.clone()).await.unwrap();
        assert_eq!(page.total_size, 7);
        assert!(page.models.len() <= 3);
        seen.extend(page.models.into_iter().map(|model| model.handle));
        // Deleted and added models must not shift the pages.
        if request.page_token.is_empty() {
            fixture.delete("m0", "").await.unwrap();
            fixture.create(hub("a/m0", Quantization::Q4)).await.unwrap();
        }
        if page.next_page_token.is_empty() {
            break;
        }
        request.page_token = page.next_page_token;
    }
    assert_eq!(seen, ["m0", "m1", "m2", "m3", "m4", "m5", "m6", "m0"]);
    assert_eq!(fixture.list(ListModelsRequest::default()).await.unwrap().models.len(), 7);
    for (page_size, page_token) in [(-1, ""), (0, "x"), (0, "p-1"), (0, "pzz")] {
        let request = ListModelsRequest { page_size, page_token: page_token.into(), ..Default::default() };
        assert_eq!(fixture.list(request).await.unwrap_err().reason, Reason::InvalidArgument);
    }
}

async fn lists_are_filtered(fixture: Fixture) {
    fixture.create(hub("Google/Gemma-2", Quantization::Q4)).await.unwrap();
    fixture.create(local("/models/100%_ÜBER")).await.unwrap();
    let llama = Architecture { name: "LlamaForCausalLM".into(), ..Architecture::default() };
    let ready =
        Model { name: "2".into(), state: State::Ready.into(), architecture: Some(llama), ..Model::default() };
    fixture.update(ready, &["state", "architecture"]).await.unwrap();
    let find = async |query: &str, states: &[State]| {
        let states = states.iter().map(|&state| state.into()).collect();
        let request = ListModelsRequest { query: query.into(), states, ..Default::default() };
        let page = fixture.list(request).await.unwrap();
        assert_eq!(page.total_size as usize, page.models.len());
        page.models.into_iter().map(|model| model.id).collect::<Vec<_>>()
    };
    assert_eq!(find("", &[]).await, [1, 2]);
    assert_eq!(find("gEMMA", &[]).await, [1]);
    assert_eq!(find("llamafor", &[]).await, [2]);
    assert_eq!(find("%_ü", &[]).await, [2]);
    assert_eq!(find("a%2", &[]).await, Vec::<i64>::new());
    assert_eq!(find("\\", &[]).await, Vec::<i64>::new());
    assert_eq!(find("", &[State::Ready]).await, [2]);
    assert_eq!(find("", &[State::Ready, State::Pending]).await, [1, 2]);
    assert_eq!(find("gemma", &[State::Ready]).await, Vec::<i64>::new());
    for request in [
        ListModelsRequest { query: "x".repeat(1001), ..Default::default() },
        ListModelsRequest { states: vec![77], ..Default::default() },
    ] {
        assert_eq!(fixture.list(request).await.unwrap_err().reason, Reason::InvalidArgument);
    }
}

async fn pages_are_limited_in_bytes(fixture: Fixture) {
    for n in 0..3 {
        let config_json = "x".repeat(1 << 20);
        fixture.create(Model { config_json, ..hub(&format!("a/m{n}"), Quantization::Q4) }).await.unwrap();
    }
    let page = fixture.list(ListModelsRequest::default()).await.unwrap();
    assert_eq!((page.models.len(), page.total_size), (1, 3));
    let request = ListModelsRequest { page_token: page.next_page_token, ..Default::default() };
    assert_eq!(fixture.list(request).await.unwrap().models[0].handle, "m1");
}

async fn updates_respect_etags(fixture: Fixture) {
    let first = fixture.create(hub("a/b", Quantization::Q4)).await.unwrap();
    let change = |etag: &str| Model {
        name: "models/1".into(),
        etag: etag.into(),
        state: State::Ready.into(),
        ..Model::default()
    };
    let second = fixture.update(change(&first.etag), &["state"]).await.unwrap();
    assert_ne!(first.etag, second.etag);
    let error = fixture.update(change(&first.etag), &["state"]).await.unwrap_err();
    assert_eq!(error.reason, Reason::Conflict);
    assert_eq!(fixture.get("1").await.unwrap(), second);
    fixture.update(change(""), &["state"]).await.unwrap();
    assert_eq!(fixture.update(change(""), &["id"]).await.unwrap_err().reason, Reason::InvalidArgument);
    assert_eq!(fixture.update(change(""), &[]).await.unwrap_err().reason, Reason::InvalidArgument);
    let unknown = Model { name: "models/5".into(), ..change("") };
    assert_eq!(fixture.update(unknown, &["state"]).await.unwrap_err().reason, Reason::ModelNotFound);
    let nothing = Model { state: 0, ..change("") };
    assert_eq!(fixture.update(nothing, &["state"]).await.unwrap_err().details["field"], "state");
}

async fn renaming(fixture: Fixture) {
    fixture.create(hub("a/b", Quantization::Q4)).await.unwrap();
    fixture.create(hub("a/c", Quantization::Q4)).await.unwrap();
    let rename = async |from: &str, to: &str| {
        fixture.update(Model { name: from.into(), handle: to.into(), ..Model::default() }, &["handle"]).await
    };
    assert_eq!(rename("b", "d").await.unwrap().name, "models/1");
    assert_eq!(fixture.get("b").await.unwrap_err().reason, Reason::ModelNotFound);
    let error = rename("d", "c").await.unwrap_err();
    assert_eq!((error.reason, error.details["model_id"].as_str()), (Reason::ModelAlreadyExists, "2"));
    for bad in ["", "a/b", "..", "é"] {
        assert_eq!(rename("d", bad).await.unwrap_err().details["field"], "handle");
    }
    assert_eq!(rename("d", "d").await.unwrap().handle, "d");
}

async fn deleting(fixture: Fixture) {
    let model = fixture.create(hub("a/b", Quantization::Q4)).await.unwrap();
    assert_eq!(fixture.delete("b", "stale").await.unwrap_err().reason, Reason::Conflict);
    fixture.delete("b", &model.etag).await.unwrap();
    assert_eq!(fixture.delete("models/1", "").await.unwrap_err().reason, Reason::ModelNotFound);
    // Handle and key are free again, but ids are never reused.
    let again = fixture.create(hub("a/b", Quantization::Q4)).await.unwrap();
    assert_eq!((again.id, again.handle.as_str()), (2, "b"));
}

async fn concurrent_creation(fixture: Fixture) {
    let other = fixture.another().await;
    let same = (0..8).map(|n| {
        let fixture = if n % 2 == 0 { &fixture } else { &other };
        fixture.create(hub("a/same", Quantization::Q4))
    });
    let answers = futures::future::join_all(same).await;
    assert_eq!(answers.iter().filter(|answer| answer.is_ok()).count(), 1);
    for error in answers.into_iter().filter_map(Result::err) {
        assert_eq!(error.reason, Reason::ModelAlreadyExists);
    }
    let named = (0..8).map(|n| {
        let fixture = if n % 2 == 0 { &fixture } else { &other };
        async move { fixture.create(hub(&format!("owner{n}/twin"), Quantization::Q4)).await }
    });
    let mut handles: Vec<_> =
        futures::future::join_all(named).await.into_iter().map(|answer| answer.unwrap().handle).collect();
    handles.sort();
    handles.dedup();
    assert_eq!(handles.len(), 8);
}

async fn rows_survive_a_restart(fixture: Fixture) {
    let model = fixture.create(hub("a/b", Quantization::Q4)).await.unwrap();
    let after = fixture.another().await;
    drop(fixture);
    assert_eq!(after.get("b").await.unwrap(), model);
}

async fn the_catalog_id_is_stable(fixture: Fixture) {
    let catalog_id =
        async |fixture: &Fixture| fixture.list(ListModelsRequest::default()).await.unwrap().catalog_id;
    let first = catalog_id(&fixture).await;
    assert!(first.len() == 16 && first.bytes().all(|b| b.is_ascii_hexdigit()), "{first}");
    assert_eq!(catalog_id(&fixture.another().await).await, first);
}
