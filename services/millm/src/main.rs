//! miLLM's one binary: the server with any of its roles, and the command line that talks to it.
//!
//! Data goes to stdout, everything else to stderr. Exit codes: 0 done, 1 failed, 2 misused.

mod allocator;
mod args;
mod client;
mod commands;
mod confirm;
mod fetch;
mod follow;
mod inspection_args;
mod job_progress;
mod live_state;
mod output;
mod progress;
mod repo_arg;

use std::process::ExitCode;

use anyhow::{Context as _, Result};
use clap::Parser as _;
use millm_kit::Settings;

use args::{Cli, Command};

fn main() -> ExitCode {
    // The sandbox's helper process runs nothing else of the program.
    if std::env::args_os().nth(1).is_some_and(|argument| argument == millm_sandbox::helper::ARGUMENT) {
        return millm_sandbox::helper::main(allocator::release_free_pages);
    }
    let cli = Cli::parse();
    let json = cli.json;
    let runtime = match tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .on_thread_park(allocator::release_free_pages_when_idle)
        .build()
    {
        Ok(runtime) => runtime,
        Err(cause) => {
            eprintln!("error: cannot start: {cause}");
            return ExitCode::FAILURE;
        }
    };
    let end = runtime.block_on(run(cli));
    // A blocked terminal read or a forced engine must not hold the process.
    runtime.shutdown_background();
    match end {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => output::failure(&error, json),
    }
}

async fn run(cli: Cli) -> Result<()> {
    let flags = flags(&cli.command)?;
    let settings = settings(&cli, &flags)?;
    commands::run(cli, settings).await
}

fn flags(command: &Command) -> Result<Vec<(&str, String)>> {
    let Command::Serve(serve) = command else { return Ok(Vec::new()) };
    let mut flags = Vec::new();
    flags.extend(serve.host.clone().map(|host| ("host", host)));
    flags.extend(serve.port.map(|port| ("port", port.to_string())));
    for pair in &serve.set {
        let (key, value) =
            pair.split_once('=').context(output::Misuse(format!("--set {pair}: expected KEY=VALUE")))?;
        flags.push((key.trim(), value.trim().to_owned()));
    }
    Ok(flags)
}

fn settings(cli: &Cli, flags: &[(&str, String)]) -> Result<Settings> {
    // These depend on no setting: a wrong one must not stop an installation.
    if matches!(cli.command, Command::Completions(_) | Command::Man(_)) {
        return Ok(Settings::load(None, |_| None, &[])?);
    }
    let path = cli.config.clone().unwrap_or_else(|| "millm.toml".into());
    let text = match std::fs::read_to_string(&path) {
        Ok(text) => Some(text),
        Err(cause) if cause.kind() == std::io::ErrorKind::NotFound && cli.config.is_none() => None,
        Err(cause) => {
            return Err(cause).with_context(|| output::Misuse(format!("cannot read {}", path.display())));
        }
    };
    let name = path.display().to_string();
    let file = text.as_deref().map(|text| (name.as_str(), text));
    Settings::load(file, |name| std::env::var(name).ok(), flags)
        .map_err(|e| output::Misuse(e.to_string()).into())
}
