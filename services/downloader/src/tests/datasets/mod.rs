//! Datasets, of this machine and of a fake hub.

mod hub;
mod local;
pub mod memory_datasets;

use std::{path::Path, time::Duration};

use millm_kit::{Reason, ServiceError};
use millm_proto::{
    catalog::v1::{Dataset, dataset::State},
    downloader::v1::{
        AddDatasetProgress, AddDatasetRequest, HubDataset, ReadDatasetRowsRequest, RemoveDatasetRequest,
        add_dataset_request::Source,
    },
};
use serde_json::Value;
use tonic::Streaming;

use super::fixture::Running;

fn of_hub(repo: &str) -> AddDatasetRequest {
    of_split(repo, "", "")
}

fn of_split(repo: &str, config: &str, split: &str) -> AddDatasetRequest {
    let (repo_id, config, split) = (repo.to_owned(), config.to_owned(), split.to_owned());
    let source = Source::Hub(HubDataset { repo_id, config, split, ..HubDataset::default() });
    AddDatasetRequest { source: Some(source), ..AddDatasetRequest::default() }
}

fn of_path(path: &Path) -> AddDatasetRequest {
    let source = Source::LocalPath(path.display().to_string());
    AddDatasetRequest { source: Some(source), ..AddDatasetRequest::default() }
}

async fn begin(
    downloader: &mut Running,
    request: AddDatasetRequest,
) -> Result<Streaming<AddDatasetProgress>, ServiceError> {
    Ok(downloader.client.add_dataset(request).await?.into_inner())
}

/// Returns the last message.
async fn end_of(mut stream: Streaming<AddDatasetProgress>) -> Result<Dataset, ServiceError> {
    let mut last = AddDatasetProgress::default();
    let collect = async {
        while let Some(progress) = stream.message().await? {
            last = progress;
        }
        Ok::<_, ServiceError>(())
    };
    tokio::time::timeout(Duration::from_mins(1), collect).await.expect("a dataset hangs")?;
    let dataset = last.dataset.expect("every message has the dataset");
    assert_eq!(last.error, dataset.error);
    Ok(dataset)
}

/// Adds a dataset and waits for its end.
async fn add(downloader: &mut Running, request: AddDatasetRequest) -> Result<Dataset, ServiceError> {
    end_of(begin(downloader, request).await?).await
}

/// Adds a dataset that becomes READY.
async fn added(downloader: &mut Running, request: AddDatasetRequest) -> Dataset {
    let dataset = add(downloader, request).await.unwrap();
    assert_eq!(dataset.state(), State::Ready, "{:?}", dataset.error);
    dataset
}

/// Adds a dataset whose job fails, and returns the error.
async fn failed(downloader: &mut Running, request: AddDatasetRequest) -> (Dataset, ServiceError) {
    let dataset = add(downloader, request).await.unwrap();
    assert_eq!(dataset.state(), State::Error);
    let error = ServiceError::from_rpc(dataset.error.as_ref().expect("it failed"));
    (dataset, error)
}

async fn refusal(downloader: &mut Running, request: AddDatasetRequest) -> (Reason, String) {
    let error = begin(downloader, request).await.map(drop).unwrap_err();
    (error.reason, error.message)
}

async fn rows(
    downloader: &mut Running,
    name: &str,
    offset: u64,
    limit: u32,
) -> Result<Vec<Value>, ServiceError> {
    let request = ReadDatasetRowsRequest { name: name.to_owned(), offset, limit };
    let answer = downloader.client.read_dataset_rows(request).await?.into_inner();
    Ok(answer.rows_json.iter().map(|json| serde_json::from_str(json).unwrap()).collect())
}

async fn remove(downloader: &mut Running, name: &str) -> Result<(), ServiceError> {
    downloader.client.remove_dataset(RemoveDatasetRequest { name: name.to_owned() }).await?;
    Ok(())
}
