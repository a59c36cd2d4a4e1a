//! One file for each command. `serve`, `config`, `bench`, `completions` and `man` run here; the other commands call a
//! server.

mod add;
mod bench;
mod cancel;
mod completions;
mod config;
mod datasets;
mod doctor;
mod extract;
mod extractions;
mod layers;
mod list;
mod load;
mod man;
mod preview;
mod ps;
mod pull;
mod rename;
mod rm;
mod run;
mod search;
mod serve;
mod show;
mod templates;
mod unload;

use anyhow::Result;
use millm_kit::{Secret, Settings};

use crate::{
    args::{Cli, Command},
    client::Server,
};

/// Runs the command.
///
/// # Errors
///
/// The command's failure: a `ServiceError` of the server, or a marker of [`crate::output`].
pub async fn run(cli: Cli, settings: Settings) -> Result<()> {
    let Cli { command, server, json, .. } = cli;
    let server = || Server::new(server.as_deref(), &settings);
    // The caller's token goes with the request, so a server that was started without one can use it.
    let token = || settings.hf_token.as_ref().map(Secret::expose).unwrap_or_default().to_owned();
    match command {
        Command::Serve(args) => serve::run(settings, &args.roles).await,
        Command::Config(args) => config::run(&settings, args.markdown, json),
        Command::Bench(args) => bench::run(args, json).await,
        Command::Completions(args) => completions::run(args.shell),
        Command::Man(args) => man::run(&args.dir),
        Command::Pull(args) => pull::run(&server()?, args, token(), json).await,
        Command::Add(args) => add::run(&server()?, args, json).await,
        Command::List(args) => list::run(&server()?, args, json).await,
        Command::Show(args) if args.layers || args.layer.is_some() => {
            layers::run(&server()?, &args.model, args.layer, json).await
        }
        Command::Show(args) => show::run(&server()?, &args.model, json).await,
        Command::Datasets(args) => datasets::run(&server()?, args.command, token(), json).await,
        Command::Templates(args) => templates::run(&server()?, args.command, json).await,
        Command::Extract(args) => extract::run(&server()?, args, json).await,
        Command::Extractions(args) => extractions::run(&server()?, args.command, json).await,
        Command::Preview(args) => preview::run(&server()?, args, token(), json).await,
        Command::Search(args) => search::run(&server()?, args, token(), json).await,
        Command::Load(args) => load::run(&server()?, args, json).await,
        Command::Unload(args) => unload::run(&server()?, args, json).await,
        Command::Run(args) => run::run(&server()?, args, json).await,
        Command::Ps => ps::run(&server()?, json).await,
        Command::Rename(args) => rename::run(&server()?, args, json).await,
        Command::Rm(args) => rm::run(&server()?, args, json).await,
        Command::Cancel(args) => cancel::run(&server()?, &args.model, json).await,
        Command::Doctor(args) => doctor::run(&server()?, &settings, args.fix, json).await,
    }
}
