//! A checkpoint in one GGUF file.

use std::path::Path;
use std::sync::Arc;

use super::{Checkpoint, Found, ModelFile, Naming, Sidecars, infos};
use crate::config::cap;
use crate::error::{Error, Result};
use crate::gguf::{GgufFile, GgufHeader, RopeFactors, StoredTensor};
use crate::mapped;
use crate::spec::ModelSpec;
use crate::tensor::{TensorInfo, TensorType};

pub(super) fn open(path: &Path, sidecars: Sidecars, mut files: Vec<ModelFile>) -> Result<Checkpoint> {
    let name = mapped::file_name(path);
    let file = GgufFile::open(path)?;
    let header = file.header();
    if header.metadata.number("split.count")?.is_some_and(|count| count > 1) {
        return Err(Error::invalid(
            name,
            "is one part of a split file: join them with llama-gguf-split --merge",
        ));
    }
    let factors = |tensor: &str| {
        let stored = header.tensors.iter().find(|stored| stored.name == tensor);
        stored.map(|stored| factors_in(&file, stored, &name)).transpose()
    };
    let factors = RopeFactors {
        any: factors("rope_freqs.weight")?,
        short: factors("rope_factors_short.weight")?,
        long: factors("rope_factors_long.weight")?,
    };
    let mut spec = ModelSpec::from_gguf(header, &factors)?;
    if let Some(text) = &sidecars.generation_config {
        spec = spec.with_generation_config(text)?;
    }
    let (header, map) = file.into_parts();
    let found = found(&header, &name);
    files.push(ModelFile { path: path.to_owned(), size_bytes: map.len() as u64 });
    let checkpoint = Checkpoint::assemble(spec, Naming::Gguf, found, vec![map], &name)?;
    Ok(Checkpoint { files, metadata: Some(header.metadata), sidecars, ..checkpoint })
}

/// What [`Checkpoint::open`] would find in a GGUF file with this header, before its data is there. `name` is the
/// file's. Errors: as opening.
pub fn tensors_in(spec: &ModelSpec, name: &str, header: &GgufHeader) -> Result<Vec<TensorInfo>> {
    infos(spec, Naming::Gguf, &found(header, name), name)
}

fn found(header: &GgufHeader, file: &str) -> Vec<Found> {
    let file: Arc<str> = Arc::from(file);
    let tensors = header.tensors.iter().map(|tensor| Found {
        name: tensor.name.clone(),
        ty: Some(tensor.ty),
        dtype: tensor.ty.name(),
        shape: tensor.shape.clone(),
        map: 0,
        range: tensor.range.start as usize..tensor.range.end as usize,
        file: Arc::clone(&file),
        scales: None,
    });
    tensors.collect()
}

/// The values of an F32 tensor with a number for each rotated pair.
fn factors_in(file: &GgufFile, tensor: &StoredTensor, name: &str) -> Result<Vec<f32>> {
    let invalid = |why: String| Err(Error::invalid(name, format!("tensor '{}' {why}", tensor.name)));
    if tensor.ty != TensorType::F32 {
        return invalid(format!("has type {}, expected F32", tensor.ty));
    }
    let bytes = file.bytes(tensor);
    if bytes.len() > 4 * cap::HEAD_DIM {
        return invalid(format!("has {} values, the most allowed are {}", bytes.len() / 4, cap::HEAD_DIM));
    }
    let (chunks, _) = bytes.as_chunks::<4>();
    Ok(chunks.iter().map(|chunk| f32::from_le_bytes(*chunk)).collect())
}
