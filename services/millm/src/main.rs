//! miLLM's one binary: the server with any of its roles, and the command line that talks to it.
//!
//! Data goes to stdout, everything else to stderr. Exit codes: 0 done, 1 failed, 2 misused.

mod args;
mod bars;
mod bench;
mod chat;
mod client;
mod doctor;
mod lifecycle;
mod memory;
mod models;
mod output;
mod preview;
mod pull;
mod search;
mod serve;

use std::process::ExitCode;

use anyhow::{Context as _, Result};
use clap::Parser as _;
use millm_kit::{Secret, Settings};

use args::{Cli, Command};
use client::Server;

fn main() -> ExitCode {
    // The server's own helper: before anything else of the program runs.
    if std::env::args_os().nth(1).is_some_and(|argument| argument == millm_sandbox::helper::ARGUMENT) {
        return millm_sandbox::helper::main(memory::give_back);
    }
    let cli = Cli::parse();
    let json = cli.json;
    let runtime = match tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .on_thread_park(memory::give_back_when_idle)
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
    match cli.command {
        Command::Serve(serve) => return serve::run(settings, &serve.roles).await,
        Command::Config(config) => return output::config(&settings, config.markdown, cli.json),
        Command::Bench(args) => return bench::run(args, cli.json).await,
        _ => {}
    }
    let server = Server::new(cli.server.as_deref(), &settings)?;
    let json = cli.json;
    // A token in the caller's environment goes with the request, so that a server started without one can use it.
    let token = settings.hf_token.as_ref().map(Secret::expose).unwrap_or_default().to_owned();
    match cli.command {
        Command::Pull(args) => pull::pull(&server, args, token, json).await,
        Command::Add(args) => pull::add(&server, args, json).await,
        Command::List(args) => models::list(&server, args, json).await,
        Command::Show(args) => models::show(&server, &args.model, json).await,
        Command::Preview(args) => preview::run(&server, args, token, json).await,
        Command::Search(args) => search::run(&server, args, token, json).await,
        Command::Load(args) => lifecycle::load(&server, args, json).await,
        Command::Unload(args) => lifecycle::unload(&server, args, json).await,
        Command::Run(args) => chat::run(&server, args, json).await,
        Command::Ps => lifecycle::ps(&server, json).await,
        Command::Rm(args) => models::rm(&server, args, json).await,
        Command::Cancel(args) => pull::cancel(&server, &args.model, json).await,
        Command::Doctor(args) => doctor::doctor(&server, &settings, args.fix, json).await,
        Command::Serve(_) | Command::Config(_) | Command::Bench(_) => unreachable!("handled above"),
    }
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
