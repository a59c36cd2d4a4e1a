//! Benchmarks of a model, which `millm bench` runs.
//!
//! They measure prefill; decode alone, at depth and in parallel streams; the share of the memory bandwidth; the costs of
//! constraints and the speedup of speculative decoding. With llama.cpp's programs at hand they compare the same figures.
//!
//! Rounds of miLLM and llama.cpp alternate, so that other load on the machine affects both. Medians are reported.

mod decoding_modes;
mod engine;
mod error;
mod figures;
mod interference;
mod llama_cpp;
mod options;
mod report;
mod workload;

use std::path::PathBuf;

use millm_engine::{Device, bandwidth};
use millm_model::{Checkpoint, quantize::Scheme, synthetic::Shape};
use millm_sandbox::Sandbox;

pub use decoding_modes::DecodingModes;
pub use error::BenchError;
pub use figures::Figures;
pub use interference::InterTokenLatency;
pub use options::{BenchOptions, ModelSource, shapes};
pub use report::Report;

use self::{figures::median, workload::MIN_CONTEXT};
use crate::devices::{self, Devices};
use crate::estimate;

/// Runs a benchmark. Blocks for some minutes; `log` gets the steps.
///
/// # Errors
///
/// Fails if an option is not valid, the model cannot be run, or a program of llama.cpp fails.
pub fn run(options: &BenchOptions, sandbox: &Sandbox, log: &dyn Fn(&str)) -> Result<Report, BenchError> {
    for (option, value) in [("streams", options.streams), ("rounds", options.rounds)] {
        if value == 0 {
            return Err(BenchError::Zero { option });
        }
    }
    let path = model_path(&options.model, log)?;
    let checkpoint = Checkpoint::open(&path)?;
    let context = checkpoint.spec().context_length;
    if context < MIN_CONTEXT {
        return Err(BenchError::Context { context, needed: MIN_CONTEXT });
    }
    let device = devices::choose(options.device);
    let devices = Devices::open(device)?;
    let engine_options = engine::options(options, device);
    let threads = engine_options.threads();
    let bandwidth = match device {
        Device::Cpu => {
            log("measuring the memory bandwidth");
            Some(bandwidth(threads)?)
        }
        Device::Cuda(_) => None,
    };
    let grammars = decoding_modes::grammars(&checkpoint, sandbox)?;
    let (mut rounds, mut modes, mut latencies) = (Vec::new(), Vec::new(), Vec::new());
    let (mut weight_bytes, mut used_bytes) = (0, 0);
    for round in 1..=options.rounds {
        log(&format!("round {round} of {}", options.rounds));
        let bench = engine::EngineBench::load(&path, &engine_options)?;
        let own = bench.figures(options.streams, round)?;
        modes.push(decoding_modes::measure(&bench, &grammars, round)?);
        latencies.push(interference::measure(&bench, round)?);
        (weight_bytes, used_bytes) = (bench.weight_bytes(), devices.used());
        drop(bench);
        let theirs = options.llama_cpp.as_deref().map(|folder| {
            log(&format!("round {round} of {}: llama.cpp", options.rounds));
            llama_cpp::figures(folder, &path, threads, options.streams)
        });
        rounds.push((own, theirs.transpose()?));
    }
    let millm = Figures::median(&rounds.iter().map(|(own, _)| *own).collect::<Vec<_>>());
    let theirs: Vec<Figures> = rounds.iter().filter_map(|(_, theirs)| *theirs).collect();
    let modes = DecodingModes {
        sampled: median(&modes, |m| m.sampled),
        constrained: median(&modes, |m| m.constrained),
        greedy: median(&modes, |m| m.greedy),
        speculative: median(&modes, |m| m.speculative),
    };
    let latency = InterTokenLatency {
        p99_seconds: median(&latencies, |l| l.p99_seconds),
        max_seconds: median(&latencies, |l| l.max_seconds),
    };
    let bytes_per_token = bytes_per_token(&checkpoint);
    Ok(Report {
        model: path.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned()),
        device: device.to_string(),
        threads,
        streams: options.streams,
        rounds: options.rounds,
        file_bytes: checkpoint.files().iter().map(|file| file.size_bytes).sum(),
        weight_bytes,
        estimated_bytes: estimate::of(&checkpoint, &engine_options).total_bytes as u64,
        used_bytes,
        bandwidth,
        bytes_per_token,
        roofline_share: bandwidth.map(|bandwidth| millm.decode * bytes_per_token as f64 / bandwidth),
        millm,
        decoding_modes: modes,
        inter_token_latency: latency,
        p99_latency_steps: latency.p99_seconds * millm.streams / options.streams as f64,
        constraint_overhead: modes.constraint_overhead(),
        speculation_speedup: modes.speculation_speedup(),
        llama_cpp: (!theirs.is_empty()).then(|| Figures::median(&theirs)),
    })
}

/// Returns the path of the model. Creates the file of a synthetic model unless it exists.
fn model_path(model: &ModelSource, log: &dyn Fn(&str)) -> Result<PathBuf, BenchError> {
    let (shape, quantization, folder) = match model {
        ModelSource::Local(path) => return Ok(path.clone()),
        ModelSource::Synthetic { shape, quantization, folder } => (shape, quantization, folder),
    };
    let shape = Shape::named(shape).ok_or_else(|| BenchError::Shape(shape.clone()))?;
    let scheme = match quantization.to_ascii_uppercase().as_str() {
        "Q2" | "Q2_K" => Scheme::Q2,
        "Q4" | "Q4_K_M" => Scheme::Q4,
        "Q8" | "Q8_0" => Scheme::Q8,
        "FP16" | "F16" => Scheme::Fp16,
        _ => return Err(BenchError::Quantization(quantization.clone())),
    };
    log(&format!("creating {} in {} unless it exists", shape.name, folder.display()));
    Ok(shape.gguf(folder, scheme)?)
}

/// Returns the bytes of all weights that one token reads: all but the embedding table, of which it reads one row, unless
/// the table is the output matrix too.
fn bytes_per_token(checkpoint: &Checkpoint) -> u64 {
    let tied = checkpoint.spec().tied_embeddings;
    let read = checkpoint.tensors().filter(|tensor| tied || tensor.name != "token_embd.weight");
    read.map(|tensor| tensor.bytes).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_shapes_and_quantizations_are_named() {
        let synthetic = |shape: &str, quantization: &str| ModelSource::Synthetic {
            shape: shape.to_owned(),
            quantization: quantization.to_owned(),
            folder: PathBuf::new(),
        };
        let error = |model| model_path(&model, &|_| {}).unwrap_err().to_string();
        assert!(error(synthetic("llama-9b", "Q4")).contains("llama-135m, tinyllama-1.1b"));
        assert!(error(synthetic("llama-135m", "Q9")).contains("Q2, Q4, Q8"));
    }
}
