//! Creating, reading, listing, updating and deleting datasets.

use millm_kit::{Reason, ServiceError};
use millm_proto::catalog::v1::{
    CreateDatasetRequest, Dataset, DatasetColumn, DatasetFile, DatasetFormat, DeleteDatasetRequest,
    GetDatasetRequest, ListDatasetsRequest, ListDatasetsResponse, Source, UpdateDatasetRequest,
    dataset::State, dataset_column::Kind,
};
use prost_types::FieldMask;

use super::fixture::Fixture;

super::on_both_databases! {
    new_datasets_have_defaults, handles_are_unique, invalid_datasets_are_refused, datasets_are_found_by_id_and_handle,
    all_fields_are_stored, lists_are_paged, large_datasets_are_stored, updates_respect_etags, deleting,
    concurrent_creation, rows_survive_a_restart,
}

async fn create(fixture: &Fixture, dataset: Dataset) -> Result<Dataset, ServiceError> {
    let request = CreateDatasetRequest { dataset: Some(dataset) };
    Ok(fixture.datasets().create_dataset(request).await?.into_inner())
}

async fn get(fixture: &Fixture, name: &str) -> Result<Dataset, ServiceError> {
    Ok(fixture.datasets().get_dataset(GetDatasetRequest { name: name.into() }).await?.into_inner())
}

async fn list(fixture: &Fixture, request: ListDatasetsRequest) -> Result<ListDatasetsResponse, ServiceError> {
    let mut client = fixture.datasets().max_decoding_message_size(64 << 20);
    Ok(client.list_datasets(request).await?.into_inner())
}

async fn update(fixture: &Fixture, dataset: Dataset, paths: &[&str]) -> Result<Dataset, ServiceError> {
    let update_mask = Some(FieldMask { paths: paths.iter().map(|&p| p.to_owned()).collect() });
    let request = UpdateDatasetRequest { dataset: Some(dataset), update_mask };
    let mut client = fixture.datasets().max_decoding_message_size(64 << 20);
    Ok(client.update_dataset(request).await?.into_inner())
}

async fn delete(fixture: &Fixture, name: &str, etag: &str) -> Result<(), ServiceError> {
    let request = DeleteDatasetRequest { name: name.into(), etag: etag.into() };
    fixture.datasets().delete_dataset(request).await?;
    Ok(())
}

fn hub(repo: &str) -> Dataset {
    Dataset { source: Source::Huggingface.into(), repo_id: repo.into(), ..Dataset::default() }
}

fn local(path: &str) -> Dataset {
    Dataset { source: Source::Local.into(), local_path: path.into(), ..Dataset::default() }
}

/// The fields that make a dataset READY.
fn read(dataset: Dataset) -> Dataset {
    let file = DatasetFile { path: "/data/a.jsonl".into(), size_bytes: 9, sha256: "0f".repeat(32), rows: 5 };
    Dataset {
        files: vec![file],
        format: DatasetFormat::Jsonl.into(),
        rows: 5,
        columns: vec![
            DatasetColumn { name: "text".into(), kind: Kind::Text.into() },
            DatasetColumn { name: "ü ids".into(), kind: Kind::TokenIds.into() },
        ],
        column: "text".into(),
        state: State::Ready.into(),
        ..dataset
    }
}

async fn new_datasets_have_defaults(fixture: Fixture) {
    let asked =
        Dataset { id: 99, name: "datasets/99".into(), etag: "x".into(), ..hub("Salesforce/wikitext") };
    let dataset = create(&fixture, asked).await.unwrap();
    assert_eq!((dataset.id, dataset.name.as_str(), dataset.handle.as_str()), (1, "datasets/1", "wikitext"));
    assert_eq!((dataset.state(), dataset.revision.as_str()), (State::Pending, "main"));
    assert!(dataset.create_time.is_some() && dataset.create_time == dataset.update_time);
    assert!(!dataset.etag.is_empty());
    let dataset = create(&fixture, read(local("/data/mine.jsonl"))).await.unwrap();
    assert_eq!((dataset.state(), dataset.handle.as_str()), (State::Ready, "mine"));
    assert_eq!(get(&fixture, "mine").await.unwrap(), dataset);
    // Models have ids and handles of their own.
    assert_eq!(fixture.get("wikitext").await.unwrap_err().reason, Reason::ModelNotFound);
}

async fn handles_are_unique(fixture: Fixture) {
    let handle = async |dataset| create(&fixture, dataset).await.map(|dataset| dataset.handle);
    assert_eq!(handle(hub("a/d")).await.unwrap(), "d");
    assert_eq!(handle(hub("b/d")).await.unwrap(), "d-2");
    assert_eq!(handle(local("/x/d.csv")).await.unwrap(), "d-3");
    let named = Dataset { handle: "d-2".into(), ..hub("c/e") };
    let error = handle(named).await.unwrap_err();
    assert_eq!((error.reason, error.details["dataset_id"].as_str()), (Reason::DatasetAlreadyExists, "2"));
    assert_eq!(error.message, "Dataset already exists: 'd-2'.");
    let rename = Dataset { name: "d-3".into(), handle: "d".into(), ..Dataset::default() };
    let error = update(&fixture, rename, &["handle"]).await.unwrap_err();
    assert_eq!((error.reason, error.details["dataset_id"].as_str()), (Reason::DatasetAlreadyExists, "1"));
}

async fn invalid_datasets_are_refused(fixture: Fixture) {
    let check = async |dataset: Dataset, reason: Reason, field: Option<&str>| {
        let error = create(&fixture, dataset).await.unwrap_err();
        assert_eq!((error.reason, error.details.get("field").map(String::as_str)), (reason, field));
    };
    let good = || read(local("/data/a.jsonl"));
    let invalid = Reason::InvalidArgument;
    check(Dataset::default(), invalid, Some("source")).await;
    check(hub("../x"), Reason::InvalidRepoId, None).await;
    check(local("relative"), Reason::InvalidDatasetPath, None).await;
    check(Dataset { revision: "a..b".into(), ..hub("a/b") }, invalid, Some("revision")).await;
    check(Dataset { split: "train".into(), ..good() }, invalid, Some("split")).await;
    check(Dataset { handle: "a b".into(), ..good() }, invalid, Some("handle")).await;
    check(Dataset { commit: "abc".into(), ..hub("a/b") }, invalid, Some("commit")).await;
    check(Dataset { state: 77, ..good() }, invalid, Some("state")).await;
    check(Dataset { format: 77, ..good() }, invalid, Some("format")).await;
    check(Dataset { format: 0, ..good() }, invalid, Some("format")).await;
    check(Dataset { column: "absent".into(), ..good() }, invalid, Some("column")).await;
    check(Dataset { rows: 6, ..good() }, invalid, Some("rows")).await;
    check(Dataset { rows: -1, ..good() }, invalid, Some("rows")).await;
    check(Dataset { files: vec![], ..good() }, invalid, Some("files")).await;
    let files = |file: DatasetFile| Dataset { files: vec![file], ..good() };
    let file = || good().files.remove(0);
    check(files(DatasetFile { path: "a".into(), ..file() }), invalid, Some("files.path")).await;
    check(files(DatasetFile { path: "/a\0".into(), ..file() }), invalid, Some("files.path")).await;
    check(files(DatasetFile { sha256: "0F".repeat(32), ..file() }), invalid, Some("files.sha256")).await;
    check(files(DatasetFile { size_bytes: -1, ..file() }), invalid, Some("files.size_bytes")).await;
    let columns = vec![DatasetColumn { name: "x".repeat(1025), kind: 1 }];
    check(Dataset { columns, ..good() }, invalid, Some("columns.name")).await;
    check(
        Dataset { columns: vec![DatasetColumn { name: "text".into(), kind: 9 }], ..good() },
        invalid,
        Some("columns.kind"),
    )
    .await;
    check(Dataset { files: vec![file(); 10_001], ..good() }, invalid, Some("files")).await;
    assert!(list(&fixture, ListDatasetsRequest::default()).await.unwrap().datasets.is_empty());
}

async fn datasets_are_found_by_id_and_handle(fixture: Fixture) {
    let dataset = create(&fixture, hub("a/d")).await.unwrap();
    for name in ["datasets/1", "1", "d"] {
        assert_eq!(get(&fixture, name).await.unwrap(), dataset);
    }
    let digits = create(&fixture, Dataset { handle: "007".into(), ..hub("a/e") }).await.unwrap();
    assert_eq!(get(&fixture, "007").await.unwrap(), digits);
    for name in
        ["", "x", "datasets/9", "datasets/d", "models/1", "9", "a/d", "' OR 1=1 --", "a\0b", "datasets/"]
    {
        assert_eq!(get(&fixture, name).await.unwrap_err().reason, Reason::DatasetNotFound, "{name:?}");
    }
}

async fn all_fields_are_stored(fixture: Fixture) {
    let asked = Dataset { config: "c".into(), split: "test".into(), ..hub("a/d") };
    let created = create(&fixture, asked).await.unwrap();
    let written = Dataset {
        name: "1".into(),
        handle: "new.name".into(),
        revision: "refs/convert/parquet".into(),
        commit: "0123456789abcdef0123456789abcdef01234567".into(),
        state: State::Error.into(),
        error: Some(ServiceError::insufficient_disk(9, 5).to_rpc()),
        ..read(Dataset::default())
    };
    let answer = update(&fixture, written.clone(), &["*"]).await.unwrap();
    let found = get(&fixture, "new.name").await.unwrap();
    assert_eq!(answer, found);
    let expected = Dataset {
        name: "datasets/1".into(),
        id: 1,
        source: Source::Huggingface.into(),
        repo_id: "a/d".into(),
        config: "c".into(),
        split: "test".into(),
        create_time: created.create_time,
        update_time: found.update_time,
        etag: found.etag.clone(),
        ..written
    };
    assert_eq!(found, expected);
    // A dataset that leaves the state ERROR has no error.
    let ready = Dataset { name: "1".into(), state: State::Ready.into(), ..Dataset::default() };
    assert_eq!(update(&fixture, ready, &["state"]).await.unwrap().error, None);
}

async fn lists_are_paged(fixture: Fixture) {
    for n in 0..7 {
        create(&fixture, hub(&format!("a/d{n}"))).await.unwrap();
    }
    let mut seen = Vec::new();
    let mut request = ListDatasetsRequest { page_size: 3, ..ListDatasetsRequest::default() };
    loop {
        let page = list(&fixture, request.clone()).await.unwrap();
        assert!(page.datasets.len() <= 3);
        seen.extend(page.datasets.into_iter().map(|dataset| dataset.handle));
        // Deleted and added datasets must not shift the pages.
        if request.page_token.is_empty() {
            delete(&fixture, "d0", "").await.unwrap();
            create(&fixture, hub("a/d0")).await.unwrap();
        }
        if page.next_page_token.is_empty() {
            break;
        }
        request.page_token = page.next_page_token;
    }
    assert_eq!(seen, ["d0", "d1", "d2", "d3", "d4", "d5", "d6", "d0"]);
    for (page_size, page_token) in [(-1, ""), (0, "x"), (0, "p-1"), (0, "f1")] {
        let request = ListDatasetsRequest { page_size, page_token: page_token.into() };
        assert_eq!(list(&fixture, request).await.unwrap_err().reason, Reason::InvalidArgument);
    }
}

async fn large_datasets_are_stored(fixture: Fixture) {
    let file = |n: usize| DatasetFile {
        path: format!("/{}/{n}.jsonl", "x".repeat(200)),
        rows: 1,
        ..Default::default()
    };
    let files: Vec<_> = (0..10_000).map(file).collect();
    for n in 0..2 {
        let dataset = Dataset { files: files.clone(), rows: 10_000, ..read(hub(&format!("a/d{n}"))) };
        create(&fixture, hub(&format!("a/d{n}"))).await.unwrap();
        let dataset = Dataset { name: format!("d{n}"), ..dataset };
        update(&fixture, dataset, &["files", "rows", "format", "columns", "column", "state"]).await.unwrap();
    }
    // A page has fewer datasets rather than more bytes.
    let page = list(&fixture, ListDatasetsRequest::default()).await.unwrap();
    assert_eq!((page.datasets.len(), page.datasets[0].files.len()), (1, 10_000));
    let request = ListDatasetsRequest { page_token: page.next_page_token, ..Default::default() };
    let page = list(&fixture, request).await.unwrap();
    assert_eq!((page.datasets[0].handle.as_str(), page.next_page_token.as_str()), ("d1", ""));
}

async fn updates_respect_etags(fixture: Fixture) {
    let first = create(&fixture, hub("a/d")).await.unwrap();
    let change = |etag: &str| Dataset {
        name: "datasets/1".into(),
        etag: etag.into(),
        commit: "0f".repeat(20),
        ..Dataset::default()
    };
    let second = update(&fixture, change(&first.etag), &["commit"]).await.unwrap();
    assert_ne!(first.etag, second.etag);
    let error = update(&fixture, change(&first.etag), &["commit"]).await.unwrap_err();
    assert_eq!(error.reason, Reason::Conflict);
    assert_eq!(get(&fixture, "1").await.unwrap(), second);
    for paths in [&["id"][..], &["split"], &["files.path"], &[]] {
        let error = update(&fixture, change(""), paths).await.unwrap_err();
        assert_eq!((error.reason, error.details["field"].as_str()), (Reason::InvalidArgument, "update_mask"));
    }
    let unknown = Dataset { name: "datasets/5".into(), ..change("") };
    assert_eq!(update(&fixture, unknown, &["commit"]).await.unwrap_err().reason, Reason::DatasetNotFound);
    let unready = Dataset { state: State::Ready.into(), ..change("") };
    assert_eq!(update(&fixture, unready, &["state"]).await.unwrap_err().details["field"], "rows");
    let unnamed = Dataset { handle: "a b".into(), ..change("") };
    assert_eq!(update(&fixture, unnamed, &["handle"]).await.unwrap_err().details["field"], "handle");
}

async fn deleting(fixture: Fixture) {
    let dataset = create(&fixture, hub("a/d")).await.unwrap();
    assert_eq!(delete(&fixture, "d", "stale").await.unwrap_err().reason, Reason::Conflict);
    delete(&fixture, "d", &dataset.etag).await.unwrap();
    assert_eq!(delete(&fixture, "datasets/1", "").await.unwrap_err().reason, Reason::DatasetNotFound);
    // The handle is free again, but ids are never reused.
    let again = create(&fixture, hub("a/d")).await.unwrap();
    assert_eq!((again.id, again.handle.as_str()), (2, "d"));
}

async fn concurrent_creation(fixture: Fixture) {
    let other = fixture.another().await;
    let all = (0..8).map(|n| {
        let fixture = if n % 2 == 0 { &fixture } else { &other };
        async move { create(fixture, hub(&format!("owner{n}/same"))).await }
    });
    let answers = futures::future::join_all(all).await;
    let mut handles: Vec<_> = answers.into_iter().map(|answer| answer.unwrap().handle).collect();
    handles.sort();
    handles.dedup();
    assert_eq!(handles.len(), 8);
}

async fn rows_survive_a_restart(fixture: Fixture) {
    let dataset = create(&fixture, read(local("/data/a.jsonl"))).await.unwrap();
    let after = fixture.another().await;
    drop(fixture);
    assert_eq!(get(&after, "a").await.unwrap(), dataset);
}
