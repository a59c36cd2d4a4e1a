//! `fake-hub`: the fake hub as a program, for demos and for tests that are not in Rust.

use std::path::PathBuf;

use anyhow::Context;
use clap::Parser;
use fake_hub::{Hub, RepoSpec};

/// A fake Hugging Face hub.
#[derive(Debug, Parser)]
struct Arguments {
    /// A folder of models: DIR/<owner>/<name>/files…
    #[arg(long, value_name = "DIR")]
    models: Vec<PathBuf>,
    /// One repository from any folder.
    #[arg(long, value_name = "ID=DIR", value_parser = repo)]
    repo: Vec<(String, PathBuf)>,
    /// The hub's port; 0 takes any.
    #[arg(long, default_value_t = 0)]
    port: u16,
    /// Where to write the hub's port once it answers.
    #[arg(long, value_name = "FILE")]
    port_file: Option<PathBuf>,
    /// A token to know, beside those that repositories let in.
    #[arg(long, value_name = "TOKEN=USER", value_parser = pair)]
    token: Vec<(String, String)>,
    /// Send requests for small files over /api/resolve-cache/, as the live hub may.
    #[arg(long)]
    resolve_cache: bool,
    /// Entries on a page of trees and lists.
    #[arg(long, default_value_t = 1000)]
    page_size: usize,
}

fn pair(text: &str) -> Result<(String, String), String> {
    let (left, right) = text.split_once('=').ok_or("must be two values joined by '='")?;
    Ok((left.to_owned(), right.to_owned()))
}

fn repo(text: &str) -> Result<(String, PathBuf), String> {
    pair(text).map(|(id, dir)| (id, dir.into()))
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let mut builder = Hub::builder().port(arguments.port).page_size(arguments.page_size);
    for dir in arguments.models {
        builder = builder.models_dir(dir);
    }
    for (id, dir) in arguments.repo {
        let spec = RepoSpec::folder(id, &dir).with_context(|| dir.display().to_string())?;
        builder = builder.repo(spec);
    }
    for (token, user) in arguments.token {
        builder = builder.token(token, user);
    }
    if arguments.resolve_cache {
        builder = builder.resolve_cache();
    }
    let hub = builder.start()?;
    println!("hub: {}", hub.url());
    if let Some(file) = arguments.port_file {
        let port = hub.url().rsplit(':').next().unwrap_or_default();
        // Beside and renamed: whoever waits for the file finds it whole.
        let beside = file.with_extension("part");
        std::fs::write(&beside, port)?;
        std::fs::rename(&beside, &file).with_context(|| file.display().to_string())?;
    }
    // Until killed.
    loop {
        std::thread::park();
    }
}
