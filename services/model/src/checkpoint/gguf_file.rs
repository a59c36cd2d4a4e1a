//! A checkpoint in one GGUF file.

use std::path::Path;
use std::sync::Arc;

use super::assemble::{assemble, infos};
use super::found::FoundTensor;
use super::model::{Checkpoint, Parts};
use super::naming::Naming;
use super::sidecars::{ModelFile, Sidecars};
use crate::arch::spec::ModelSpec;
use crate::config::{RopeFactors, limits};
use crate::error::{Error, Result};
use crate::formats::gguf::{GgufFile, GgufHeader, GgufTensor};
use crate::formats::mmap;
use crate::tensor::{TensorInfo, TensorType};

/// Opens a file; `sidecars` are those of its folder.
pub(super) fn open(path: &Path, sidecars: Sidecars, mut files: Vec<ModelFile>) -> Result<Checkpoint> {
    let name = mmap::file_name(path);
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
    files.push(ModelFile { path: path.to_owned(), size_bytes: map.len() as u64 });
    let maps = vec![map];
    let tensors = assemble(&mut spec, Naming::Gguf, &found(&header, &name), &maps, &name)?;
    Ok(Parts { spec, tensors, maps, files, metadata: Some(header.metadata), sidecars }.into())
}

/// Returns the tensors that [`Checkpoint::open`] would find in a GGUF file with this header, before its data is at hand.
/// `name` is the file's name.
///
/// # Errors
/// The errors of [`Checkpoint::open`].
pub fn tensors_in(spec: &ModelSpec, name: &str, header: &GgufHeader) -> Result<Vec<TensorInfo>> {
    infos(spec, Naming::Gguf, &found(header, name), name)
}

fn found(header: &GgufHeader, file: &str) -> Vec<FoundTensor> {
    let file: Arc<str> = Arc::from(file);
    let tensors = header.tensors.iter().map(|tensor| FoundTensor {
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

/// Reads an F32 tensor with a number for each rotated pair.
fn factors_in(file: &GgufFile, tensor: &GgufTensor, name: &str) -> Result<Vec<f32>> {
    let invalid = |why: String| Err(Error::invalid(name, format!("tensor '{}' {why}", tensor.name)));
    if tensor.ty != TensorType::F32 {
        return invalid(format!("has type {}, expected F32", tensor.ty));
    }
    let bytes = file.bytes(tensor);
    if bytes.len() > 4 * limits::HEAD_DIM {
        return invalid(format!("has {} values, the limit is {}", bytes.len() / 4, limits::HEAD_DIM));
    }
    let (chunks, _) = bytes.as_chunks::<4>();
    Ok(chunks.iter().map(|chunk| f32::from_le_bytes(*chunk)).collect())
}
