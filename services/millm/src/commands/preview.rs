//! `millm preview` and `millm pull --dry-run`: the contents and needs of a repository, read from the headers of its
//! weights.

use anyhow::Result;
use millm_kit::{ServiceError, format, quantization};
use millm_proto::{
    catalog::v1::Quantization,
    downloader::v1::{ModelPreview, PreviewModelRequest, QuantizationEstimate},
};

use crate::{args::Preview, client::Server, output, repo_arg::RepoArg};

/// Prints the preview of a repository.
pub async fn run(server: &Server, args: Preview, token: String, as_json: bool) -> Result<()> {
    let RepoArg { repo, variant, quantization } = RepoArg::parse(&args.repo, None)?;
    let request = PreviewModelRequest {
        repo_id: repo.to_string(),
        revision: args.revision,
        file: args.file,
        variant,
        subfolder: args.subfolder,
        hf_token: token,
        quantization: quantization.into(),
        trust_remote_code: false,
    };
    let preview = ask(server, request).await?;
    show(&preview, quantization, as_json)
}

/// Prints what the download would take, and returns the error that the download would end with.
pub async fn dry_run(server: &Server, request: PreviewModelRequest, as_json: bool) -> Result<()> {
    let asked = request.quantization();
    let preview = ask(server, request).await?;
    show(&preview, asked, as_json)?;
    let mut obstacles = preview.obstacles.iter().map(ServiceError::from_rpc);
    let Some(first) = obstacles.next() else { return Ok(()) };
    for other in obstacles {
        eprintln!("also: {}", other.message);
    }
    Err(first.into())
}

async fn ask(server: &Server, request: PreviewModelRequest) -> Result<ModelPreview> {
    Ok(server.downloader().preview_model(request).await.map_err(|s| server.explain(&s))?.into_inner())
}

fn show(preview: &ModelPreview, asked: Quantization, as_json: bool) -> Result<()> {
    let asked = if asked == Quantization::Unspecified { Quantization::Q4 } else { asked };
    if as_json {
        output::json(&millm_api::preview::ModelPreview::from(preview))
    } else {
        as_text(preview, asked)
    }
}

fn as_text(p: &ModelPreview, asked: Quantization) -> Result<()> {
    let yes = |b: bool| if b { "yes" } else { "no" };
    let architecture = p.architecture.as_ref().map(|a| a.name.clone()).unwrap_or_default();
    let supported = if p.supported { "yes".to_owned() } else { format!("no: {}", p.unsupported_reason) };
    let parameters = match p.parameter_count {
        ..=0 => String::new(),
        n => format!("{} ({n})", format::parameters(n as u64)),
    };
    let context = p.architecture.as_ref().map(|a| format!("{} tokens", a.context_length)).unwrap_or_default();
    for (label, value) in [
        ("repository", p.repo_id.as_str()),
        ("commit", &p.commit),
        ("name", &p.handle),
        ("architecture", &architecture),
        ("runs here", &supported),
        ("parameters", &parameters),
        ("context", &context),
        ("gated", yes(p.gated)),
        ("custom code", yes(p.requires_trust_remote_code)),
        ("license", &p.license),
        ("download", &format::bytes(p.download_size_bytes as u64)),
        ("free on disk", &format::bytes(p.available_disk_bytes as u64)),
    ] {
        if !value.is_empty() {
            output::line(&format!("{label:14} {value}"))?;
        }
    }
    let rows: Vec<_> = p.estimates.iter().map(|e| row(e, asked, p.available_disk_bytes)).collect();
    if rows.is_empty() {
        return Ok(());
    }
    output::line("")?;
    output::table(&["QUANT", "DISK", "WHILE IT ARRIVES", "MEMORY", ""], &[1, 2, 3], &rows)
}

fn row(e: &QuantizationEstimate, asked: Quantization, available: i64) -> Vec<String> {
    let size = |n: i64| if n > 0 { format::bytes(n as u64) } else { "-".to_owned() };
    let mut notes = Vec::new();
    if e.quantization() == asked {
        notes.push("<".to_owned());
    }
    if e.model_id > 0 {
        notes.push(format!("is here: model {}", e.model_id));
    } else if e.peak_disk_bytes > available {
        notes.push("too large for the disk".to_owned());
    }
    vec![
        quantization::name(e.quantization()).to_owned(),
        size(e.disk_size_bytes),
        size(e.peak_disk_bytes),
        size(e.memory_bytes),
        notes.join(" "),
    ]
}
