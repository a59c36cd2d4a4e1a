//! `millm man`: a man page for the program and one for each command.

use std::{fs, path::Path};

use anyhow::{Context as _, Result};
use clap::CommandFactory as _;

use crate::args::Cli;

/// Writes `millm.1`, `millm-pull.1` and so on into `folder`, which is created.
///
/// # Errors
///
/// The folder or a file that cannot be written.
pub fn run(folder: &Path) -> Result<()> {
    let written = fs::create_dir_all(folder).and_then(|()| clap_mangen::generate_to(Cli::command(), folder));
    written.with_context(|| format!("cannot write man pages to {}", folder.display()))
}
