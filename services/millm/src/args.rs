//! The command line: its commands and options, with their help texts.

use std::path::PathBuf;

use clap::{ArgAction, Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;
use millm_kit::settings::{DeviceChoice, KernelChoice};

use crate::inspection_args::{Datasets, Extract, Extractions, Show, Templates};

/// A model server you can trust: pull, verify, quantize, serve and look inside language models.
#[derive(Debug, Parser)]
#[command(
    name = "millm",
    version,
    propagate_version = true,
    arg_required_else_help = true,
    max_term_width = 100
)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
    /// The server to talk to [default: http://HOST:PORT of the settings]
    #[arg(long, global = true, env = "MILLM_SERVER", value_name = "URL")]
    pub server: Option<String>,
    /// Print JSON on stdout
    #[arg(long, global = true)]
    pub json: bool,
    /// Settings file [default: ./millm.toml, if there is one]
    #[arg(long, global = true, value_name = "FILE")]
    pub config: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the server: all roles in one process, or some
    Serve(Serve),
    /// Download a model from the hub, verify it, quantize it
    Pull(Pull),
    /// Register a local folder or GGUF file, without copying it
    Add(Add),
    /// List models
    #[command(visible_alias = "ls")]
    List(List),
    /// Show one model, or look at its layers
    Show(Show),
    /// Show what a repository holds and needs, without downloading it
    Preview(Preview),
    /// Search the hub for repositories by name
    Search(Search),
    /// Load a model into memory
    Load(Load),
    /// Unload the loaded model
    Unload(Unload),
    /// Chat with a model, which is loaded first
    Run(Run),
    /// Show loaded models and active downloads
    Ps,
    /// Remove a model and its files; the files of a local model stay
    Rm(Rm),
    /// Rename a model
    Rename(Rename),
    /// Stop a download and remove its files
    Cancel(Name),
    /// Add, list and read datasets
    Datasets(Datasets),
    /// Store and share settings of extractions
    Templates(Templates),
    /// Write a loaded model's activations over a dataset
    ///
    /// The job runs on the server, beside other requests. Each hook point of each layer becomes a file for NumPy, as
    /// [samples, tokens, width]. tokens.npy, mask.npy and samples.jsonl say which token each number belongs to,
    /// statistics.json describes the numbers, and metadata.json has what is needed to do it again. Ctrl-C leaves the job
    /// running.
    Extract(Extract),
    /// List, follow, fetch and repeat extractions
    Extractions(Extractions),
    /// Measure tokens per second of a local model or a synthetic one
    Bench(Bench),
    /// Print the settings and the source of each
    Config(Config),
    /// Check settings, folders, services and models on disk
    Doctor(Doctor),
    /// Print the completion script of a shell
    Completions(Completions),
    /// Write the man pages
    #[command(hide = true)]
    Man(Man),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub enum Role {
    Catalog,
    Downloader,
    Runtime,
    Gateway,
}

#[derive(Debug, Args)]
pub struct Serve {
    /// Roles to run in this process; MILLM_CATALOG_URL, MILLM_DOWNLOADER_URL and MILLM_RUNTIME_URL locate the others
    #[arg(long, value_delimiter = ',', default_values_t = [Role::Catalog, Role::Downloader, Role::Runtime, Role::Gateway])]
    pub roles: Vec<Role>,
    /// Address to listen on
    #[arg(long)]
    pub host: Option<String>,
    /// Port to listen on
    #[arg(long)]
    pub port: Option<u16>,
    /// Any setting: --set context_length=8192 (see 'millm config')
    #[arg(long = "set", value_name = "KEY=VALUE", action = ArgAction::Append)]
    pub set: Vec<String>,
}

impl std::fmt::Display for Role {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Catalog => "catalog",
            Self::Downloader => "downloader",
            Self::Runtime => "runtime",
            Self::Gateway => "gateway",
        })
    }
}

#[derive(Debug, Args)]
pub struct Pull {
    /// owner/name, or owner/name:Q4_K_M for one of several GGUF files
    pub repo: String,
    /// Q2, Q4, Q8, FP16 or NATIVE (as published) [default: Q4; a chosen GGUF file is kept as published]
    #[arg(short, long)]
    pub quantization: Option<String>,
    /// Branch, tag or commit [default: main]
    #[arg(long, default_value = "", hide_default_value = true)]
    pub revision: String,
    /// One GGUF file of the repository, or the weights of a model in one of its folders
    #[arg(long, default_value = "", hide_default_value = true)]
    pub file: String,
    /// The repository's folder that holds the model
    #[arg(long, default_value = "", hide_default_value = true)]
    pub subfolder: String,
    /// The model's name [default: the repository's name]
    #[arg(long, default_value = "", hide_default_value = true)]
    pub name: String,
    /// Use the native implementation of a repository that asks for custom code, which is never run
    #[arg(long)]
    pub trust_remote_code: bool,
    /// Keep the published files beside the quantized one
    #[arg(long)]
    pub keep_source: bool,
    /// Return as soon as the download is queued; 'millm ps' shows its progress
    #[arg(short, long)]
    pub detach: bool,
    /// Print what the download would take and what prevents it, and download nothing
    #[arg(long)]
    pub dry_run: bool,
}

#[derive(Debug, Args)]
pub struct Add {
    /// A folder with config.json and safetensors, or one GGUF file
    pub path: PathBuf,
    /// The model's name [default: the name of the folder or file]
    #[arg(long, default_value = "", hide_default_value = true)]
    pub name: String,
    /// Quantize a copy: Q2, Q4, Q8 or FP16 [default: use the files as they are]
    #[arg(short, long, default_value = "NATIVE", hide_default_value = true)]
    pub quantization: String,
}

#[derive(Debug, Args)]
pub struct List {
    /// Only models whose name, repository or architecture contains this
    #[arg(default_value = "", hide_default_value = true)]
    pub query: String,
}

#[derive(Debug, Args)]
pub struct Name {
    /// Name or id
    pub model: String,
}

#[derive(Debug, Args)]
pub struct Preview {
    /// owner/name, or owner/name:Q4_K_M for one of several GGUF files
    pub repo: String,
    /// Branch, tag or commit [default: main]
    #[arg(long, default_value = "", hide_default_value = true)]
    pub revision: String,
    /// One file of a repository of GGUF files
    #[arg(long, default_value = "", hide_default_value = true)]
    pub file: String,
    /// The repository's folder that holds the model
    #[arg(long, default_value = "", hide_default_value = true)]
    pub subfolder: String,
}

#[derive(Debug, Args)]
pub struct Search {
    /// Part of a repository's name
    #[arg(default_value = "", hide_default_value = true, required_unless_present = "author")]
    pub query: String,
    /// Only repositories of this owner
    #[arg(long, default_value = "", hide_default_value = true)]
    pub author: String,
    /// downloads, likes or last_modified [default: the hub's own order]
    #[arg(long, default_value = "", hide_default_value = true)]
    pub sort: String,
    /// Maximum number of results
    #[arg(short = 'n', long, default_value_t = 20)]
    pub limit: u32,
}

#[derive(Debug, Args)]
pub struct Load {
    /// Name or id
    pub model: String,
    /// Load even when the estimate exceeds the free memory
    #[arg(long)]
    pub allow_insufficient_memory: bool,
    /// Maximum tokens of a request, prompt and answer together
    #[arg(long)]
    pub context_length: Option<u32>,
}

#[derive(Debug, Args)]
pub struct Unload {
    /// Name or id [default: the loaded one]
    #[arg(default_value = "", hide_default_value = true)]
    pub model: String,
}

#[derive(Debug, Args)]
pub struct Run {
    /// Name or id
    pub model: String,
    /// Answer this prompt and exit, instead of starting a chat
    pub prompt: Vec<String>,
    /// System prompt
    #[arg(long)]
    pub system: Option<String>,
    /// Sampling temperature; 0 is greedy [default: the model's own, else 0.7]
    #[arg(short, long)]
    pub temperature: Option<f32>,
    /// The same seed gives the same answer
    #[arg(long)]
    pub seed: Option<u64>,
    /// Maximum tokens of an answer
    #[arg(long)]
    pub max_tokens: Option<u32>,
}

#[derive(Debug, Args)]
pub struct Rename {
    /// Name or id
    pub model: String,
    /// The new name: 1 to 255 letters, digits, '-', '_' and '.'
    pub name: String,
}

#[derive(Debug, Args)]
pub struct Rm {
    /// Names or ids
    #[arg(required = true)]
    pub models: Vec<String>,
    /// Do not ask for confirmation
    #[arg(short, long)]
    pub yes: bool,
}

#[derive(Debug, Args)]
pub struct Bench {
    /// A folder with config.json and safetensors, or one GGUF file
    #[arg(required_unless_present = "synthetic", conflicts_with = "synthetic")]
    pub model: Option<PathBuf>,
    /// Measure seeded weights of this shape: llama-135m, tinyllama-1.1b or llama-8b
    #[arg(long, value_name = "SHAPE")]
    pub synthetic: Option<String>,
    /// Quantization of the synthetic model: Q2, Q4, Q8 or FP16
    #[arg(short, long, default_value = "Q4")]
    pub quantization: String,
    /// Folder that keeps synthetic models [default: the system's temporary folder]
    #[arg(long, value_name = "FOLDER")]
    pub keep_in: Option<PathBuf>,
    /// Device: auto, cpu, cuda or cuda:1
    #[arg(long, default_value = "auto")]
    pub device: DeviceChoice,
    /// Compute threads [default: one per physical core]
    #[arg(short, long)]
    pub threads: Option<usize>,
    /// CPU kernels: auto, portable, avx2, avx512 or amx
    #[arg(long, default_value = "auto", env = "MILLM_KERNELS")]
    pub kernels: KernelChoice,
    /// Concurrent answers
    #[arg(long, default_value_t = 8)]
    pub streams: usize,
    /// Rounds; the figures are their medians
    #[arg(long, default_value_t = 3)]
    pub rounds: usize,
    /// Folder of llama.cpp's programs: measures them on the same GGUF file, with their best setting for flash attention
    #[arg(long, value_name = "FOLDER", env = "LLAMA_CPP_BIN")]
    pub llama_cpp: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub struct Config {
    /// Print the table of the README
    #[arg(long, hide = true)]
    pub markdown: bool,
}

#[derive(Debug, Args)]
pub struct Doctor {
    /// Repair what can be repaired
    #[arg(long)]
    pub fix: bool,
}

#[derive(Debug, Args)]
pub struct Completions {
    /// The shell to complete in
    pub shell: Shell,
}

#[derive(Debug, Args)]
pub struct Man {
    /// Folder to write to
    #[arg(long, value_name = "FOLDER")]
    pub dir: PathBuf,
}
