//! `millm add`: registers a local folder or GGUF file.

use anyhow::{Context as _, Result};
use millm_proto::downloader::v1::{StartDownloadRequest, start_download_request};

use super::pull;
use crate::{args::Add, client::Server, output::Misuse, repo_arg::quantization};

/// Registers a local model and follows the work to its end.
pub async fn run(server: &Server, args: Add, json: bool) -> Result<()> {
    // The server may run in another folder, so it gets an absolute path. It checks the rest.
    let path = std::path::absolute(&args.path).with_context(|| format!("{}", args.path.display()))?;
    let path = path.to_str().with_context(|| Misuse(format!("{} is not valid UTF-8", path.display())))?;
    let request = StartDownloadRequest {
        source: Some(start_download_request::Source::LocalPath(path.to_owned())),
        quantization: quantization(&args.quantization)?.into(),
        handle: args.name,
        trust_remote_code: false,
        keep_source: false,
    };
    pull::start(server, request, false, json).await
}
