//! Matches the tensors that a specification needs with those that files store.

use std::collections::HashMap;

use super::found::FoundTensor;
use super::naming::Naming;
use super::slice::TensorSlice;
use crate::arch::expected_tensors::ExpectedTensor;
use crate::arch::spec::ModelSpec;
use crate::error::{Error, Result};
use crate::formats::mmap::MappedFile;
use crate::tensor::TensorInfo;

type TensorsByName<'a> = HashMap<&'a str, &'a FoundTensor>;

/// Finds every tensor that the specification needs. Corrects `spec` where the file has an output matrix of its own.
/// `weights_file` is the file at fault when a tensor is missing.
pub(super) fn assemble(
    spec: &mut ModelSpec,
    naming: Naming,
    found: &[FoundTensor],
    maps: &[MappedFile],
    weights_file: &str,
) -> Result<Vec<(TensorInfo, TensorSlice)>> {
    let by_name = by_name(found);
    if spec.tied_embeddings && has_own_output(spec, naming, &by_name, maps) {
        spec.tied_embeddings = false;
    }
    find_all(spec, naming, &by_name, weights_file)
}

/// Returns the tensors that [`assemble`] would find, before the files' data is at hand.
pub(super) fn infos(
    spec: &ModelSpec,
    naming: Naming,
    found: &[FoundTensor],
    weights_file: &str,
) -> Result<Vec<TensorInfo>> {
    let tensors = find_all(spec, naming, &by_name(found), weights_file)?;
    Ok(tensors.into_iter().map(|(tensor, _)| tensor).collect())
}

fn by_name(found: &[FoundTensor]) -> TensorsByName<'_> {
    found.iter().map(|tensor| (tensor.name.as_str(), tensor)).collect()
}

/// Finds and checks every tensor that the specification needs, in its order.
fn find_all(
    spec: &ModelSpec,
    naming: Naming,
    by_name: &TensorsByName<'_>,
    weights_file: &str,
) -> Result<Vec<(TensorInfo, TensorSlice)>> {
    let find = |wanted: ExpectedTensor| {
        let stored = |name: &str| by_name.get(name).copied();
        let Some((location, _, tensor)) = naming.find(&wanted, spec, stored) else {
            let usual_name = naming.usual_name(&wanted, spec);
            let why = format!("tensor '{}' ({usual_name}) is missing", wanted.name);
            return Err(Error::invalid(weights_file, why));
        };
        let wrong = |why: String| Error::invalid(&*tensor.file, format!("tensor '{}' {why}", wanted.name));
        if tensor.shape != location.shape {
            return Err(wrong(format!(
                "has shape {:?}, the config asks for {:?}",
                tensor.shape, location.shape
            )));
        }
        let ty =
            tensor.ty.ok_or_else(|| wrong(format!("has type {}, which is not supported", tensor.dtype)))?;
        let slice = TensorSlice::new(tensor, ty, &wanted.shape, &location).map_err(wrong)?;
        let bytes =
            ty.bytes_for(&wanted.shape).ok_or_else(|| wrong("has rows of broken blocks".to_owned()))?;
        Ok((TensorInfo { name: wanted.name, ty, shape: wanted.shape, bytes }, slice))
    };
    spec.expected_tensors().into_iter().map(find).collect()
}

/// Returns whether the file has an output matrix that differs from the embedding. A config that says that the two are
/// tied is wrong then.
fn has_own_output(
    spec: &ModelSpec,
    naming: Naming,
    by_name: &TensorsByName<'_>,
    maps: &[MappedFile],
) -> bool {
    let bytes = |name: &str| {
        let wanted =
            ExpectedTensor { name: name.to_owned(), shape: vec![spec.vocabulary_size, spec.hidden_size] };
        let (_, _, found) = naming.find(&wanted, spec, |name| by_name.get(name).copied())?;
        Some(&maps[found.map][found.range.clone()])
    };
    bytes("output.weight").is_some_and(|output| bytes("token_embd.weight") != Some(output))
}
