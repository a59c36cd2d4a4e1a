//! Checks what an extraction is asked to do, and estimates what it takes. Nothing is written.

use std::path::{Path, PathBuf};

use millm_engine::{MAX_CAPTURE_SEQUENCES, MAX_CAPTURE_TOKENS, MAX_DELIVERY_BYTES};
use millm_extraction::{DataType, Layout, PlanSettings, Point, Positions, RowLength, Shard, WriterOptions};
use millm_kit::{Reason, ServiceError};
use millm_model::{Hook, ModelSpec};
use millm_proto::{
    catalog::v1::{ActivationFormat, ActivationType, Dataset, ExtractionSettings, Model},
    inspection::v1::{ExtractionConfig, ExtractionEstimate},
};

use super::{
    batches::auto_batch,
    texts::{DatasetsClient, Texts, Tokenizing},
};
use crate::{
    error,
    model_finder::{Acquired, ModelFinder},
};

/// The most names of points in a request.
const MAX_NAMES: usize = 10_000;
/// Bytes of a text that a token stands for, on average. It is used to estimate lengths that only tokenizing could tell.
const BYTES_PER_TOKEN: u64 = 4;
/// Bytes that are kept for each dimension of a point: sums and largest numbers, of everything and of a batch.
const STATISTICS_BYTES: u64 = 2 * (16 + 8 + 4);
/// Bytes that are kept for each point in addition.
const POINT_BYTES: u64 = 96 << 10;
/// The memory of a job beside the activations.
const JOB_BYTES: u64 = 16 << 20;
/// The part of the disk that stays free.
const DISK_RESERVE: u64 = 64 << 20;

/// An extraction that can begin.
pub(super) struct Checked {
    pub model: Model,
    pub dataset: Dataset,
    pub texts: Texts,
    pub settings: CheckedSettings,
}

/// The settings of an extraction, with everything resolved for the model.
#[derive(Debug, Clone)]
pub(super) struct CheckedSettings {
    pub points: Vec<Point>,
    pub plan: PlanSettings,
    pub positions: Positions,
    pub dtype: DataType,
    /// Samples of a batch at most; `None` chooses a number.
    pub batch_size: Option<u32>,
    pub chat: bool,
    pub special_tokens: bool,
}

impl CheckedSettings {
    /// Returns the layout of the arrays for a plan of so many samples and tokens of a row.
    pub fn layout(&self, samples: u64, sequence_length: usize) -> Layout {
        Layout {
            points: self.points.clone(),
            samples,
            sequence_length,
            positions: self.positions.clone(),
            dtype: self.dtype,
            shard: self.plan.shard,
        }
    }

    /// Returns the hooks.
    pub fn hooks(&self) -> Vec<Hook> {
        self.points.iter().map(|point| point.hook).collect()
    }

    /// Returns the samples of a batch with rows of so many tokens.
    pub fn batch(&self, sequence_length: usize, kv_tokens: usize) -> u32 {
        let auto = auto_batch(sequence_length, kv_tokens);
        let most = (MAX_CAPTURE_TOKENS / sequence_length.max(1)).clamp(1, MAX_CAPTURE_SEQUENCES) as u32;
        self.batch_size.unwrap_or(auto).min(most)
    }

    /// Returns the memory that a job takes beyond the model.
    pub fn memory_bytes(&self) -> u64 {
        let dimensions: usize = self
            .points
            .iter()
            .map(|point| point.shape.iter().filter(|size| **size > 0).product::<usize>())
            .sum();
        let queue = WriterOptions::default().queue_bytes as u64;
        let layer = (dimensions as u64 * 4 * 256).min(MAX_DELIVERY_BYTES as u64);
        JOB_BYTES
            + queue
            + layer
            + dimensions as u64 * STATISTICS_BYTES
            + self.points.len() as u64 * POINT_BYTES
    }
}

/// Checks an extraction: the model is loaded, the dataset can be read, and the settings fit both.
///
/// # Errors
///
/// INVALID_ARGUMENT with the field, HOOK_POINT_UNKNOWN, the errors of [`ModelFinder::acquire`] and of the dataset.
pub(super) async fn check(
    config: &ExtractionConfig,
    models: &ModelFinder,
    datasets: &DatasetsClient,
) -> Result<Checked, ServiceError> {
    let Acquired { model: loaded, guard, handle } = models.acquire(&config.model).await?;
    let settings = check_settings(config, loaded.engine.spec(), loaded.engine.context_length(), &handle)?;
    let id = loaded.id;
    drop((loaded, guard));
    let model = models.catalog.find(&id.to_string()).await?;
    let (dataset, texts) = find_texts(config, datasets, settings.chat).await?;
    Ok(Checked { model, dataset, texts, settings })
}

async fn find_texts(
    config: &ExtractionConfig,
    datasets: &DatasetsClient,
    chat: bool,
) -> Result<(Dataset, Texts), ServiceError> {
    let dataset = datasets.ready(&config.dataset).await?;
    let texts = Texts::new(&dataset, &config.column)?;
    Tokenizing::check(chat, &texts.column)?;
    Ok((dataset, texts))
}

/// Checks the settings against a model whose requests may have `context` tokens. `handle` names it in errors.
///
/// # Errors
///
/// INVALID_ARGUMENT with the field, or HOOK_POINT_UNKNOWN.
pub(super) fn check_settings(
    config: &ExtractionConfig,
    spec: &ModelSpec,
    context: usize,
    handle: &str,
) -> Result<CheckedSettings, ServiceError> {
    let settings = config.settings.clone().unwrap_or_default();
    let points = resolve_points(&settings.points, &settings.layers, spec, handle)?;
    let length = match settings.sequence_length as usize {
        0 => RowLength::Longest(context),
        tokens if tokens > context => {
            let why = format!("is {tokens}, and the context of '{handle}' holds {context} tokens");
            return Err(ServiceError::invalid_argument("settings.sequence_length", why));
        }
        tokens => RowLength::Exactly(tokens),
    };
    let shard = Shard::new(config.shard_index, config.shard_count).map_err(error::from_extraction)?;
    let positions: Positions = settings.positions.parse().map_err(error::from_extraction)?;
    check_format(&settings)?;
    if settings.batch_size as usize > MAX_CAPTURE_SEQUENCES {
        let why = format!("is {}: at most {MAX_CAPTURE_SEQUENCES} are possible", settings.batch_size);
        return Err(ServiceError::invalid_argument("settings.batch_size", why));
    }
    let plan = PlanSettings {
        length,
        pack: settings.pack,
        split: settings.split,
        max_samples: (settings.max_samples > 0).then_some(settings.max_samples),
        shard,
    };
    let checked = CheckedSettings {
        points,
        plan,
        positions,
        dtype: data_type(settings.dtype()).unwrap_or(DataType::F32),
        batch_size: (settings.batch_size > 0).then_some(settings.batch_size),
        chat: settings.chat_template,
        special_tokens: !settings.no_special_tokens,
    };
    // The numbers of samples are not known yet; one of each shows what can never be written.
    checked.layout(1, checked.plan.length.limit()).check().map_err(error::from_extraction)?;
    Ok(checked)
}

/// Returns the points that names mean. Names without a layer mean the listed layers, or all.
///
/// # Errors
///
/// INVALID_ARGUMENT for no or too many names, or HOOK_POINT_UNKNOWN.
pub(super) fn resolve_points(
    names: &[String],
    layers: &str,
    spec: &ModelSpec,
    handle: &str,
) -> Result<Vec<Point>, ServiceError> {
    if names.is_empty() || names.len() > MAX_NAMES {
        let why = format!("has {} names: 1 to {MAX_NAMES} are possible", names.len());
        return Err(ServiceError::invalid_argument("points", why));
    }
    let layers = if layers.trim().is_empty() { "all" } else { layers };
    let hooks = spec.resolve_hooks(names, layers).map_err(|unknown| error::from_hook(&unknown, handle))?;
    Ok(hooks.into_iter().map(|hook| Point { hook, shape: spec.hook_shape(hook) }).collect())
}

/// Returns the element type of activations; `None` where the caller leaves it open.
pub(super) fn data_type(asked: ActivationType) -> Option<DataType> {
    match asked {
        ActivationType::Unspecified => None,
        ActivationType::F32 => Some(DataType::F32),
        ActivationType::F16 => Some(DataType::F16),
        ActivationType::Bf16 => Some(DataType::Bf16),
    }
}

fn check_format(settings: &ExtractionSettings) -> Result<(), ServiceError> {
    for (field, known) in [
        ("settings.dtype", ActivationType::try_from(settings.dtype).is_ok()),
        ("settings.format", ActivationFormat::try_from(settings.format).is_ok()),
    ] {
        if !known {
            return Err(ServiceError::invalid_argument(field, "is not known"));
        }
    }
    match settings.format() {
        ActivationFormat::Unspecified | ActivationFormat::Npy => Ok(()),
        ActivationFormat::Safetensors => {
            let why = "is SAFETENSORS, which extractions do not write: use NPY";
            Err(ServiceError::invalid_argument("settings.format", why))
        }
    }
}

/// The samples and the tokens of a row that an extraction will have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Size {
    samples: u64,
    sequence_length: usize,
    tokens: u64,
    /// Whether there cannot be more, rather than there may be.
    is_limit: bool,
}

/// Returns the size of an extraction before its texts are tokenized. Lengths of texts are estimated from their bytes.
fn size(settings: &CheckedSettings, rows: u64, bytes: u64) -> Size {
    let plan = &settings.plan;
    let limit = plan.length.limit();
    let tokens = bytes / BYTES_PER_TOKEN;
    let average = tokens / rows.max(1);
    let sequence_length = match plan.length {
        RowLength::Exactly(tokens) => tokens,
        RowLength::Longest(limit) if plan.pack => limit,
        // The longest text is longer than the average, by how much is not known.
        RowLength::Longest(limit) => (4 * average).clamp(1, limit as u64) as usize,
    };
    let all = match (plan.pack, plan.split) {
        (true, _) => tokens.div_ceil(limit as u64).max(1),
        (false, true) => rows.max(tokens.div_ceil(limit as u64)),
        (false, false) => rows,
    };
    let limited = plan.max_samples.map_or(all, |most| all.min(most));
    let samples = plan.shard.share(limited);
    let per_sample = if plan.pack { limit as u64 } else { average.clamp(1, limit as u64) };
    let is_limit = !plan.pack && !plan.split && matches!(plan.length, RowLength::Exactly(_));
    Size { samples, sequence_length, tokens: samples.saturating_mul(per_sample), is_limit }
}

/// Returns the bytes of all files of an extraction.
fn disk_bytes(settings: &CheckedSettings, size: Size) -> Result<u64, ServiceError> {
    let layout = settings.layout(size.samples, size.sequence_length);
    let arrays = layout.bytes().map_err(error::from_extraction)?;
    // Token ids, the mask and a line for each sample.
    let plan = size.samples.saturating_mul(size.sequence_length as u64 * 5 + 64);
    Ok(arrays.saturating_add(plan))
}

/// Checks that the disk has room for an extraction, as far as its size is known before its texts are tokenized.
///
/// # Errors
///
/// INSUFFICIENT_DISK with both numbers.
pub(super) fn check_disk(checked: &Checked, folder: &Path) -> Result<(), ServiceError> {
    let size = size(&checked.settings, checked.texts.rows(), dataset_bytes(&checked.dataset));
    if !size.is_limit {
        return Ok(());
    }
    require_disk(disk_bytes(&checked.settings, size)?, folder)
}

/// Fails if the disk of a folder has too little room for `bytes` more.
///
/// # Errors
///
/// INSUFFICIENT_DISK with both numbers. A disk that does not tell is taken to have room.
pub(super) fn require_disk(bytes: u64, folder: &Path) -> Result<(), ServiceError> {
    match available_disk(folder) {
        Some(available) if bytes > available => Err(ServiceError::insufficient_disk(bytes, available)),
        _ => Ok(()),
    }
}

/// Returns the bytes that may be written to the disk of a folder, or of the nearest one above it that exists.
pub(super) fn available_disk(folder: &Path) -> Option<u64> {
    let absolute: PathBuf = std::path::absolute(folder).ok()?;
    let existing = absolute.ancestors().find(|folder| folder.exists())?;
    let disk = rustix::fs::statvfs(existing).ok()?;
    Some(disk.f_bavail.saturating_mul(disk.f_frsize).saturating_sub(DISK_RESERVE))
}

/// Fails if the machine has too little memory for a job.
///
/// # Errors
///
/// INSUFFICIENT_MEMORY with both numbers.
pub(super) fn check_memory(settings: &CheckedSettings, models: &ModelFinder) -> Result<(), ServiceError> {
    let (needed, free) = (settings.memory_bytes(), models.loader.options.devices.free());
    if needed > free { Err(error::extraction_memory(needed, free)) } else { Ok(()) }
}

fn dataset_bytes(dataset: &Dataset) -> u64 {
    dataset.files.iter().map(|file| file.size_bytes.max(0) as u64).fold(0, u64::saturating_add)
}

/// Estimates an extraction. What would refuse it is part of the answer; the model needs not be loaded for the rest.
///
/// # Errors
///
/// MODEL_NOT_FOUND or MODEL_NOT_READY, the errors of settings that fit no dataset, and SERVICE_UNAVAILABLE.
pub(super) async fn estimate(
    config: &ExtractionConfig,
    models: &ModelFinder,
    datasets: &DatasetsClient,
    folder: &Path,
) -> Result<ExtractionEstimate, ServiceError> {
    let mut obstacles = Vec::new();
    let target = Target::find(config, models, &mut obstacles).await?;
    let settings = check_settings(config, &target.spec, target.context, &target.handle)?;
    let (rows, bytes) = match find_texts(config, datasets, settings.chat).await {
        Ok((dataset, texts)) => (texts.rows(), dataset_bytes(&dataset)),
        Err(error) if error.reason == Reason::ServiceUnavailable => return Err(error),
        Err(error) => {
            obstacles.push(error);
            (0, 0)
        }
    };
    let size = size(&settings, rows, bytes);
    let disk_bytes = disk_bytes(&settings, size)?;
    let available = available_disk(folder);
    if let Some(available) = available.filter(|available| disk_bytes > *available) {
        obstacles.push(ServiceError::insufficient_disk(disk_bytes, available));
    }
    obstacles.extend(check_memory(&settings, models).err());
    let time = (target.tokens_per_second > 0).then(|| {
        let seconds = size.tokens.div_ceil(target.tokens_per_second);
        prost_types::Duration { seconds: i64::try_from(seconds).unwrap_or(i64::MAX), nanos: 0 }
    });
    Ok(ExtractionEstimate {
        samples: size.samples,
        sequence_length: size.sequence_length as u32,
        batch_size: settings.batch(size.sequence_length, target.kv_tokens),
        points: settings.points.iter().map(|point| point.hook.name()).collect(),
        disk_bytes: i64::try_from(disk_bytes).unwrap_or(i64::MAX),
        available_disk_bytes: available.map_or(0, |bytes| i64::try_from(bytes).unwrap_or(i64::MAX)),
        memory_bytes: settings.memory_bytes() as i64,
        time,
        obstacles: obstacles.iter().map(ServiceError::to_rpc).collect(),
    })
}

/// The model of an estimate, loaded or not.
struct Target {
    handle: String,
    spec: ModelSpec,
    context: usize,
    kv_tokens: usize,
    /// 0 while it is not known.
    tokens_per_second: u64,
}

impl Target {
    async fn find(
        config: &ExtractionConfig,
        models: &ModelFinder,
        obstacles: &mut Vec<ServiceError>,
    ) -> Result<Self, ServiceError> {
        let (id, handle) = if config.model.is_empty() {
            models.default_model()?
        } else {
            models.resolve(&config.model).await?
        };
        match models.loaded(id, &handle) {
            Ok((loaded, _guard)) => {
                let stats = loaded.engine.stats();
                Ok(Self {
                    handle,
                    spec: loaded.engine.spec().clone(),
                    context: loaded.engine.context_length(),
                    kv_tokens: stats.kv_blocks_total * millm_engine::BLOCK_SIZE,
                    tokens_per_second: stats.prefill_tokens_per_second,
                })
            }
            Err(error) => {
                let row = models.catalog.ready(&id.to_string()).await?;
                let opened = crate::estimate::open(&row, &models.loader.options, None).await?;
                if !models.loader.options.load_on_demand {
                    obstacles.push(error);
                }
                let (spec, context) = (opened.checkpoint.spec().clone(), opened.context_length as usize);
                Ok(Self { handle, spec, context, kv_tokens: context, tokens_per_second: 0 })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use millm_model::Checkpoint;

    use super::*;

    fn spec() -> ModelSpec {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/fixtures/tiny-millm");
        Checkpoint::open(Path::new(path)).unwrap().spec().clone()
    }

    fn config(change: impl FnOnce(&mut ExtractionSettings)) -> ExtractionConfig {
        let mut settings = ExtractionSettings { points: vec!["residual".into()], ..Default::default() };
        change(&mut settings);
        ExtractionConfig { settings: Some(settings), ..ExtractionConfig::default() }
    }

    fn refused(config: &ExtractionConfig) -> ServiceError {
        check_settings(config, &spec(), 512, "tiny").unwrap_err()
    }

    #[test]
    fn settings_that_do_not_fit_are_refused_by_name() {
        let check = |change: &dyn Fn(&mut ExtractionSettings), reason: Reason, says: &str| {
            let error = refused(&config(change));
            assert_eq!(error.reason, reason, "{error}");
            assert!(error.message.contains(says), "{error}");
        };
        let invalid = Reason::InvalidArgument;
        check(&|s| s.points.clear(), invalid, "'points' has 0 names");
        check(&|s| s.points = vec!["x".into(); MAX_NAMES + 1], invalid, "10001 names");
        check(&|s| s.points = vec!["resid_pots".into()], Reason::HookPointUnknown, "nearest: resid_post");
        check(&|s| s.layers = "99".into(), Reason::HookPointUnknown, "99");
        check(&|s| s.sequence_length = 513, invalid, "'settings.sequence_length' is 513");
        check(&|s| s.positions = "first".into(), invalid, "'positions' has 'first'");
        check(&|s| s.batch_size = 5000, invalid, "'settings.batch_size' is 5000");
        check(&|s| s.format = ActivationFormat::Safetensors.into(), invalid, "SAFETENSORS");
        check(&|s| s.format = 77, invalid, "'settings.format' is not known");
        check(&|s| s.dtype = 77, invalid, "'settings.dtype' is not known");
        let shard = ExtractionConfig { shard_index: 3, shard_count: 3, ..config(|_| {}) };
        assert!(refused(&shard).message.contains("'shard_index' is 3"));
    }

    #[test]
    fn names_without_layers_mean_all_layers() {
        let layers = spec().layers;
        let points = |names: &[&str], layers: &str| -> Vec<String> {
            let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
            let points = resolve_points(&names, layers, &spec(), "tiny").unwrap();
            points.iter().map(|point| point.hook.name()).collect()
        };
        assert_eq!(points(&["residual"], "").len(), layers);
        assert_eq!(points(&["residual", "mlp.1"], "0"), ["resid_post.0", "mlp.1"]);
        assert_eq!(points(&["logits", "blocks.0.hook_resid_pre"], ""), ["resid_pre.0", "logits"]);
    }

    #[test]
    fn sizes_are_exact_where_they_can_be() {
        let size_of = |change: &dyn Fn(&mut ExtractionSettings), count: u32| {
            let config = ExtractionConfig { shard_count: count, ..config(change) };
            size(&check_settings(&config, &spec(), 512, "tiny").unwrap(), 100, 40_000)
        };
        let exact = size_of(&|s| s.sequence_length = 128, 0);
        assert_eq!((exact.samples, exact.sequence_length, exact.is_limit), (100, 128, true));
        let limited = size_of(
            &|s| {
                (s.sequence_length, s.max_samples) = (128, 7);
            },
            2,
        );
        assert_eq!((limited.samples, limited.is_limit), (4, true));
        let packed = size_of(
            &|s| {
                (s.sequence_length, s.pack) = (100, true);
            },
            0,
        );
        assert_eq!((packed.samples, packed.tokens, packed.is_limit), (100, 10_000, false));
        assert!(!size_of(&|_| {}, 0).is_limit);
    }

    #[test]
    fn the_disk_is_asked() {
        let available = available_disk(Path::new("/no/such/folder/at/all")).unwrap();
        assert_eq!(require_disk(0, Path::new("/")), Ok(()));
        let error = require_disk(u64::MAX, Path::new("/")).unwrap_err();
        assert_eq!(error.reason, Reason::InsufficientDisk);
        assert!(available < u64::MAX);
    }
}
