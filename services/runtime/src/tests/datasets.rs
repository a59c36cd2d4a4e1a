//! A catalog of datasets, and what tests ask of extractions.

use std::{collections::BTreeMap, fs, sync::Arc};

use millm_kit::ServiceError;
use millm_proto::{
    catalog::v1::{
        CreateDatasetRequest, Dataset, DatasetColumn, DatasetFile, DatasetFormat, DeleteDatasetRequest,
        ExtractionSettings, GetDatasetRequest, ListDatasetsRequest, ListDatasetsResponse,
        UpdateDatasetRequest, dataset::State, dataset_column::Kind, datasets_service_server::DatasetsService,
    },
    inspection::v1::{
        Extraction, ExtractionConfig, GetExtractionRequest, ReadExtractionFileRequest,
        StartExtractionRequest, WatchExtractionRequest, extraction,
    },
};
use parking_lot::Mutex;
use tempfile::TempDir;
use tonic::{Request, Response, Status};

use super::fixture::{Fixture, collect};

/// Datasets of JSON lines, in a folder of the test.
#[derive(Clone)]
pub struct FakeDatasets {
    rows: Arc<Mutex<BTreeMap<i64, Dataset>>>,
    folder: Arc<TempDir>,
}

impl Default for FakeDatasets {
    fn default() -> Self {
        Self { rows: Arc::default(), folder: Arc::new(tempfile::tempdir().unwrap()) }
    }
}

impl FakeDatasets {
    /// Adds or replaces a dataset with a file of these lines.
    pub fn put(&self, id: i64, handle: &str, lines: &[String], kind: Kind) {
        let path = self.folder.path().canonicalize().unwrap().join(format!("{handle}.jsonl"));
        let text = lines.iter().map(|line| format!("{line}\n")).collect::<Vec<_>>().concat();
        fs::write(&path, &text).unwrap();
        let column = DatasetColumn { name: "text".into(), kind: kind.into() };
        let file = DatasetFile {
            path: path.to_str().unwrap().to_owned(),
            size_bytes: text.len() as i64,
            sha256: format!("{:064x}", text.len()),
            rows: lines.len() as i64,
        };
        let dataset = Dataset {
            name: format!("datasets/{id}"),
            id,
            handle: handle.into(),
            format: DatasetFormat::Jsonl.into(),
            rows: lines.len() as i64,
            files: vec![file],
            columns: vec![column, DatasetColumn { name: "id".into(), kind: Kind::Other.into() }],
            column: "text".into(),
            state: State::Ready.into(),
            ..Dataset::default()
        };
        self.rows.lock().insert(id, dataset);
    }

    /// Adds a dataset of texts.
    pub fn put_texts(&self, id: i64, handle: &str, texts: &[&str]) {
        let lines: Vec<String> =
            texts.iter().map(|text| serde_json::json!({"text": text, "id": 1}).to_string()).collect();
        self.put(id, handle, &lines, Kind::Text);
    }

    /// Changes a dataset's row.
    pub fn change(&self, id: i64, change: impl FnOnce(&mut Dataset)) {
        change(self.rows.lock().get_mut(&id).unwrap());
    }
}

#[tonic::async_trait]
impl DatasetsService for FakeDatasets {
    async fn get_dataset(&self, request: Request<GetDatasetRequest>) -> Result<Response<Dataset>, Status> {
        let name = request.into_inner().name;
        let rows = self.rows.lock();
        let mut found = rows.values().filter(|row| row.handle == name || row.name == name);
        let row = found.next().cloned().ok_or_else(|| ServiceError::dataset_not_found(name))?;
        Ok(Response::new(row))
    }

    async fn create_dataset(&self, _: Request<CreateDatasetRequest>) -> Result<Response<Dataset>, Status> {
        Err(Status::unimplemented("not in the fake catalog"))
    }

    async fn list_datasets(
        &self,
        _: Request<ListDatasetsRequest>,
    ) -> Result<Response<ListDatasetsResponse>, Status> {
        Err(Status::unimplemented("not in the fake catalog"))
    }

    async fn update_dataset(&self, _: Request<UpdateDatasetRequest>) -> Result<Response<Dataset>, Status> {
        Err(Status::unimplemented("not in the fake catalog"))
    }

    async fn delete_dataset(&self, _: Request<DeleteDatasetRequest>) -> Result<Response<()>, Status> {
        Err(Status::unimplemented("not in the fake catalog"))
    }
}

/// Returns what an extraction of `tiny` is asked for.
pub fn config(
    dataset: &str,
    points: &[&str],
    change: impl FnOnce(&mut ExtractionSettings),
) -> ExtractionConfig {
    let points = points.iter().map(|point| (*point).to_owned()).collect();
    let mut settings = ExtractionSettings { points, ..ExtractionSettings::default() };
    change(&mut settings);
    ExtractionConfig {
        model: "tiny".into(),
        dataset: dataset.into(),
        settings: Some(settings),
        ..ExtractionConfig::default()
    }
}

impl Fixture {
    /// Starts an extraction.
    pub async fn start_extraction(&self, config: ExtractionConfig) -> Result<Extraction, ServiceError> {
        let request = StartExtractionRequest { config: Some(config) };
        Ok(self.inspection.clone().start_extraction(request).await?.into_inner())
    }

    /// Waits until a job is over.
    pub async fn over(&self, id: &str) -> Extraction {
        let request = WatchExtractionRequest { name: id.into() };
        let stream = self.inspection.clone().watch_extraction(request).await.unwrap().into_inner();
        collect(stream).await.pop().unwrap()
    }

    /// Watches a job until the condition holds.
    pub async fn wait_job(&self, id: &str, condition: impl Fn(&Extraction) -> bool) -> Extraction {
        let request = WatchExtractionRequest { name: id.into() };
        let mut stream = self.inspection.clone().watch_extraction(request).await.unwrap().into_inner();
        loop {
            let shown = stream.message().await.unwrap().expect("it comes to that before the job is over");
            if condition(&shown) {
                return shown;
            }
        }
    }

    /// Runs an extraction to its end.
    pub async fn extract(&self, config: ExtractionConfig) -> Extraction {
        let id = self.start_extraction(config).await.unwrap().id;
        let shown = self.over(&id).await;
        assert_eq!(shown.state(), extraction::State::Succeeded, "{shown:?}");
        shown
    }

    /// Returns a job's present state.
    pub async fn job(&self, id: &str) -> Result<Extraction, ServiceError> {
        let request = GetExtractionRequest { name: id.into() };
        Ok(self.inspection.clone().get_extraction(request).await?.into_inner())
    }

    /// Reads a part of a job's file: its bytes and the whole file's size.
    pub async fn read(
        &self,
        id: &str,
        file: &str,
        offset: u64,
        length: u64,
    ) -> Result<(Vec<u8>, u64), ServiceError> {
        let request = ReadExtractionFileRequest { name: id.into(), file: file.into(), offset, length };
        let stream = self.inspection.clone().read_extraction_file(request).await?.into_inner();
        let chunks = collect(stream).await;
        let size = chunks[0].size_bytes;
        Ok((chunks.into_iter().flat_map(|chunk| chunk.data).collect(), size))
    }
}

/// Returns the checksums of a job's files but the metadata, whose times differ.
pub fn checksums(shown: &Extraction) -> BTreeMap<String, String> {
    let files = shown.files.iter().filter(|file| file.name != "metadata.json");
    files.map(|file| (file.name.clone(), file.sha256.clone())).collect()
}
