//! `millm rm`: removes models after a confirmation.

use anyhow::Result;
use millm_api::cli::Removed;
use millm_kit::format;
use millm_proto::downloader::v1::RemoveModelRequest;

use crate::{args::Rm, client::Server, confirm, output};

/// Removes models and their files, after a confirmation.
pub async fn run(server: &Server, args: Rm, json: bool) -> Result<()> {
    for name in &args.models {
        let model = server.model(name).await?;
        let size = format::bytes(model.disk_size_bytes as u64);
        let what = format!("'{}' ({size})", model.handle);
        if !args.yes && !confirm::removal(&model.handle, &what, json)? {
            continue;
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
