//! The fixture of the tests: a hub, a Catalog, a Runtime, a models folder, and Downloaders that start and stop.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use fake_hub::{Content, Hub, RepoSpec, RunningHub, synthetic::Shape};
use millm_kit::{Channel, Host, ServiceError, Settings, Shutdown};
use millm_proto::{
    catalog::v1::Quantization,
    downloader::v1::{
        CancelDownloadRequest, CheckStorageRequest, Download, HubSource, ListDownloadsRequest,
        RemoveModelRequest, StartDownloadRequest, StorageReport, WatchDownloadRequest, download::State,
        downloader_service_client::DownloaderServiceClient, start_download_request::Source,
    },
};
use serde_json::{Value, json};
use tempfile::TempDir;
use tonic::Streaming;

use super::{idle_runtime::IdleRuntime, memory_catalog::MemoryCatalog};
use crate::{DiskSpace, Downloader};

pub const FIXTURES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/fixtures");
/// Weights of the synthetic models: more than two chunks.
pub const MIB: u64 = 22;

pub struct Fixture {
    pub hub: RunningHub,
    pub catalog: MemoryCatalog,
    pub runtime: IdleRuntime,
    pub folder: TempDir,
    /// Environment variables with settings.
    pub settings: Vec<(&'static str, String)>,
    pub disk: Option<Arc<dyn DiskSpace>>,
}

/// A running Downloader.
pub struct Running {
    pub client: DownloaderServiceClient<Channel>,
    host: Host,
}

/// A disk with this many free bytes.
#[derive(Debug)]
pub struct Free(pub u64);

impl DiskSpace for Free {
    fn available(&self, _: &Path) -> io::Result<u64> {
        Ok(self.0)
    }
}

pub fn tiny(id: &str) -> RepoSpec {
    RepoSpec::folder(id, &PathBuf::from(FIXTURES).join("tiny-millm")).unwrap()
}

pub fn synthetic(id: &str) -> RepoSpec {
    Shape::of_mib(7, MIB).repo(id, &PathBuf::from(FIXTURES).join("tiny-millm")).unwrap()
}

/// The tiny model in two shards.
pub fn sharded(id: &str) -> RepoSpec {
    let bytes = std::fs::read(format!("{FIXTURES}/tiny-millm/model.safetensors")).unwrap();
    let header = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let tensors: Value = serde_json::from_slice(&bytes[8..8 + header]).unwrap();
    let (mut shards, mut map) = (Vec::new(), serde_json::Map::new());
    let entries: Vec<_> =
        tensors.as_object().unwrap().iter().filter(|(name, _)| *name != "__metadata__").collect();
    for (place, part) in entries.chunks(entries.len().div_ceil(2)).enumerate() {
        let name = format!("model-{:05}-of-00002.safetensors", place + 1);
        let (mut table, mut data) = (serde_json::Map::new(), Vec::new());
        for (tensor, entry) in part {
            let offsets = &entry["data_offsets"];
            let range = offsets[0].as_u64().unwrap() as usize..offsets[1].as_u64().unwrap() as usize;
            let start = data.len();
            data.extend_from_slice(&bytes[8 + header..][range]);
            let entry = json!({"dtype": entry["dtype"], "shape": entry["shape"], "data_offsets": [start, data.len()]});
            table.insert((*tensor).clone(), entry);
            map.insert((*tensor).clone(), json!(name));
        }
        let table = Value::Object(table).to_string();
        let mut file = (table.len() as u64).to_le_bytes().to_vec();
        file.extend_from_slice(table.as_bytes());
        file.extend_from_slice(&data);
        shards.push((name, file));
    }
    let mut repo = tiny(id).file("model.safetensors.index.json", json!({"weight_map": map}).to_string());
    repo.files.retain(|(name, _)| name != "model.safetensors");
    for (name, file) in shards {
        repo = repo.file(name, Content::Bytes(file.into()));
    }
    repo
}

impl Fixture {
    pub fn new(repos: impl IntoIterator<Item = RepoSpec>) -> Self {
        let hub = repos.into_iter().fold(Hub::builder(), fake_hub::HubBuilder::repo).start().unwrap();
        Self {
            hub,
            catalog: MemoryCatalog::default(),
            runtime: IdleRuntime::default(),
            folder: tempfile::tempdir().unwrap(),
            settings: vec![("MILLM_DOWNLOAD_STALL_TIMEOUT", "2".to_owned())],
            disk: None,
        }
    }

    pub async fn start(&self) -> Running {
        let env = |name: &str| {
            let given = self.settings.iter().find(|(key, _)| *key == name).map(|(_, value)| value.clone());
            given.or_else(|| match name {
                "HF_ENDPOINT" => Some(self.hub.url().to_owned()),
                "MODEL_CACHE_DIR" => Some(self.models().display().to_string()),
                _ => None,
            })
        };
        let settings = Settings::load(None, env, &[]).unwrap();
        let mut downloader =
            Downloader::build(&settings, self.catalog.channel(), self.runtime.channel()).unwrap();
        if let Some(disk) = &self.disk {
            downloader = downloader.with_disk(Arc::clone(disk));
        }
        let mut host = Host::new(Shutdown::default());
        let channel = downloader.mount(&mut host).await;
        Running { client: DownloaderServiceClient::new(channel), host }
    }

    pub fn models(&self) -> PathBuf {
        self.folder.path().join("models")
    }

    /// Returns the sorted names in one folder of the models folder.
    pub fn names(&self, below: &str) -> Vec<String> {
        let entries = std::fs::read_dir(self.models().join(below)).unwrap();
        let mut names: Vec<_> = entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    /// Returns the bytes of bodies that the hub sent for files with this name.
    pub fn bytes_sent(&self, file: &str) -> u64 {
        self.hub.log().iter().filter(|entry| entry.path.ends_with(file)).map(|entry| entry.bytes_sent).sum()
    }
}

pub fn pull(repo: &str, quantization: Quantization) -> StartDownloadRequest {
    StartDownloadRequest {
        source: Some(Source::Hub(HubSource { repo_id: repo.to_owned(), ..HubSource::default() })),
        quantization: quantization.into(),
        ..StartDownloadRequest::default()
    }
}

pub fn with_token(mut request: StartDownloadRequest, token: &str) -> StartDownloadRequest {
    if let Some(Source::Hub(hub)) = &mut request.source {
        token.clone_into(&mut hub.hf_token);
    }
    request
}

pub fn local(path: &Path, quantization: Quantization) -> StartDownloadRequest {
    StartDownloadRequest {
        source: Some(Source::LocalPath(path.display().to_string())),
        quantization: quantization.into(),
        ..StartDownloadRequest::default()
    }
}

impl Running {
    pub async fn pull(&mut self, request: StartDownloadRequest) -> Result<Download, ServiceError> {
        Ok(self.client.start_download(request).await?.into_inner())
    }

    pub async fn watch(&mut self, id: i64) -> Streaming<Download> {
        let request = WatchDownloadRequest { name: format!("downloads/{id}") };
        self.client.watch_download(request).await.unwrap().into_inner()
    }

    /// Returns all snapshots to the final one. Each is checked against the one before.
    pub async fn until_end(&mut self, id: i64) -> Vec<Download> {
        let mut stream = self.watch(id).await;
        let collect = async {
            let mut seen: Vec<Download> = Vec::new();
            while let Some(snapshot) = stream.message().await.unwrap() {
                if let Some(last) = seen.last() {
                    assert!(snapshot.fraction >= last.fraction, "{} < {}", snapshot.fraction, last.fraction);
                    assert!(snapshot.downloaded_bytes >= last.downloaded_bytes);
                }
                seen.push(snapshot);
            }
            seen
        };
        let seen = tokio::time::timeout(Duration::from_mins(1), collect).await.expect("a download hangs");
        assert!(crate::progress::is_final(seen.last().unwrap().state()));
        seen
    }

    /// Waits until a download lacks at most this many bytes.
    pub async fn all_but(&mut self, id: i64, bytes: i64) {
        let mut stream = self.watch(id).await;
        while let Some(snapshot) = stream.message().await.unwrap() {
            if snapshot.total_bytes > 0 && snapshot.downloaded_bytes >= snapshot.total_bytes - bytes {
                return;
            }
        }
        panic!("the download ended before");
    }

    pub async fn end_of(&mut self, id: i64) -> Download {
        self.until_end(id).await.pop().unwrap()
    }

    /// Starts a download and waits for its success.
    pub async fn fetch(&mut self, request: StartDownloadRequest) -> Download {
        let id = self.pull(request).await.unwrap().model_id;
        let end = self.end_of(id).await;
        assert_eq!(end.state(), State::Succeeded, "{:?}", end.error);
        end
    }

    pub async fn cancel(&mut self, name: impl ToString) -> Result<(), ServiceError> {
        let request = CancelDownloadRequest { name: name.to_string() };
        self.client.cancel_download(request).await?;
        Ok(())
    }

    pub async fn remove(&mut self, name: impl ToString) -> Result<(), ServiceError> {
        self.client.remove_model(RemoveModelRequest { name: name.to_string() }).await?;
        Ok(())
    }

    pub async fn check_storage(&mut self, fix: bool) -> StorageReport {
        self.client.check_storage(CheckStorageRequest { fix }).await.unwrap().into_inner()
    }

    pub async fn list(&mut self) -> Vec<Download> {
        self.client.list_downloads(ListDownloadsRequest {}).await.unwrap().into_inner().downloads
    }

    /// Stops as a process does: nothing is completed, nothing is removed.
    pub async fn stop(self) {
        self.host.shutdown.stopping.cancel();
        self.host.tasks.close();
        self.host.tasks.wait().await;
    }
}

pub fn reason(download: &Download) -> millm_kit::Reason {
    ServiceError::from_rpc(download.error.as_ref().expect("the download failed")).reason
}
