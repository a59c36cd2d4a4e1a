//! `fake-hub`: the fake hub as a program, for demos and for tests that are not in Rust.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;
use clap::Parser;
use fake_hub::synthetic::Shape;
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
    /// A model of about this many MiB of weights, computed from a seed.
    #[arg(long, value_name = "ID=MIB", value_parser = synthetic, requires = "tokenizer")]
    synthetic: Vec<(String, u64)>,
    /// The tokenizer of computed models: a folder with tokenizer.json.
    #[arg(long, value_name = "DIR")]
    tokenizer: Option<PathBuf>,
    /// The hub's port; 0 is any free port.
    #[arg(long, default_value_t = 0)]
    port: u16,
    /// A file that gets the hub's port once the hub answers.
    #[arg(long, value_name = "FILE")]
    port_file: Option<PathBuf>,
    /// A valid token, in addition to those with access to repositories.
    #[arg(long, value_name = "TOKEN=USER", value_parser = pair)]
    token: Vec<(String, String)>,
    /// Redirect requests for small files to /api/resolve-cache/, as the live hub may.
    #[arg(long)]
    resolve_cache: bool,
    /// The seconds for which signed links are valid.
    #[arg(long, default_value_t = 3600)]
    link_lifetime: u64,
    /// The bytes that each connection's socket buffers: few for exact byte counts in the log, many for speed.
    #[arg(long, default_value_t = 128 << 10)]
    send_buffer: u32,
    /// The number of entries on a page of trees and lists.
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

fn synthetic(text: &str) -> Result<(String, u64), String> {
    let (id, mib) = pair(text)?;
    Ok((id, mib.parse().map_err(|e| format!("{mib}: {e}"))?))
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let mut builder = Hub::builder()
        .port(arguments.port)
        .page_size(arguments.page_size)
        .link_lifetime(Duration::from_secs(arguments.link_lifetime))
        .send_buffer(arguments.send_buffer);
    for dir in arguments.models {
        builder = builder.models_dir(dir);
    }
    for (id, dir) in arguments.repo {
        let spec = RepoSpec::folder(id, &dir).with_context(|| dir.display().to_string())?;
        builder = builder.repo(spec);
    }
    let tokenizer = arguments.tokenizer.unwrap_or_default();
    for (id, mib) in arguments.synthetic {
        builder = builder.repo(Shape::of_mib(1, mib).repo(&id, &tokenizer)?);
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
        // The rename makes the file appear with its whole content.
        let beside = file.with_extension("part");
        std::fs::write(&beside, port)?;
        std::fs::rename(&beside, &file).with_context(|| file.display().to_string())?;
    }
    // Serves until the process is killed.
    loop {
        std::thread::park();
    }
}
