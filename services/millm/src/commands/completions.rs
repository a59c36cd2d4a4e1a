//! `millm completions`: the completion script of a shell, on stdout.

use anyhow::Result;
use clap::CommandFactory as _;
use clap_complete::Shell;

use crate::{args::Cli, output};

/// Prints the completion script of a shell.
pub fn run(shell: Shell) -> Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "millm", &mut script);
    output::line(String::from_utf8(script)?.trim_end())
}
