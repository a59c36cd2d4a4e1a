//! The arguments of the commands that look inside models: show, datasets, templates, extract, extractions.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};
use millm_api::inspection::{
    extraction::Shard,
    settings::{ActivationType, SettingsChoice},
};

#[derive(Debug, Args)]
#[command(after_long_help = "Examples:
  millm show tiny-millm
  millm show tiny-millm --layers
  millm show tiny-millm --layer 3")]
pub struct Show {
    /// Name or id
    pub model: String,
    /// Show the layers with their modules and hook points; equal layers are shown once
    #[arg(long)]
    pub layers: bool,
    /// Show one layer with its tensors and hook points
    #[arg(long, value_name = "N")]
    pub layer: Option<u32>,
}

#[derive(Debug, Args)]
pub struct Datasets {
    #[command(subcommand)]
    pub command: DatasetsCommand,
}

#[derive(Debug, Subcommand)]
pub enum DatasetsCommand {
    /// Register files of the server's machine, or fetch a dataset of the hub
    Add(AddDataset),
    /// List datasets
    #[command(visible_alias = "ls")]
    List,
    /// Show one dataset with its columns and files
    Show(DatasetName),
    /// Print rows as JSON, one on each line
    Rows(DatasetRows),
    /// Remove a dataset; files of the server's machine stay, files from the hub are removed
    Rm(RmDatasets),
}

#[derive(Debug, Args)]
#[command(after_long_help = "Examples:
  millm datasets add /data/prompts.jsonl --column text
  millm datasets add '/data/shards/*.parquet' --name shards
  millm datasets add Salesforce/wikitext --config wikitext-2-raw-v1 --split test

A path that exists is taken as a path, owner/name as a repository otherwise. ./owner/name is always a path.")]
pub struct AddDataset {
    /// A file, a folder or a pattern in quotes on the server, or owner/name on the hub
    pub source: String,
    /// The dataset's name [default: made from the path or the repository]
    #[arg(long, default_value = "", hide_default_value = true)]
    pub name: String,
    /// Column to read [default: the first with texts, messages or token ids]
    #[arg(long, default_value = "", hide_default_value = true)]
    pub column: String,
    /// Configuration of a dataset on the hub [default: the only one, or "default"]
    #[arg(long, default_value = "", hide_default_value = true)]
    pub config: String,
    /// Split of a dataset on the hub [default: train]
    #[arg(long, default_value = "", hide_default_value = true)]
    pub split: String,
    /// Branch, tag or commit of a dataset on the hub [default: main]
    #[arg(long, default_value = "", hide_default_value = true)]
    pub revision: String,
}

#[derive(Debug, Args)]
pub struct DatasetName {
    /// Name or id
    pub dataset: String,
}

#[derive(Debug, Args)]
pub struct DatasetRows {
    /// Name or id
    pub dataset: String,
    /// First row, from 0
    #[arg(long, default_value_t = 0)]
    pub offset: u64,
    /// Maximum number of rows, at most 100
    #[arg(short = 'n', long, default_value_t = 20)]
    pub limit: u32,
}

#[derive(Debug, Args)]
pub struct RmDatasets {
    /// Names or ids
    #[arg(required = true)]
    pub datasets: Vec<String>,
    /// Do not ask for confirmation
    #[arg(short, long)]
    pub yes: bool,
}

#[derive(Debug, Args)]
pub struct Templates {
    #[command(subcommand)]
    pub command: TemplatesCommand,
}

#[derive(Debug, Subcommand)]
pub enum TemplatesCommand {
    /// List templates: favorites first, then the newest
    #[command(visible_alias = "ls")]
    List,
    /// Show one template with its settings
    Show(TemplateName),
    /// Store settings as a template
    Add(AddTemplate),
    /// Remove templates
    Rm(RmTemplates),
    /// Mark a template as a favorite
    Favorite(FavoriteTemplate),
    /// Write templates as JSON
    Export(ExportTemplates),
    /// Create the templates of an exported file
    Import(ImportTemplates),
}

#[derive(Debug, Args)]
pub struct TemplateName {
    /// Name or id
    pub template: String,
}

#[derive(Debug, Args)]
#[command(after_long_help = "Examples:
  millm templates add --hooks residual,mlp --layers 0-11 --max-samples 1000
  millm templates add attention-maps --hooks attn_pattern --layers all --sequence-length 128 --dtype f16")]
pub struct AddTemplate {
    /// The template's name [default: made from the settings, such as residual-mlp_layers0-11_1000samples_1430]
    #[arg(default_value = "", hide_default_value = true)]
    pub name: String,
    /// Description
    #[arg(long, default_value = "", hide_default_value = true)]
    pub description: String,
    /// Mark it as a favorite
    #[arg(long)]
    pub favorite: bool,
    #[command(flatten)]
    pub settings: SettingsArgs,
}

#[derive(Debug, Args)]
pub struct RmTemplates {
    /// Names or ids
    #[arg(required = true)]
    pub templates: Vec<String>,
    /// Do not ask for confirmation
    #[arg(short, long)]
    pub yes: bool,
}

#[derive(Debug, Args)]
pub struct FavoriteTemplate {
    /// Name or id
    pub template: String,
    /// Unmark it
    #[arg(long)]
    pub off: bool,
}

#[derive(Debug, Args)]
#[command(after_long_help = "Examples:
  millm templates export -o templates.json
  millm templates export mine yours > two.json")]
pub struct ExportTemplates {
    /// Names or ids [default: all templates]
    pub templates: Vec<String>,
    /// File to write [default: stdout]
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub struct ImportTemplates {
    /// A file of 'millm templates export', or - for stdin
    pub file: PathBuf,
}

/// What an extraction reads, and how.
#[derive(Debug, Args)]
pub struct SettingsArgs {
    /// Hook points: residual, mlp, attention, or names of 'millm show MODEL --layers', with a layer or without one
    #[arg(long, value_name = "POINTS", value_delimiter = ',')]
    pub hooks: Vec<String>,
    /// Layers of hook points without one: all, or as in 0,5-10 [default: all]
    #[arg(long)]
    pub layers: Option<String>,
    /// Maximum number of samples [default: the whole dataset]
    #[arg(long, value_name = "N")]
    pub max_samples: Option<u64>,
    /// Maximum tokens of a sample [default: the model's context]
    #[arg(long, value_name = "T")]
    pub sequence_length: Option<u32>,
    /// Samples that are computed at once, or auto [default: auto]
    #[arg(long, value_name = "B", value_parser = batch_size)]
    pub batch_size: Option<BatchSize>,
    /// Type of the numbers in the files [default: f32]
    #[arg(long)]
    pub dtype: Option<Dtype>,
    /// Positions to keep: all, last, or indices as in 0,5,-1 [default: all]
    #[arg(long, allow_hyphen_values = true)]
    pub positions: Option<String>,
    /// Fill each sample with several texts, one after the other
    #[arg(long, conflicts_with = "pad")]
    pub pack: bool,
    /// Put one text into each sample and fill it with padding; the default
    #[arg(long)]
    pub pad: bool,
    /// Continue texts that are too long in the next sample, instead of cutting them
    #[arg(long)]
    pub split: bool,
    /// Render messages with the model's chat template
    #[arg(long)]
    pub chat: bool,
    /// Leave the tokenizer's own special tokens out
    #[arg(long)]
    pub no_special_tokens: bool,
}

/// A `--batch-size`; 0 is chosen by the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchSize(pub u32);

fn batch_size(text: &str) -> Result<BatchSize, String> {
    match text.parse() {
        Ok(size) if size > 0 => Ok(BatchSize(size)),
        _ if text == "auto" => Ok(BatchSize(0)),
        _ => Err("expected a number from 1 on, or auto".to_owned()),
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Dtype {
    F32,
    F16,
    Bf16,
}

impl SettingsArgs {
    /// Returns the settings that the command line names.
    pub fn choice(self) -> SettingsChoice {
        let pack = if self.pad { Some(false) } else { self.pack.then_some(true) };
        SettingsChoice {
            points: (!self.hooks.is_empty()).then_some(self.hooks),
            layers: self.layers,
            max_samples: self.max_samples,
            sequence_length: self.sequence_length,
            batch_size: self.batch_size.map(|size| size.0),
            dtype: self.dtype.map(|dtype| match dtype {
                Dtype::F32 => ActivationType::F32,
                Dtype::F16 => ActivationType::F16,
                Dtype::Bf16 => ActivationType::Bf16,
            }),
            positions: self.positions,
            pack,
            split: self.split.then_some(true),
            chat_template: self.chat.then_some(true),
            no_special_tokens: self.no_special_tokens.then_some(true),
            format: None,
        }
    }
}

#[derive(Debug, Args)]
#[command(after_long_help = "Examples:
  millm extract tiny-millm --dataset prompts.jsonl --hooks residual --layers all --out activations
  millm extract tiny-millm --dataset wiki --hooks residual,mlp --layers 0,5-10 --max-samples 1000 --dry-run
  millm extract tiny-millm --dataset wiki --hooks resid_post.3,logits --positions last --dtype f16
  millm extract tiny-millm --dataset chats --column messages --chat --hooks attn_pattern --layers 2
  millm extract tiny-millm --dataset wiki --template mine --shard $JOB_COMPLETION_INDEX/8 --out shard")]
pub struct Extract {
    /// Name or id of a loaded model
    pub model: String,
    /// Name or id of a dataset, or a path on the server, which is registered if it is not
    #[arg(short, long)]
    pub dataset: String,
    /// Column to read [default: the dataset's own]
    #[arg(long, default_value = "", hide_default_value = true)]
    pub column: String,
    /// Stored template; other options override its settings
    #[arg(long, value_name = "NAME")]
    pub template: Option<String>,
    #[command(flatten)]
    pub settings: SettingsArgs,
    /// Read every N-th sample, from sample I on; I is 0 to N-1
    #[arg(long, value_name = "I/N", value_parser = shard)]
    pub shard: Option<Shard>,
    /// Folder to fetch the files into [default: the files stay on the server]
    #[arg(short, long, value_name = "FOLDER", conflicts_with_all = ["detach", "dry_run"])]
    pub out: Option<PathBuf>,
    /// Return as soon as the job has started
    #[arg(long, conflicts_with = "dry_run")]
    pub detach: bool,
    /// Print what the job would take and what prevents it, and start nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Store the settings as a template
    #[arg(long, value_name = "NAME", conflicts_with = "dry_run")]
    pub save_template: Option<String>,
}

fn shard(text: &str) -> Result<Shard, String> {
    let numbers = text
        .split_once('/')
        .and_then(|(index, count)| Some(Shard { index: index.parse().ok()?, count: count.parse().ok()? }));
    match numbers {
        Some(shard) if shard.index < shard.count => Ok(shard),
        _ => Err("expected I/N with I from 0 to N-1, such as 0/8".to_owned()),
    }
}

#[derive(Debug, Args)]
pub struct Extractions {
    #[command(subcommand)]
    pub command: ExtractionsCommand,
}

#[derive(Debug, Subcommand)]
pub enum ExtractionsCommand {
    /// List extractions, the newest first
    #[command(visible_alias = "ls")]
    List(ListExtractions),
    /// Show one extraction with its settings and files
    Show(ExtractionId),
    /// Follow an extraction to its end
    Watch(ExtractionId),
    /// Stop an extraction; what it has written stays
    Cancel(ExtractionId),
    /// Continue an extraction that was cancelled, failed or was interrupted
    Resume(FollowedExtraction),
    /// Remove extractions and their files
    Rm(RmExtractions),
    /// Do an extraction again and compare the files
    Replay(FollowedExtraction),
    /// Fetch the files of an extraction and verify them
    Fetch(FetchExtraction),
}

#[derive(Debug, Args)]
pub struct ListExtractions {
    /// Only extractions of this model: name or id
    #[arg(long, default_value = "", hide_default_value = true)]
    pub model: String,
}

#[derive(Debug, Args)]
pub struct ExtractionId {
    /// Id
    pub extraction: String,
}

#[derive(Debug, Args)]
pub struct FollowedExtraction {
    /// Id
    pub extraction: String,
    /// Return as soon as the job has started
    #[arg(long)]
    pub detach: bool,
}

#[derive(Debug, Args)]
pub struct RmExtractions {
    /// Ids
    #[arg(required = true)]
    pub extractions: Vec<String>,
    /// Do not ask for confirmation
    #[arg(short, long)]
    pub yes: bool,
}

#[derive(Debug, Args)]
pub struct FetchExtraction {
    /// Id
    pub extraction: String,
    /// Folder to fetch the files into; files that are there, complete, are not fetched again
    #[arg(short, long, value_name = "FOLDER")]
    pub out: PathBuf,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shards_and_batches() {
        assert_eq!(shard("3/8"), Ok(Shard { index: 3, count: 8 }));
        for bad in ["8/8", "0/0", "3", "-1/8", "a/b", "1/2/3", ""] {
            assert!(shard(bad).is_err(), "{bad}");
        }
        assert_eq!((batch_size("auto"), batch_size("16")), (Ok(BatchSize(0)), Ok(BatchSize(16))));
        for bad in ["0", "-1", "many", ""] {
            assert!(batch_size(bad).is_err(), "{bad}");
        }
    }
}
