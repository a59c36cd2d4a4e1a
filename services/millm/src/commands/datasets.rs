//! `millm datasets`: adds, lists, shows, reads and removes datasets.

use std::path::Path;

use anyhow::{Context as _, Result, bail};
use millm_api::{
    cli::Removed,
    inspection::dataset::{Dataset, DatasetRows},
};
use millm_kit::{
    Reason, ServiceError, format,
    names::{RepoId, is_handle},
};
use millm_proto::{
    catalog::v1::{self as catalog, GetDatasetRequest, ListDatasetsRequest, dataset::State},
    downloader::v1::{
        AddDatasetRequest, HubDataset, ReadDatasetRowsRequest, RemoveDatasetRequest,
        add_dataset_request::Source,
    },
};

use crate::{
    client::Server,
    confirm,
    inspection_args::{AddDataset, DatasetRows as RowsArgs, DatasetsCommand, RmDatasets},
    job_progress::DatasetBar,
    output::{self, Hint, Misuse},
};

pub async fn run(server: &Server, command: DatasetsCommand, token: String, json: bool) -> Result<()> {
    match command {
        DatasetsCommand::Add(args) => {
            let added = add(server, request(args, token)?, json).await?;
            shown(&added, json)
        }
        DatasetsCommand::List => list(server, json).await,
        DatasetsCommand::Show(args) => show(&find(server, &args.dataset).await?, json),
        DatasetsCommand::Rows(args) => rows(server, args, json).await,
        DatasetsCommand::Rm(args) => remove(server, args, json).await,
    }
}

/// Reads the arguments of `millm datasets add`.
fn request(args: AddDataset, token: String) -> Result<AddDatasetRequest> {
    let source = if let Some(repo) = repository(&args.source) {
        Source::Hub(HubDataset {
            repo_id: repo.to_string(),
            revision: args.revision,
            hf_token: token,
            config: args.config,
            split: args.split,
        })
    } else {
        let of_hub = [("--config", &args.config), ("--split", &args.split), ("--revision", &args.revision)];
        if let Some((flag, _)) = of_hub.into_iter().find(|(_, value)| !value.is_empty()) {
            bail!(Misuse(format!("{flag} is for datasets on the hub, and '{}' is a path", args.source)));
        }
        Source::LocalPath(absolute(&args.source)?)
    };
    Ok(AddDatasetRequest { source: Some(source), handle: args.name, column: args.column })
}

/// Returns the repository that a source names, unless it is a path.
fn repository(source: &str) -> Option<RepoId> {
    let is_path = source.starts_with(['.', '/']) || is_pattern(source) || Path::new(source).exists();
    if is_path { None } else { RepoId::parse(source).ok() }
}

fn is_pattern(text: &str) -> bool {
    text.contains(['*', '?', '['])
}

/// Returns the absolute path: the server may run in another folder.
fn absolute(path: &str) -> Result<String> {
    let absolute = std::path::absolute(path).with_context(|| path.to_owned())?;
    let text = absolute.to_str().with_context(|| Misuse(format!("{path} is not valid UTF-8")))?;
    Ok(text.to_owned())
}

/// Adds a dataset and follows it to its end.
async fn add(server: &Server, request: AddDatasetRequest, json: bool) -> Result<catalog::Dataset> {
    let answer = server.downloader().add_dataset(request).await;
    let mut stream = answer.map_err(|s| server.explain(&s))?.into_inner();
    let mut bar = DatasetBar::new(json);
    let mut last = None;
    while let Some(progress) = stream.message().await.map_err(|s| server.explain(&s))? {
        if let Some(error) = &progress.error {
            return Err(ServiceError::from_rpc(error).into());
        }
        bar.show(&progress)?;
        last = progress.dataset.or(last);
    }
    last.context("the server ended the stream early")
}

fn shown(dataset: &catalog::Dataset, json: bool) -> Result<()> {
    let dataset = Dataset::from(dataset);
    if json {
        return output::json(&dataset);
    }
    let column = dataset.column.as_deref().unwrap_or("-");
    let size = format::bytes(u64::try_from(dataset.size_bytes).unwrap_or(0));
    output::line(&format!(
        "{}  {} rows, column '{column}', {size}: {}",
        dataset.name,
        dataset.rows,
        dataset.state.as_str()
    ))
}

/// Returns a dataset by its name or id.
async fn find(server: &Server, name: &str) -> Result<catalog::Dataset> {
    let request = GetDatasetRequest { name: name.to_owned() };
    Ok(server.datasets().get_dataset(request).await.map_err(|s| server.explain(&s))?.into_inner())
}

/// Returns the dataset that an argument names. A path that is not registered is registered, and stderr says so.
pub async fn resolve(server: &Server, text: &str, json: bool) -> Result<catalog::Dataset> {
    if is_handle(text) || text.starts_with("datasets/") {
        match find(server, text).await {
            Err(error) if is_missing(&error) && Path::new(text).exists() => {}
            found => return found,
        }
    }
    let path = absolute(text)?;
    let real = std::fs::canonicalize(&path).ok().and_then(|path| path.to_str().map(str::to_owned));
    let is_same = |dataset: &catalog::Dataset| {
        dataset.local_path == path || real.as_ref().is_some_and(|real| dataset.local_path == *real)
    };
    let registered = all(server).await?.into_iter().find(is_same);
    let local_path = match registered {
        Some(dataset) if dataset.state() == State::Ready => return Ok(dataset),
        // Adding it again follows it, or tries again after a failure.
        Some(dataset) => dataset.local_path,
        None => path.clone(),
    };
    let source = Some(Source::LocalPath(local_path));
    let request = AddDatasetRequest { source, handle: String::new(), column: String::new() };
    let dataset = add(server, request, json).await.map_err(with_name)?;
    eprintln!("registered {path} as dataset '{}'", dataset.handle);
    Ok(dataset)
}

fn is_missing(error: &anyhow::Error) -> bool {
    let service = error.downcast_ref::<ServiceError>();
    service.is_some_and(|error| error.reason == Reason::DatasetNotFound)
}

/// Another dataset may have the name that the path would get.
fn with_name(error: anyhow::Error) -> anyhow::Error {
    let service = error.downcast_ref::<ServiceError>();
    if service.is_some_and(|error| error.reason == Reason::DatasetAlreadyExists) {
        return error
            .context(Hint("register it under another name: 'millm datasets add PATH --name NAME'".into()));
    }
    error
}

async fn all(server: &Server) -> Result<Vec<catalog::Dataset>> {
    let mut datasets = Vec::new();
    let mut request = ListDatasetsRequest { page_size: 1000, ..ListDatasetsRequest::default() };
    loop {
        let page = server.datasets().list_datasets(request.clone()).await.map_err(|s| server.explain(&s))?;
        let page = page.into_inner();
        datasets.extend(page.datasets);
        if page.next_page_token.is_empty() {
            return Ok(datasets);
        }
        request.page_token = page.next_page_token;
    }
}

async fn list(server: &Server, json: bool) -> Result<()> {
    let datasets: Vec<Dataset> = all(server).await?.iter().map(Dataset::from).collect();
    if json {
        return output::json(&datasets);
    }
    if datasets.is_empty() {
        eprintln!(
            "no datasets yet: 'millm datasets add PATH' registers files, 'millm datasets add owner/name' fetches some"
        );
        return Ok(());
    }
    let row = |dataset: &Dataset| {
        vec![
            dataset.id.to_string(),
            dataset.name.clone(),
            dataset.rows.to_string(),
            format::bytes(u64::try_from(dataset.size_bytes).unwrap_or(0)),
            dataset.column.clone().unwrap_or_else(|| "-".to_owned()),
            dataset.state.as_str().to_owned(),
            dataset.repo_id.clone().or_else(|| dataset.local_path.clone()).unwrap_or_default(),
        ]
    };
    let rows: Vec<_> = datasets.iter().map(row).collect();
    output::table(&["ID", "NAME", "ROWS", "SIZE", "COLUMN", "STATE", "SOURCE"], &[0, 2, 3], &rows)
}

fn show(dataset: &catalog::Dataset, json: bool) -> Result<()> {
    let dataset = Dataset::from(dataset);
    if json {
        return output::json(&dataset);
    }
    let format = dataset.format.map(|format| format.as_str().to_owned());
    for (label, value) in [
        ("name", Some(dataset.name)),
        ("id", Some(dataset.id.to_string())),
        ("state", Some(dataset.state.as_str().to_owned())),
        ("error", dataset.error_message),
        ("source", dataset.repo_id.or(dataset.local_path)),
        ("revision", dataset.revision),
        ("commit", dataset.commit),
        ("config", dataset.config),
        ("split", dataset.split),
        ("format", format),
        ("rows", Some(dataset.rows.to_string())),
        ("reads column", dataset.column),
    ] {
        if let Some(value) = value {
            output::line(&format!("{label:14} {value}"))?;
        }
    }
    for column in &dataset.columns {
        output::line(&format!("{:14} {}  {}", "column", column.name, column.kind.as_str()))?;
    }
    for file in &dataset.files {
        let size = format::bytes(u64::try_from(file.size_bytes).unwrap_or(0));
        output::line(&format!(
            "{:14} {}  {} rows  {size}  sha256 {}",
            "file", file.path, file.rows, file.sha256
        ))?;
    }
    Ok(())
}

async fn rows(server: &Server, args: RowsArgs, json: bool) -> Result<()> {
    let request = ReadDatasetRowsRequest { name: args.dataset, offset: args.offset, limit: args.limit };
    let answer = server.downloader().read_dataset_rows(request).await.map_err(|s| server.explain(&s))?;
    if json {
        return output::json(&DatasetRows::new(args.offset, answer.get_ref()));
    }
    for row in &answer.get_ref().rows_json {
        output::line(row)?;
    }
    Ok(())
}

async fn remove(server: &Server, args: RmDatasets, json: bool) -> Result<()> {
    for name in &args.datasets {
        let dataset = find(server, name).await?;
        let what = format!("dataset '{}' ({} rows)", dataset.handle, dataset.rows);
        if !args.yes && !confirm::removal(&dataset.handle, &what, json)? {
            continue;
        }
        let request = RemoveDatasetRequest { name: format!("datasets/{}", dataset.id) };
        server.downloader().remove_dataset(request).await.map_err(|s| server.explain(&s))?;
        if json {
            output::json(&Removed { removed: dataset.handle, id: dataset.id })?;
        } else {
            eprintln!("removed {}", dataset.handle);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(source: &str) -> AddDataset {
        AddDataset {
            source: source.into(),
            name: String::new(),
            column: String::new(),
            config: String::new(),
            split: String::new(),
            revision: String::new(),
        }
    }

    #[test]
    fn paths_and_repositories_are_told_apart() {
        for (text, is_repository) in [
            ("owner/name", true),
            ("./owner/name", false),
            ("/data/a.jsonl", false),
            ("a.jsonl", false),
            ("owner/*.jsonl", false),
            // It exists: tests run in the crate's folder.
            ("src/commands", false),
        ] {
            let source = request(args(text), String::new()).unwrap().source.unwrap();
            assert_eq!(matches!(source, Source::Hub(_)), is_repository, "{text}");
            if let Source::LocalPath(path) = source {
                assert!(path.starts_with('/') && path.ends_with(text.trim_start_matches("./")), "{path}");
            }
        }
        let local = AddDataset { split: "test".into(), ..args("./a.jsonl") };
        assert!(request(local, String::new()).unwrap_err().downcast_ref::<Misuse>().is_some());
    }
}
