//! Local models, made from the trained model with changed files, and their use on a server.

use std::path::{Path, PathBuf};

use millm_kit::ServiceError;
use millm_proto::downloader::v1::start_download_request::Source;
use millm_proto::downloader::v1::{RemoveModelRequest, StartDownloadRequest, download};
use millm_proto::runtime::v1::{LoadModelRequest, LoadState, UnloadModelRequest};
use tempfile::TempDir;

use super::verdict::{Judged, Verdict, judge_outcome, judge_status};
use super::{Server, fixture, is_final};

/// A folder with the trained model, possibly changed.
pub struct LocalModel {
    folder: TempDir,
    /// The path that is registered: the folder, or a GGUF file in it.
    path: PathBuf,
}

impl LocalModel {
    /// Returns the trained model as published.
    pub fn tiny() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        for entry in std::fs::read_dir(fixture("tiny-millm")).expect("fixtures are readable").flatten() {
            if entry.file_name() != "reference_greedy.json" {
                std::fs::copy(entry.path(), folder.path().join(entry.file_name())).expect("a copy");
            }
        }
        Self { path: folder.path().to_owned(), folder }
    }

    /// Returns a model of one GGUF file with these bytes.
    pub fn gguf(bytes: &[u8]) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("model.gguf");
        std::fs::write(&path, bytes).expect("the folder is ours");
        Self { folder, path }
    }

    #[must_use]
    pub fn with(self, file: &str, content: impl AsRef<[u8]>) -> Self {
        self.write(file, content);
        self
    }

    #[must_use]
    pub fn without(self, file: &str) -> Self {
        std::fs::remove_file(self.folder.path().join(file)).expect("it is there");
        self
    }

    pub fn write(&self, file: &str, content: impl AsRef<[u8]>) {
        std::fs::write(self.folder.path().join(file), content).expect("the folder is ours");
    }

    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Server {
    /// Registers and loads a model on the command line. Returns the first refusal, or the success of the second
    /// command.
    pub async fn add_and_load_by_cli(&self, path: &Path, handle: &str) -> Judged {
        let path = path.to_str().expect("our paths are UTF-8");
        let added = judge_outcome(&self.cli().run(&["add", path, "--name", handle, "--json"]).await)?;
        if !added.is_taken() {
            return Ok(added);
        }
        judge_outcome(&self.cli().run(&["load", handle, "--json"]).await)
    }

    /// Does the same over gRPC.
    pub async fn add_and_load(&self, path: &Path, handle: &str) -> Judged {
        match self.try_add(path, handle).await {
            Ok(()) => self.try_load(handle).await,
            Err(refused) => refused,
        }
    }

    async fn try_add(&self, path: &Path, handle: &str) -> Result<(), Judged> {
        let request = StartDownloadRequest {
            source: Some(Source::LocalPath(path.to_str().expect("our paths are UTF-8").to_owned())),
            handle: handle.to_owned(),
            ..StartDownloadRequest::default()
        };
        let started = self.downloader().start_download(request).await;
        let mut download = started.map_err(|status| judge_status(&status))?.into_inner();
        if !is_final(&download) {
            download = self.watch_until(download.model_id, is_final).await;
        }
        match download.error {
            Some(error) if download.state() == download::State::Failed => Err(Ok(refused(&error))),
            _ => Ok(()),
        }
    }

    async fn try_load(&self, handle: &str) -> Judged {
        let request = LoadModelRequest { model: handle.to_owned(), ..LoadModelRequest::default() };
        let mut stream = match self.runtime().load_model(request).await {
            Ok(answer) => answer.into_inner(),
            Err(status) => return judge_status(&status),
        };
        loop {
            match stream.message().await {
                Ok(Some(progress)) => match progress.error {
                    Some(error) => return Ok(refused(&error)),
                    None if progress.state() == LoadState::Loaded => return Ok(Verdict::taken("")),
                    None => {}
                },
                Ok(None) => return Err("the load ended without a last word".to_owned()),
                Err(status) => return judge_status(&status),
            }
        }
    }

    /// Unloads a model and removes it, in any state.
    pub async fn remove_local(&self, handle: &str) -> Result<(), String> {
        let request = UnloadModelRequest { model: handle.to_owned(), ..UnloadModelRequest::default() };
        if let Ok(answer) = self.runtime().unload_model(request).await {
            let mut stream = answer.into_inner();
            while stream.message().await.map_err(|status| format!("unloading: {status}"))?.is_some() {}
        }
        let removed = self.downloader().remove_model(RemoveModelRequest { name: handle.to_owned() }).await;
        match removed {
            Err(status) if status.code() != tonic::Code::NotFound => Err(format!("removing: {status}")),
            _ => Ok(()),
        }
    }
}

fn refused(error: &millm_proto::rpc::Status) -> Verdict {
    Verdict::from(&ServiceError::from_rpc(error))
}
