//! One run: plans, writes the tables, converts tensor after tensor, and starts again one scheme higher where the type
//! cannot hold the values.

use std::path::Path;
use std::sync::atomic::AtomicBool;

use super::convert::{Conversion, Failure, RowOrder};
use super::decode::is_plain;
use super::encode::Unencodable;
use super::metadata;
use super::output::Output;
use super::plan::{Plan, PlannedTensor, Scheme, is_native, plan};
use super::vocabulary::{self, Published};
use crate::arch::kinds::RopeLayout;
use crate::checkpoint::Checkpoint;
use crate::error::{Error, Result};
use crate::formats::gguf::writer::{Pairs, Writer};
use crate::formats::gguf::{CONFIG_JSON_KEY, Value};
use crate::formats::mmap;
use crate::tensor::{TensorInfo, TensorType};

/// The largest tokenizer file that is read. Opening the checkpoint has the same limit.
const MAX_SIDECAR_BYTES: u64 = 256 << 20;

/// The file to make.
#[derive(Debug)]
pub struct Request<'a> {
    /// The requested scheme.
    pub scheme: Scheme,
    /// The file to write. An existing file is replaced; it is removed when the run fails or is cancelled.
    pub destination: &'a Path,
    /// The value of `general.name`.
    pub name: &'a str,
    /// Metadata to add (`millm.source.*`). It replaces keys that the file has anyway.
    pub extra: &'a [(String, Value)],
}

/// The progress of a run, reported before each tensor and after each piece. After a fallback to a higher scheme
/// `done_bytes` starts at 0 again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress<'a> {
    /// The name of the current tensor.
    pub tensor: &'a str,
    /// Bytes of tensor data written so far.
    pub done_bytes: u64,
    /// Bytes of all tensor data in the file.
    pub total_bytes: u64,
}

/// A tensor of the finished file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WrittenTensor {
    /// The tensor's name in the file.
    pub name: String,
    /// The type that it was written in.
    pub ty: TensorType,
    /// The reason why it does not have the type that the scheme prefers.
    pub reason: Option<String>,
}

/// A finished file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// All tensors, in the file's order.
    pub tensors: Vec<WrittenTensor>,
    /// The size of the whole file in bytes.
    pub bytes: u64,
    /// The scheme that was applied, which is higher than the requested one where that could not be.
    pub actual: Scheme,
    /// The reason why `actual` is not the requested scheme, or why tensors do not have the type that it prefers.
    pub reason: Option<String>,
}

/// Quantizes a checkpoint on rayon's current pool. Blocks until the file is complete; the file is flushed, and not synced
/// to disk. `progress` is called on the calling thread.
///
/// # Errors
/// [`Error::InvalidFile`] naming the tensor for values that are not finite (or beyond F16 under FP16), and for sources
/// that are quantized already; [`Error::InvalidPath`] where the destination is a file of the source;
/// [`Error::Cancelled`] after `cancel` is set; [`Error::Io`] where a file cannot be read or written.
pub fn quantize(
    source: &Checkpoint,
    request: &Request<'_>,
    cancel: &AtomicBool,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<Outcome> {
    if source.files().iter().any(|file| same_file(&file.path, request.destination)) {
        return Err(Error::InvalidPath { why: "the destination is a file of the source".into() });
    }
    let run = Run::new(source, request)?;
    let end = run.with_fallback(cancel, progress);
    if end.is_err() {
        // An unfinished file is useless. It may not exist, which is no further error.
        let _ = std::fs::remove_file(request.destination);
    }
    end
}

/// Returns whether two paths are one file: truncating the source would destroy it.
fn same_file(a: &Path, b: &Path) -> bool {
    matches!((a.canonicalize(), b.canonicalize()), (Ok(a), Ok(b)) if a == b)
}

/// A run under way.
struct Run<'a> {
    source: &'a Checkpoint,
    request: &'a Request<'a>,
    /// The tensors of divisors of rotary frequencies, with their bytes.
    factors: Vec<(TensorInfo, Vec<u8>)>,
    tokenizer: Pairs,
}

/// The end of one attempt.
enum Attempt {
    Done(Outcome),
    /// A value is too large for the scheme.
    TooLarge {
        why: String,
    },
}

impl<'a> Run<'a> {
    fn new(source: &'a Checkpoint, request: &'a Request<'a>) -> Result<Self> {
        if let Some(tensor) = source.tensors().find(|tensor| !is_plain(tensor.ty) && !is_native(tensor.ty)) {
            let why = format!(
                "tensor '{}' is {} already: only F32, F16 and BF16 are quantized",
                tensor.name, tensor.ty
            );
            return Err(Error::invalid("model", why));
        }
        let factors = metadata::rope_factors(source.spec()).into_iter().map(|(name, factors)| {
            let bytes: Vec<u8> = factors.iter().flat_map(|factor| factor.to_le_bytes()).collect();
            let info = TensorInfo {
                name: name.into(),
                ty: TensorType::F32,
                shape: vec![factors.len()],
                bytes: bytes.len() as u64,
            };
            (info, bytes)
        });
        Ok(Self { source, request, factors: factors.collect(), tokenizer: tokenizer(source)? })
    }

    fn with_fallback(&self, cancel: &AtomicBool, progress: &mut dyn FnMut(Progress<'_>)) -> Result<Outcome> {
        let spec = self.source.spec();
        let mut current = plan(self.request.scheme, self.source.tensors(), spec);
        loop {
            match self.attempt(&current, cancel, progress)? {
                Attempt::Done(outcome) => return Ok(outcome),
                Attempt::TooLarge { why } => {
                    let failed = current.scheme;
                    let Some(next) = failed.next() else { return Err(Error::invalid("model", why)) };
                    tracing::warn!(%failed, %next, why, "quantizing again, one scheme higher");
                    current = plan(next, self.source.tensors(), spec);
                    current.reason = Some(format!("{failed} cannot be applied: {why}"));
                }
            }
        }
    }

    fn attempt(
        &self,
        plan: &Plan,
        cancel: &AtomicBool,
        progress: &mut dyn FnMut(Progress<'_>),
    ) -> Result<Attempt> {
        let io = |error| Error::io(self.request.destination, error);
        let factors = self.factors.iter().map(|(info, _)| info);
        let table: Vec<TensorInfo> =
            factors.chain(plan.tensors.iter().map(|tensor| &tensor.info)).cloned().collect();
        let total_bytes = table.iter().map(|tensor| tensor.bytes).sum();
        let output = Output::create(self.request.destination).map_err(io)?;
        let mut writer = Writer::begin(output, &self.metadata(plan), &table).map_err(io)?;
        let mut done_bytes = 0;
        for (info, bytes) in &self.factors {
            writer.write(bytes).map_err(io)?;
            done_bytes += info.bytes;
        }
        for planned in &plan.tensors {
            let name = planned.info.name.as_str();
            progress(Progress { tensor: name, done_bytes, total_bytes });
            let end = self.convert(planned, cancel, &mut |piece| {
                writer.write(piece).map_err(io)?;
                done_bytes += piece.len() as u64;
                progress(Progress { tensor: name, done_bytes, total_bytes });
                Ok(())
            });
            match end {
                Ok(()) => self.source.check_intact()?,
                Err(Failure::Stopped(error)) => return Err(error),
                Err(Failure::Unencodable { row, why }) => {
                    let text = format!("tensor '{name}', row {row}: {why}");
                    return match why {
                        Unencodable::NotFinite { .. } => Err(Error::invalid("model", text)),
                        Unencodable::TooLarge { .. } => Ok(Attempt::TooLarge { why: text }),
                    };
                }
            }
        }
        let (_, bytes) = writer.finish().map_err(io)?;
        Ok(Attempt::Done(outcome(plan, bytes)))
    }

    /// Converts one tensor, part after part.
    fn convert(
        &self,
        planned: &PlannedTensor,
        cancel: &AtomicBool,
        write: &mut dyn FnMut(&[u8]) -> Result<()>,
    ) -> Result<(), Failure> {
        let mut rows_before = 0;
        for part in &planned.parts {
            let source = self.source.tensor(part).map_err(Failure::Stopped)?;
            let (ty, shape) = (planned.info.ty, &source.info.shape);
            let bytes = ty.bytes_for(shape).expect("parts have the rows of the whole");
            if is_native(source.info.ty) && source.info.ty != ty {
                let why = format!("tensor '{part}' is {}, others of its kind are not", source.info.ty);
                return Err(Failure::Stopped(Error::invalid("model", why)));
            }
            let target = TensorInfo { ty, bytes, ..source.info.clone() };
            let conversion = Conversion {
                source: source.data(),
                target: &target,
                rows: self.rows(part),
                offset: self.offset(part),
            };
            conversion.run(cancel, &mut *write).map_err(|failure| match failure {
                Failure::Unencodable { row, why } => Failure::Unencodable { row: rows_before + row, why },
                stopped @ Failure::Stopped(_) => stopped,
            })?;
            rows_before += shape[0];
            drop(source);
            self.source.release(part);
        }
        Ok(())
    }

    /// Returns the order of a tensor's rows. Rows of q and k in Hugging Face's order are brought into that of the family's
    /// GGUF files.
    fn rows(&self, tensor: &str) -> RowOrder {
        let spec = self.source.spec();
        let Some(rope) = spec.ropes.first() else { return RowOrder::AsStored };
        let interleaves =
            rope.layout != spec.family.gguf.rope && spec.family.gguf.rope == RopeLayout::Interleaved;
        let part = tensor.rsplit_once('.').map_or("", |(head, _)| head);
        if interleaves && (part.ends_with(".attn_q") || part.ends_with(".attn_k")) {
            RowOrder::Interleaved { head_dim: spec.head_dim }
        } else {
            RowOrder::AsStored
        }
    }

    /// Returns the offset to add to a tensor: norms are written with it.
    fn offset(&self, tensor: &str) -> f32 {
        if tensor.ends_with("norm.weight") { self.source.spec().norm.offset } else { 0.0 }
    }

    fn metadata(&self, plan: &Plan) -> Pairs {
        let mut pairs = metadata::describe(self.source.spec(), plan, self.request.name);
        pairs.extend(self.tokenizer.iter().cloned());
        if let Some(config) = self.source.config_json() {
            pairs.push((CONFIG_JSON_KEY.into(), Value::String(config.into())));
        }
        pairs.retain(|(key, _)| self.request.extra.iter().all(|(extra, _)| extra != key));
        pairs.extend(self.request.extra.iter().cloned());
        pairs
    }
}

/// Returns the tokenizer's keys: those of a GGUF source, or those made from the published files.
fn tokenizer(source: &Checkpoint) -> Result<Pairs> {
    if let Some(metadata) = source.gguf_metadata()
        && metadata.get("tokenizer.ggml.tokens").is_some()
    {
        let keys = metadata.iter().filter(|(key, _)| key.starts_with("tokenizer."));
        return Ok(keys.map(|(key, value)| (key.to_owned(), value.clone())).collect());
    }
    let text = |name: &str| -> Result<Option<String>> {
        let file = source.files().iter().find(|file| mmap::file_name(&file.path) == name);
        file.map_or(Ok(None), |file| mmap::read_text(&file.path, MAX_SIDECAR_BYTES))
    };
    let (json, config, template) =
        (text("tokenizer.json")?, text("tokenizer_config.json")?, text("chat_template.jinja")?);
    let published = Published {
        tokenizer: json.as_deref(),
        tokenizer_config: config.as_deref(),
        chat_template: template.as_deref(),
    };
    vocabulary::describe(&published, source.spec())
}

fn outcome(plan: &Plan, bytes: u64) -> Outcome {
    let tensors: Vec<_> = plan
        .tensors
        .iter()
        .map(|planned| WrittenTensor {
            name: planned.info.name.clone(),
            ty: planned.info.ty,
            reason: planned.reason.clone(),
        })
        .collect();
    let changed = tensors.iter().filter(|tensor| tensor.reason.is_some());
    let example = changed.clone().next().map(|first| {
        let why = first.reason.as_deref().unwrap_or_default();
        format!(
            "{} of {} tensors have another type: {} is {}: {why}",
            changed.count(),
            tensors.len(),
            first.name,
            first.ty
        )
    });
    let reason = match (&plan.reason, example) {
        (Some(whole), Some(example)) => Some(format!("{whole}; {example}")),
        (whole, example) => whole.clone().or(example),
    };
    Outcome { tensors, bytes, actual: plan.scheme, reason }
}

#[cfg(test)]
#[path = "run_tests.rs"]
mod tests;

#[cfg(test)]
#[path = "converted_tests.rs"]
mod converted_tests;
