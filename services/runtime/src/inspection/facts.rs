//! The facts that pin an extraction: model, dataset, settings, program and machine, as `metadata.json` has them.

use std::path::PathBuf;

use jiff::Timestamp;
use millm_engine::KernelSet;
use millm_extraction::{
    DataType, DatasetFacts, EngineFacts, Facts, FileFact, ModelFacts, RunFacts, SettingsFacts,
};
use millm_kit::{ServiceError, quantization};
use millm_model::{Checkpoint, TokenizerFiles};
use millm_proto::{
    catalog::v1::{Dataset, DatasetFormat, ExtractionSettings, Model},
    inspection::v1::ExtractionConfig,
};
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use super::texts::file_name;
use crate::{error, options::LoaderOptions};

/// Returns the present time as RFC 3339.
pub(super) fn now() -> String {
    // Whole seconds are enough for people.
    Timestamp::from_second(Timestamp::now().as_second()).unwrap_or_default().to_string()
}

/// Returns the facts of a job that begins to run. `column` is the one that is read.
///
/// # Errors
///
/// The errors of a checkpoint that cannot be opened.
pub(super) async fn gather(
    id: &str,
    model: &Model,
    dataset: &Dataset,
    column: &str,
    config: &ExtractionConfig,
    options: &LoaderOptions,
) -> Result<Facts, ServiceError> {
    Ok(Facts {
        model: model_facts(model).await?,
        dataset: dataset_facts(dataset, column),
        settings: settings_facts(&config.settings.clone().unwrap_or_default()),
        engine: engine_facts(options),
        run: RunFacts {
            id: id.to_owned(),
            host: sysinfo::System::host_name().unwrap_or_default(),
            start_time: now(),
            ..RunFacts::default()
        },
    })
}

/// Returns what differs between the facts of a job's first run and its present one; `None` if the job can go on with the
/// same results.
pub(super) fn changed(first: &Facts, present: &Facts) -> Option<&'static str> {
    // People may rename models and datasets.
    let model = |facts: &Facts| ModelFacts { handle: String::new(), ..facts.model.clone() };
    let dataset = |facts: &Facts| DatasetFacts { handle: String::new(), ..facts.dataset.clone() };
    if model(first) != model(present) {
        Some("the model")
    } else if dataset(first) != dataset(present) {
        Some("the dataset")
    } else if first.engine != present.engine {
        Some("the program, its kernels or the machine")
    } else {
        None
    }
}

async fn model_facts(model: &Model) -> Result<ModelFacts, ServiceError> {
    let path = PathBuf::from(&model.storage_path);
    let hashes = tokio::task::spawn_blocking(move || {
        let files = Checkpoint::open(&path).map_err(error::from_model)?.tokenizer_files();
        let template = chat_template(&files).map(|text| sha256(text.as_bytes()));
        let all = serde_json::to_vec(&files).map_err(ServiceError::internal)?;
        Ok::<_, ServiceError>((sha256(&all), template.unwrap_or_default()))
    });
    let (tokenizer_sha256, chat_template_sha256) = hashes.await.map_err(error::from_panic)??;
    let file = |file: &millm_proto::catalog::v1::ModelFile| FileFact {
        name: file.path.clone(),
        size_bytes: file.size_bytes.max(0) as u64,
        sha256: file.sha256.clone(),
    };
    Ok(ModelFacts {
        handle: model.handle.clone(),
        repo_id: model.repo_id.clone(),
        commit: model.commit.clone(),
        quantization: quantization::name(model.actual_quantization()).to_owned(),
        architecture: model.architecture.as_ref().map(|spec| spec.name.clone()).unwrap_or_default(),
        files: model.files.iter().map(file).collect(),
        tokenizer_sha256,
        chat_template_sha256,
    })
}

/// Returns the text of the chat template, from the file that a model has it in.
fn chat_template(files: &TokenizerFiles) -> Option<String> {
    let in_config = || {
        let config: Value = serde_json::from_str(files.tokenizer_config.as_deref()?).ok()?;
        match config.get("chat_template")? {
            Value::Null => None,
            Value::String(text) => Some(text.clone()),
            named => Some(named.to_string()),
        }
    };
    let in_metadata = || files.metadata.as_ref()?.text("tokenizer.chat_template").ok()?.map(str::to_owned);
    files.chat_template.clone().or_else(in_config).or_else(in_metadata)
}

fn dataset_facts(dataset: &Dataset, column: &str) -> DatasetFacts {
    let format = match dataset.format() {
        DatasetFormat::Jsonl => "jsonl",
        DatasetFormat::Csv => "csv",
        DatasetFormat::Text => "text",
        DatasetFormat::Parquet => "parquet",
        DatasetFormat::Unspecified => "",
    };
    let mut digest = Sha256::new();
    for file in &dataset.files {
        digest.update(file.sha256.as_bytes());
        digest.update(b"\n");
    }
    let file = |file: &millm_proto::catalog::v1::DatasetFile| FileFact {
        name: file_name(&file.path),
        size_bytes: file.size_bytes.max(0) as u64,
        sha256: file.sha256.clone(),
    };
    DatasetFacts {
        handle: dataset.handle.clone(),
        repo_id: dataset.repo_id.clone(),
        commit: dataset.commit.clone(),
        config: dataset.config.clone(),
        split: dataset.split.clone(),
        format: format.to_owned(),
        column: column.to_owned(),
        sha256: hex::encode(digest.finalize()),
        files: dataset.files.iter().map(file).collect(),
    }
}

fn settings_facts(settings: &ExtractionSettings) -> SettingsFacts {
    SettingsFacts {
        points: settings.points.clone(),
        layers: settings.layers.clone(),
        max_samples: settings.max_samples,
        sequence_length: settings.sequence_length,
        positions: settings.positions.clone(),
        pack: settings.pack,
        split: settings.split,
        chat_template: settings.chat_template,
        no_special_tokens: settings.no_special_tokens,
        dtype: Some(super::request::data_type(settings.dtype()).unwrap_or(DataType::F32)),
        seed: None,
    }
}

fn engine_facts(options: &LoaderOptions) -> EngineFacts {
    let kernels = options.kernels.unwrap_or_else(KernelSet::best);
    EngineFacts {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        device: options.devices.device.to_string(),
        kernels: kernels.name().to_owned(),
        processor: options.devices.all().into_iter().next().map(|device| device.name).unwrap_or_default(),
        features: processor_features().into_iter().map(str::to_owned).collect(),
    }
}

/// Returns the processor's features that kernels may use.
fn processor_features() -> Vec<&'static str> {
    #[cfg(target_arch = "x86_64")]
    {
        let features = [
            ("avx2", std::is_x86_feature_detected!("avx2")),
            ("fma", std::is_x86_feature_detected!("fma")),
            ("f16c", std::is_x86_feature_detected!("f16c")),
            ("avx512f", std::is_x86_feature_detected!("avx512f")),
            ("avx512bw", std::is_x86_feature_detected!("avx512bw")),
            ("avx512vnni", std::is_x86_feature_detected!("avx512vnni")),
            ("avx512bf16", std::is_x86_feature_detected!("avx512bf16")),
        ];
        features.into_iter().filter(|(_, present)| *present).map(|(name, _)| name).collect()
    }
    #[cfg(not(target_arch = "x86_64"))]
    Vec::new()
}

fn sha256(bytes: &[u8]) -> String {
    hex::encode(Sha256::digest(bytes))
}
