//! The command line: what can be said, and how it is explained.

use std::path::PathBuf;

use clap::{ArgAction, Args, Parser, Subcommand, ValueEnum};
use millm_kit::settings::DeviceChoice;

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
    /// Register a local folder or GGUF file (never copied)
    Add(Add),
    /// List models
    #[command(visible_alias = "ls")]
    List(List),
    /// Show one model
    Show(Name),
    /// See what a repository holds and needs, without downloading it
    Preview(Preview),
    /// Search the hub for repositories by name
    Search(Search),
    /// Load a model into memory
    Load(Load),
    /// Unload the loaded model
    Unload(Unload),
    /// Chat with a model (loads it if need be)
    Run(Run),
    /// Show what is loaded, running and arriving
    Ps,
    /// Remove a model and its files (a local model's own files stay)
    Rm(Rm),
    /// Stop a download and remove what it left
    Cancel(Name),
    /// Measure tokens per second of a local model, or of one made for that
    Bench(Bench),
    /// Print the settings and where each comes from
    Config(Config),
    /// Look whether all is well: settings, folders, services, models on disk
    Doctor(Doctor),
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
    /// Roles to run here; the others are found by MILLM_CATALOG_URL, MILLM_DOWNLOADER_URL, MILLM_RUNTIME_URL
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
    /// One file of a repository of GGUF files, or the weights of a model in a folder of the repository
    #[arg(long, default_value = "", hide_default_value = true)]
    pub file: String,
    /// The repository's folder that holds the model
    #[arg(long, default_value = "", hide_default_value = true)]
    pub subfolder: String,
    /// What to call it [default: the repository's name]
    #[arg(long, default_value = "", hide_default_value = true)]
    pub name: String,
    /// Use the native implementation of a repository that asks for custom code (which is never run)
    #[arg(long)]
    pub trust_remote_code: bool,
    /// Keep the published files beside the quantized one
    #[arg(long)]
    pub keep_source: bool,
    /// Return once it is queued; 'millm ps' shows how it goes
    #[arg(short, long)]
    pub detach: bool,
    /// Only say what it would take and what stands in its way
    #[arg(long)]
    pub dry_run: bool,
}

#[derive(Debug, Args)]
pub struct Add {
    /// A folder with config.json and safetensors, or one GGUF file
    pub path: PathBuf,
    /// What to call it [default: the folder's or file's name]
    #[arg(long, default_value = "", hide_default_value = true)]
    pub name: String,
    /// Quantize a copy: Q2, Q4, Q8 or FP16 [default: use the files as they are]
    #[arg(short, long, default_value = "NATIVE", hide_default_value = true)]
    pub quantization: String,
}

#[derive(Debug, Args)]
pub struct List {
    /// Only those whose name, repository or architecture contains this
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
    /// Only this owner's
    #[arg(long, default_value = "", hide_default_value = true)]
    pub author: String,
    /// downloads, likes or last_modified [default: as the hub finds best]
    #[arg(long, default_value = "", hide_default_value = true)]
    pub sort: String,
    /// How many at most
    #[arg(short = 'n', long, default_value_t = 20)]
    pub limit: u32,
}

#[derive(Debug, Args)]
pub struct Load {
    /// Name or id
    pub model: String,
    /// Load although the estimate exceeds the free memory
    #[arg(long)]
    pub allow_insufficient_memory: bool,
    /// Tokens a request may hold
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
    /// Ask this and leave, instead of chatting
    pub prompt: Vec<String>,
    /// What the model is told first
    #[arg(long)]
    pub system: Option<String>,
    /// 0 always takes the likeliest token
    #[arg(short, long)]
    pub temperature: Option<f32>,
    /// The same seed gives the same answer
    #[arg(long)]
    pub seed: Option<u64>,
    /// Longest answer, in tokens
    #[arg(long)]
    pub max_tokens: Option<u32>,
}

#[derive(Debug, Args)]
pub struct Rm {
    /// Names or ids
    #[arg(required = true)]
    pub models: Vec<String>,
    /// Do not ask
    #[arg(short, long)]
    pub yes: bool,
}

#[derive(Debug, Args)]
pub struct Bench {
    /// A folder with config.json and safetensors, or one GGUF file
    #[arg(required_unless_present = "synthetic", conflicts_with = "synthetic")]
    pub model: Option<PathBuf>,
    /// Weights from a seed, of this shape: llama-135m, tinyllama-1.1b or llama-8b
    #[arg(long, value_name = "SHAPE")]
    pub synthetic: Option<String>,
    /// Of the synthetic model: Q2, Q4, Q8 or FP16
    #[arg(short, long, default_value = "Q4")]
    pub quantization: String,
    /// Where synthetic models are kept for the next time [default: the system's folder for temporary files]
    #[arg(long, value_name = "FOLDER")]
    pub keep_in: Option<PathBuf>,
    /// Where it runs: auto, cpu, cuda or cuda:1
    #[arg(long, default_value = "auto")]
    pub device: DeviceChoice,
    /// Compute threads [default: one for each physical core]
    #[arg(short, long)]
    pub threads: Option<usize>,
    /// Answers side by side
    #[arg(long, default_value_t = 8)]
    pub streams: usize,
    /// Medians are of so many rounds
    #[arg(long, default_value_t = 3)]
    pub rounds: usize,
    /// Folder of llama.cpp's programs, to be measured beside on the same file (GGUF)
    #[arg(long, value_name = "FOLDER", env = "LLAMA_CPP_BIN")]
    pub llama_cpp: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub struct Config {
    /// As the README's table
    #[arg(long, hide = true)]
    pub markdown: bool,
}

#[derive(Debug, Args)]
pub struct Doctor {
    /// Mend what can be mended
    #[arg(long)]
    pub fix: bool,
}
