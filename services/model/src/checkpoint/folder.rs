//! A checkpoint in a folder of config.json and safetensors files.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use super::{Checkpoint, Found, MAX_CONFIG_BYTES, ModelFile, Naming, Sidecars, infos, packed};
use crate::error::{Error, Result, shown};
use crate::mapped::{self, Mapped};
use crate::safetensors::{MAX_MODEL_TENSORS, SafetensorsHeader, ShardIndex, StoredTensor};
use crate::spec::ModelSpec;
use crate::tensor::TensorInfo;

const WHOLE: &str = "model.safetensors";

pub(super) fn open(folder: &Path, sidecars: Sidecars, mut files: Vec<ModelFile>) -> Result<Checkpoint> {
    let config = sidecars.config.as_deref().ok_or_else(|| Error::invalid("config.json", "is missing"))?;
    let spec = ModelSpec::from_config_json(config, sidecars.generation_config.as_deref())?;
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
    let weights_file = named(&shards, index.as_ref());
    let checkpoint = Checkpoint::assemble(spec, Naming::HuggingFace, found, maps, weights_file)?;
    Ok(Checkpoint { files, sidecars, ..checkpoint })
}

/// What [`Checkpoint::open`] would find in safetensors files with these headers, before their data is there.
/// `shards` names them. Errors: as opening.
pub fn tensors_in(
    spec: &ModelSpec,
    shards: &[String],
    headers: Vec<SafetensorsHeader>,
    index: Option<&ShardIndex>,
) -> Result<Vec<TensorInfo>> {
    let found = gather(shards, headers, index)?;
    infos(spec, Naming::HuggingFace, &found, named(shards, index))
}

/// Whether so many tensors may be in the files of one model: to be asked as headers are read, before the next one is.
pub fn check_count(tensors: usize) -> Result<()> {
    if tensors <= MAX_MODEL_TENSORS {
        return Ok(());
    }
    let why = format!("{tensors} tensors are in its files, the most of a model are {MAX_MODEL_TENSORS}");
    Err(Error::invalid(ShardIndex::FILE, why))
}

/// The file that is at fault when a tensor is missing.
fn named<'a>(shards: &'a [String], index: Option<&ShardIndex>) -> &'a str {
    match (index, shards) {
        (None, [one, ..]) => one,
        _ => ShardIndex::FILE,
    }
}

/// The tensors of all files. Each is in one file, and in the one that the index says.
fn gather(
    shards: &[String],
    headers: Vec<SafetensorsHeader>,
    index: Option<&ShardIndex>,
) -> Result<Vec<Found>> {
    check_count(headers.iter().map(|header| header.tensors.len()).sum())?;
    let mut found = Vec::new();
    for (place, (shard, header)) in shards.iter().zip(headers).enumerate() {
        let shard: Arc<str> = Arc::from(shard.as_str());
        found.extend(header.tensors.into_iter().map(|tensor| as_found(tensor, place, &shard)));
    }
    let mut shard_of = HashMap::new();
    for tensor in &found {
        if let Some(first) = shard_of.insert(tensor.name.as_str(), tensor.map) {
            let why = format!("tensor '{}' is in {} too", shown(&tensor.name), shards[first]);
            return Err(Error::invalid(&*tensor.file, why));
        }
    }
    for (tensor, place) in index.iter().flat_map(|index| &index.tensors) {
        if shard_of.get(tensor.as_str()) != Some(place) {
            let why = format!("tensor '{}' is not in it, {} says so", shown(tensor), ShardIndex::FILE);
            return Err(Error::invalid(&*shards[*place], why));
        }
    }
    packed::join(&mut found);
    Ok(found)
}

/// The index counts only where there is no whole file, as in transformers.
fn index(folder: &Path) -> Result<Option<ShardIndex>> {
    if folder.join(WHOLE).exists() {
        return Ok(None);
    }
    mapped::read_text(&folder.join(ShardIndex::FILE), MAX_CONFIG_BYTES)?
        .map(|text| ShardIndex::parse(&text))
        .transpose()
}

/// The one safetensors file of a folder without index.
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

fn read(path: &Path, shard: &str) -> Result<(SafetensorsHeader, Mapped)> {
    let map = mapped::map(path)?;
    let header = SafetensorsHeader::parse(shard, &map, map.len() as u64)?
        .complete()
        .ok_or_else(|| Error::invalid(shard, "ends within the header"))?;
    Ok((header, map))
}

fn as_found(tensor: StoredTensor, map: usize, shard: &Arc<str>) -> Found {
    Found {
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
