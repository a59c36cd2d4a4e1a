//! A checkpoint in a folder of config.json and safetensors files.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use super::assemble::{assemble, infos};
use super::found::FoundTensor;
use super::model::{Checkpoint, Parts};
use super::naming::Naming;
use super::packed;
use super::sidecars::{MAX_CONFIG_BYTES, ModelFile, Sidecars};
use crate::arch::spec::ModelSpec;
use crate::error::{Error, Result, excerpt};
use crate::formats::mmap::{self, MappedFile};
use crate::formats::safetensors::{MAX_MODEL_TENSORS, SafetensorsHeader, SafetensorsTensor, ShardIndex};
use crate::tensor::TensorInfo;

/// The file of a model whose weights are in one file.
const WHOLE: &str = "model.safetensors";

/// Opens a folder.
pub(super) fn open(folder: &Path, sidecars: Sidecars, mut files: Vec<ModelFile>) -> Result<Checkpoint> {
    let config = sidecars.config.as_deref().ok_or_else(|| Error::invalid("config.json", "is missing"))?;
    let mut spec = ModelSpec::from_config_json(config, sidecars.generation_config.as_deref())?;
    let index = index(folder)?;
    let shards = match &index {
        Some(index) => index.shards.clone(),
        None => vec![whole(folder)?],
    };
    let (mut maps, mut headers) = (Vec::new(), Vec::new());
    let mut count = 0;
    for shard in &shards {
        let path = folder.join(shard);
        if !path.exists() {
            return Err(Error::invalid(shard, format!("is missing, {} names it", ShardIndex::FILE)));
        }
        let (header, map) = read(&path, shard)?;
        files.push(ModelFile { path, size_bytes: map.len() as u64 });
        count += header.tensors.len();
        check_count(count)?;
        headers.push(header);
        maps.push(map);
    }
    let found = gather(&shards, headers, index.as_ref())?;
    let weights_file = weights_file(&shards, index.as_ref());
    let tensors = assemble(&mut spec, Naming::HuggingFace, &found, &maps, weights_file)?;
    Ok(Parts { spec, tensors, maps, files, metadata: None, sidecars }.into())
}

/// Returns the tensors that [`Checkpoint::open`] would find in safetensors files with these headers, before their data is
/// at hand. `shards` names the files.
///
/// # Errors
/// The errors of [`Checkpoint::open`].
pub fn tensors_in(
    spec: &ModelSpec,
    shards: &[String],
    headers: Vec<SafetensorsHeader>,
    index: Option<&ShardIndex>,
) -> Result<Vec<TensorInfo>> {
    let found = gather(shards, headers, index)?;
    infos(spec, Naming::HuggingFace, &found, weights_file(shards, index))
}

/// Checks that the files of one model may hold this many tensors. Call it after each header, before the next is read.
///
/// # Errors
/// [`Error::InvalidFile`] where there are too many.
pub fn check_count(tensors: usize) -> Result<()> {
    if tensors <= MAX_MODEL_TENSORS {
        return Ok(());
    }
    let why = format!("its files hold {tensors} tensors, the limit is {MAX_MODEL_TENSORS}");
    Err(Error::invalid(ShardIndex::FILE, why))
}

/// Returns the file that is at fault when a tensor is missing.
fn weights_file<'a>(shards: &'a [String], index: Option<&ShardIndex>) -> &'a str {
    match (index, shards) {
        (None, [one, ..]) => one,
        _ => ShardIndex::FILE,
    }
}

/// Collects the tensors of all files. Each must be in one file only, the one that the index names.
fn gather(
    shards: &[String],
    headers: Vec<SafetensorsHeader>,
    index: Option<&ShardIndex>,
) -> Result<Vec<FoundTensor>> {
    check_count(headers.iter().map(|header| header.tensors.len()).sum())?;
    let mut found = Vec::new();
    for (place, (shard, header)) in shards.iter().zip(headers).enumerate() {
        let shard: Arc<str> = Arc::from(shard.as_str());
        found.extend(header.tensors.into_iter().map(|tensor| as_found(tensor, place, &shard)));
    }
    let mut shard_of = HashMap::new();
    for tensor in &found {
        if let Some(first) = shard_of.insert(tensor.name.as_str(), tensor.map) {
            let why = format!("tensor '{}' is in {} too", excerpt(&tensor.name), shards[first]);
            return Err(Error::invalid(&*tensor.file, why));
        }
    }
    for (tensor, place) in index.iter().flat_map(|index| &index.tensors) {
        if shard_of.get(tensor.as_str()) != Some(place) {
            let why =
                format!("tensor '{}' is not in it, though {} says so", excerpt(tensor), ShardIndex::FILE);
            return Err(Error::invalid(&*shards[*place], why));
        }
    }
    packed::join(&mut found);
    Ok(found)
}

/// Reads the index. As in transformers, it counts only where there is no single file.
fn index(folder: &Path) -> Result<Option<ShardIndex>> {
    if folder.join(WHOLE).exists() {
        return Ok(None);
    }
    mmap::read_text(&folder.join(ShardIndex::FILE), MAX_CONFIG_BYTES)?
        .map(|text| ShardIndex::parse(&text))
        .transpose()
}

/// Returns the one safetensors file of a folder without an index.
fn whole(folder: &Path) -> Result<String> {
    if folder.join(WHOLE).exists() {
        return Ok(WHOLE.to_owned());
    }
    let entries = std::fs::read_dir(folder).map_err(|error| Error::io(folder, error))?;
    let names: Vec<String> = entries
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter(|name| Path::new(name).extension().is_some_and(|extension| extension == "safetensors"))
        .collect();
    match names.as_slice() {
        [one] => Ok(one.clone()),
        _ => Err(Error::invalid(ShardIndex::FILE, "is missing, and the weights are in several files")),
    }
}

fn read(path: &Path, shard: &str) -> Result<(SafetensorsHeader, MappedFile)> {
    let map = mmap::map(path)?;
    let header = SafetensorsHeader::parse(shard, &map, map.len() as u64)?
        .complete()
        .ok_or_else(|| Error::invalid(shard, "ends within the header"))?;
    Ok((header, map))
}

fn as_found(tensor: SafetensorsTensor, map: usize, shard: &Arc<str>) -> FoundTensor {
    FoundTensor {
        name: tensor.name,
        ty: tensor.dtype.tensor_type(),
        dtype: tensor.dtype.name(),
        shape: tensor.shape,
        map,
        range: tensor.range.start as usize..tensor.range.end as usize,
        file: Arc::clone(shard),
        scales: None,
    }
}
