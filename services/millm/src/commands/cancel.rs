//! `millm cancel`: stops a download and removes its files.

use anyhow::Result;
use millm_api::cli::Cancelled;
use millm_proto::downloader::v1::CancelDownloadRequest;

use crate::{client::Server, output};

/// Cancels the download of a model.
pub async fn run(server: &Server, name: &str, json: bool) -> Result<()> {
    let request = CancelDownloadRequest { name: name.to_owned() };
    server.downloader().cancel_download(request).await.map_err(|s| server.explain(&s))?;
    if json {
        return output::json(&Cancelled { cancelled: name.to_owned() });
    }
    eprintln!("{name} is cancelled; nothing is left of it");
    Ok(())
}
