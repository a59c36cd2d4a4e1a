//! `millm rm`: removes models after a confirmation.

use std::io::{IsTerminal as _, Write as _};

use anyhow::{Result, bail};
use millm_api::cli::Removed;
use millm_kit::format;
use millm_proto::downloader::v1::RemoveModelRequest;

use crate::{args::Rm, client::Server, output};

/// Removes models and their files, after a confirmation.
pub async fn run(server: &Server, args: Rm, json: bool) -> Result<()> {
    for name in &args.models {
        let model = server.model(name).await?;
        if !args.yes {
            if json || !std::io::stdin().is_terminal() {
                bail!(output::Misuse(format!(
                    "removing '{}' needs --yes when nobody can be asked",
                    model.handle
                )));
            }
            eprint!("Remove '{}' ({})? [y/N] ", model.handle, format::bytes(model.disk_size_bytes as u64));
            std::io::stderr().flush()?;
            let mut answer = String::new();
            std::io::stdin().read_line(&mut answer)?;
            if !matches!(answer.trim(), "y" | "Y" | "yes") {
                eprintln!("kept");
                continue;
            }
        }
        let request = RemoveModelRequest { name: model.name.clone() };
        server.downloader().remove_model(request).await.map_err(|s| server.explain(&s))?;
        if json {
            output::json(&Removed { removed: model.handle, id: model.id })?;
        } else {
            eprintln!("removed {}", model.handle);
        }
    }
    Ok(())
}
