//! Tokens per second of a model: prompts read, answers written alone, behind a long prompt and side by side; beside
//! what memory allows, and beside llama.cpp where its programs are at hand; and what ways of choosing tokens cost and
//! gain.
//!
//! Rounds of both alternate, so that what else the machine does hits both; the medians are reported.

mod choosing;
mod joining;
mod llama;
mod ours;

use std::path::PathBuf;

use millm_engine::{Device, measure::bandwidth};
use millm_kit::settings::DeviceChoice;
use millm_model::Checkpoint;
use millm_model::quantize::Scheme;
use millm_model::synthetic::{SHAPES, Shape};
use millm_sandbox::Sandbox;
use serde::Serialize;

pub use choosing::Choosing;
pub use joining::Pauses;

use self::joining::JOINING;
use crate::devices::{self, Devices};
use crate::estimate;

/// Tokens of the prompt that is read.
const PREFILL: usize = 512;
/// Tokens of the answer that is written alone.
const DECODE: usize = 128;
/// Tokens of the prompt that an answer of [`DEEP_DECODE`] stands behind.
const DEPTH: usize = 1536;
const DEEP_DECODE: usize = 32;
/// Tokens of each of the answers side by side.
const STREAM_DECODE: usize = 64;
/// Tokens of a prompt that does not matter.
const SHORT: usize = 8;

/// What to measure.
#[derive(Debug, Clone)]
pub struct Plan {
    pub model: Model,
    pub device: DeviceChoice,
    /// Compute threads; `None` is one for each physical core.
    pub threads: Option<usize>,
    /// Answers side by side.
    pub streams: usize,
    pub rounds: usize,
    /// Where llama.cpp's programs lie.
    pub llama_cpp: Option<PathBuf>,
}

#[derive(Debug, Clone)]
pub enum Model {
    Local(PathBuf),
    /// Weights from a seed, kept in a folder for the next time.
    Synthetic {
        shape: String,
        quantization: String,
        folder: PathBuf,
    },
}

#[derive(Debug, thiserror::Error)]
pub enum BenchError {
    #[error("'{0}' is no shape of a synthetic model: use {names}", names = shapes().join(", "))]
    Shape(String),
    #[error("'{0}' is no quantization: use Q2, Q4, Q8 or FP16")]
    Quantization(String),
    #[error("{option} must be at least 1")]
    Zero { option: &'static str },
    #[error("the model's context of {context} tokens is too short: {needed} are needed")]
    Context { context: usize, needed: usize },
    #[error(transparent)]
    Model(#[from] millm_model::Error),
    #[error(transparent)]
    Engine(#[from] millm_engine::Error),
    #[error("the engine refused a request: {0}")]
    Refused(#[from] millm_engine::SubmitError),
    #[error("the sandbox: {0}")]
    Sandbox(#[from] millm_sandbox::Error),
    #[error("the engine ended a request: {0}")]
    Ended(String),
    #[error("{what}: {why}")]
    LlamaCpp { what: String, why: String },
    #[error("{what}: {source}")]
    Io { what: String, source: std::io::Error },
}

/// Tokens per second, and seconds from nothing to the first token.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Figures {
    pub prefill: f64,
    pub decode: f64,
    pub decode_deep: f64,
    /// Of all streams together.
    pub streams: f64,
    pub first_token_seconds: f64,
}

#[derive(Debug, Clone, Serialize)]
pub struct Report {
    pub model: String,
    pub device: String,
    pub threads: usize,
    pub streams: usize,
    pub rounds: usize,
    pub file_bytes: u64,
    pub weight_bytes: u64,
    /// What the process takes where the model runs, as a load is judged by.
    pub estimated_bytes: u64,
    /// What it took, the model loaded and every slot used; pages of mapped files do not count.
    pub taken_bytes: u64,
    /// Bytes per second that the threads read from memory; of a GPU it is not measured.
    pub bandwidth: Option<f64>,
    /// Weights that one token needs.
    pub bytes_per_token: u64,
    /// `decode` times `bytes_per_token` over `bandwidth`.
    pub roofline_share: Option<f64>,
    pub millm: Figures,
    /// miLLM's alone, with what follows from it.
    pub choosing: Choosing,
    /// How long a long prompt keeps those who are being answered from their next token.
    pub pauses: Pauses,
    /// [`Pauses::most`] in steps of all streams.
    pub pause_steps: f64,
    /// Share of an answer's time that holding it to a schema takes.
    pub constraint_share: f64,
    /// How many times as fast a text is said again with tokens guessed ahead.
    pub guessing_gain: f64,
    pub llama_cpp: Option<Figures>,
}

/// Names of the shapes that synthetic models come in.
pub fn shapes() -> Vec<&'static str> {
    SHAPES.iter().map(|shape| shape.name).collect()
}

/// Measures; blocks for a minute or some. `say` is told what goes on.
pub fn run(plan: &Plan, sandbox: &Sandbox, say: &dyn Fn(&str)) -> Result<Report, BenchError> {
    for (option, value) in [("streams", plan.streams), ("rounds", plan.rounds)] {
        if value == 0 {
            return Err(BenchError::Zero { option });
        }
    }
    let path = file(&plan.model, say)?;
    let checkpoint = Checkpoint::open(&path)?;
    let needed = (DEPTH + DEEP_DECODE).max(JOINING) + 1;
    let context = checkpoint.spec().context_length;
    if context < needed {
        return Err(BenchError::Context { context, needed });
    }
    let device = devices::choose(plan.device);
    let devices = Devices::open(device)?;
    let options = ours::options(plan, device);
    let threads = options.threads();
    let bandwidth = match device {
        Device::Cpu => {
            say("measuring memory");
            Some(bandwidth(threads)?)
        }
        Device::Cuda(_) => None,
    };
    let grammars = choosing::grammars(&checkpoint, sandbox)?;
    let (mut rounds, mut choices, mut pauses) = (Vec::new(), Vec::new(), Vec::new());
    let (mut weight_bytes, mut taken_bytes) = (0, 0);
    for round in 1..=plan.rounds {
        say(&format!("round {round} of {}", plan.rounds));
        let bench = ours::Bench::load(&path, &options)?;
        let own = bench.figures(plan.streams, round)?;
        choices.push(choosing::measure(&bench, &grammars, round)?);
        pauses.push(joining::pauses(&bench, round)?);
        (weight_bytes, taken_bytes) = (bench.weight_bytes(), devices.taken());
        drop(bench);
        let theirs = plan.llama_cpp.as_deref().map(|folder| {
            say(&format!("round {round} of {}: llama.cpp", plan.rounds));
            llama::figures(folder, &path, threads, plan.streams)
        });
        rounds.push((own, theirs.transpose()?));
    }
    let millm = Figures::median(&rounds.iter().map(|(own, _)| *own).collect::<Vec<_>>());
    let theirs: Vec<Figures> = rounds.iter().filter_map(|(_, theirs)| *theirs).collect();
    let choosing = Choosing {
        drawn: median(&choices, |c| c.drawn),
        held: median(&choices, |c| c.held),
        repeated: median(&choices, |c| c.repeated),
        guessed: median(&choices, |c| c.guessed),
    };
    let pauses = Pauses { most: median(&pauses, |p| p.most), longest: median(&pauses, |p| p.longest) };
    let bytes_per_token = bytes_per_token(&checkpoint);
    Ok(Report {
        model: path.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned()),
        device: device.to_string(),
        threads,
        streams: plan.streams,
        rounds: plan.rounds,
        file_bytes: checkpoint.files().iter().map(|file| file.size_bytes).sum(),
        weight_bytes,
        estimated_bytes: estimate::of(&checkpoint, &options).total_bytes as u64,
        taken_bytes,
        bandwidth,
        bytes_per_token,
        roofline_share: bandwidth.map(|bandwidth| millm.decode * bytes_per_token as f64 / bandwidth),
        millm,
        choosing,
        pauses,
        pause_steps: pauses.most * millm.streams / plan.streams as f64,
        constraint_share: choosing.held_share(),
        guessing_gain: choosing.guessing_gain(),
        llama_cpp: (!theirs.is_empty()).then(|| Figures::median(&theirs)),
    })
}

fn file(model: &Model, say: &dyn Fn(&str)) -> Result<PathBuf, BenchError> {
    let (shape, quantization, folder) = match model {
        Model::Local(path) => return Ok(path.clone()),
        Model::Synthetic { shape, quantization, folder } => (shape, quantization, folder),
    };
    let shape = Shape::named(shape).ok_or_else(|| BenchError::Shape(shape.clone()))?;
    let scheme = match quantization.to_ascii_uppercase().as_str() {
        "Q2" | "Q2_K" => Scheme::Q2,
        "Q4" | "Q4_K_M" => Scheme::Q4,
        "Q8" | "Q8_0" => Scheme::Q8,
        "FP16" | "F16" => Scheme::Fp16,
        _ => return Err(BenchError::Quantization(quantization.clone())),
    };
    say(&format!("making {} in {} unless it is there", shape.name, folder.display()));
    Ok(shape.gguf(folder, scheme)?)
}

/// All weights but the embedding's, of which a token reads one row; unless it is the output's matrix too.
fn bytes_per_token(checkpoint: &Checkpoint) -> u64 {
    let tied = checkpoint.spec().tied_embeddings;
    let read = checkpoint.tensors().filter(|tensor| tied || tensor.name != "token_embd.weight");
    read.map(|tensor| tensor.bytes).sum()
}

impl Figures {
    fn median(rounds: &[Self]) -> Self {
        Self {
            prefill: median(rounds, |f| f.prefill),
            decode: median(rounds, |f| f.decode),
            decode_deep: median(rounds, |f| f.decode_deep),
            streams: median(rounds, |f| f.streams),
            first_token_seconds: median(rounds, |f| f.first_token_seconds),
        }
    }
}

/// Of one figure of each round.
fn median<T>(rounds: &[T], figure: fn(&T) -> f64) -> f64 {
    let mut values: Vec<f64> = rounds.iter().map(figure).collect();
    values.sort_by(f64::total_cmp);
    f64::midpoint(values[(values.len() - 1) / 2], values[values.len() / 2])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_are_of_each_figure() {
        let figures = |x: f64| Figures {
            prefill: x,
            decode: 10.0 - x,
            decode_deep: x,
            streams: x,
            first_token_seconds: x,
        };
        let middle = Figures::median(&[figures(3.0), figures(1.0), figures(2.0), figures(7.0)]);
        assert_eq!((middle.prefill, middle.decode), (2.5, 7.5));
    }

    #[test]
    fn what_is_no_model_is_told() {
        let synthetic = |shape: &str, quantization: &str| Model::Synthetic {
            shape: shape.to_owned(),
            quantization: quantization.to_owned(),
            folder: PathBuf::new(),
        };
        let told = |model| file(&model, &|_| {}).unwrap_err().to_string();
        assert!(told(synthetic("llama-9b", "Q4")).contains("llama-135m, tinyllama-1.1b"));
        assert!(told(synthetic("llama-135m", "Q9")).contains("Q2, Q4, Q8"));
    }
}
