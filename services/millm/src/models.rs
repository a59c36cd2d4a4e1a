//! `list`, `show`, `preview`, `rm`.

use std::{
    collections::HashMap,
    io::{IsTerminal as _, Write as _},
};

use anyhow::{Result, bail};
use millm_kit::{format, names::RepoId, view};
use millm_proto::{
    catalog::v1::{ListModelsRequest, Model, Quantization},
    downloader::v1::{Download, ListDownloadsRequest, ModelPreview, PreviewModelRequest, RemoveModelRequest},
    runtime::v1::{GetStatusRequest, LoadedModel},
};
use serde_json::json;

use crate::{
    args::{List, Preview, Rm},
    client::Server,
    output,
};

/// What the Downloader and the Runtime know, by model id. A part that does not answer costs its facts, not the
/// list.
pub struct Facts {
    pub downloads: HashMap<i64, Download>,
    pub loaded: HashMap<i64, LoadedModel>,
}

impl Facts {
    pub async fn read(server: &Server) -> Self {
        let (mut downloader, mut runtime) = (server.downloader(), server.runtime());
        let (downloads, status) = tokio::join!(
            downloader.list_downloads(ListDownloadsRequest {}),
            runtime.get_status(GetStatusRequest {})
        );
        let downloads = downloads.map(|a| a.into_inner().downloads).unwrap_or_default();
        let loaded = status.map(|a| a.into_inner().models).unwrap_or_default();
        Self {
            downloads: downloads.into_iter().map(|d| (d.model_id, d)).collect(),
            loaded: loaded.into_iter().map(|l| (l.model_id, l)).collect(),
        }
    }

    pub fn view(&self, model: &Model) -> view::ModelView {
        view::model(model, self.downloads.get(&model.id), self.loaded.get(&model.id))
    }
}

pub async fn list(server: &Server, args: List, json: bool) -> Result<()> {
    let mut models = Vec::new();
    let mut page_token = String::new();
    loop {
        let request = ListModelsRequest {
            page_size: 1000,
            page_token,
            query: args.query.clone(),
            ..Default::default()
        };
        let page = server.catalog().list_models(request).await.map_err(|s| server.explain(&s))?.into_inner();
        models.extend(page.models);
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    let facts = Facts::read(server).await;
    let views: Vec<_> = models.iter().map(|m| facts.view(m)).collect();
    if json {
        return output::json(&views);
    }
    if views.is_empty() {
        if args.query.is_empty() {
            eprintln!(
                "no models yet: 'millm pull owner/name' gets one from the hub, 'millm add PATH' a local one"
            );
        } else {
            eprintln!("no model matches '{}'", args.query);
        }
        return Ok(());
    }
    let size = |n: i64| if n > 0 { format::bytes(n as u64) } else { "-".to_owned() };
    let rows: Vec<_> = views
        .iter()
        .map(|v| {
            let status =
                v.download_progress.map_or_else(|| v.status.to_owned(), |p| format!("{} {p:.0}%", v.status));
            vec![
                v.id.to_string(),
                v.name.clone(),
                if v.params.is_empty() { "-".to_owned() } else { v.params.clone() },
                v.quantization.to_owned(),
                size(v.disk_size_bytes),
                size(v.estimated_memory_bytes),
                status,
                v.repo_id.clone().or_else(|| v.local_path.clone()).unwrap_or_default(),
            ]
        })
        .collect();
    output::table(
        &["ID", "NAME", "PARAMS", "QUANT", "DISK", "MEMORY", "STATUS", "SOURCE"],
        &[0, 2, 4, 5],
        &rows,
    )
}

pub async fn show(server: &Server, name: &str, json: bool) -> Result<()> {
    let model = server.model(name).await?;
    let v = Facts::read(server).await.view(&model);
    if json {
        return output::json(&v);
    }
    let mut rows: Vec<(&str, String)> = vec![
        ("name", v.name),
        ("id", v.id.to_string()),
        ("status", v.status.to_owned()),
        ("source", v.repo_id.or(v.local_path).unwrap_or_default()),
    ];
    rows.extend(v.commit.map(|c| ("commit", c)));
    rows.extend(v.file.map(|f| ("file", f)));
    rows.push(("parameters", format!("{} ({})", v.params, v.parameter_count)));
    rows.push(("quantization", v.quantization.to_owned()));
    rows.extend(v.quantization_reason.map(|r| ("reason", r)));
    rows.push(("disk", format::bytes(v.disk_size_bytes as u64)));
    rows.push(("memory", format!("~{}", format::bytes(v.estimated_memory_bytes as u64))));
    if let Some(a) = v.architecture {
        rows.push(("architecture", a.name));
        let shape = format!(
            "{} layers, hidden {}, {} heads ({} kv, {} each), intermediate {}",
            a.layers, a.hidden_size, a.heads, a.kv_heads, a.head_dim, a.intermediate_size
        );
        rows.push(("shape", shape));
        rows.push(("vocabulary", a.vocabulary_size.to_string()));
        rows.push(("context", format!("{} tokens", a.context_length)));
    }
    rows.push(("chat template", if v.has_chat_template { "yes" } else { "no" }.to_owned()));
    rows.extend(v.error_message.map(|e| ("error", e)));
    rows.extend(v.storage_path.map(|p| ("stored at", p)));
    for file in &v.files {
        rows.push((
            "file",
            format!("{}  {}  sha256 {}", file.path, format::bytes(file.size_bytes as u64), file.sha256),
        ));
    }
    for (label, value) in rows.iter().filter(|(_, value)| !value.is_empty()) {
        output::line(&format!("{label:14} {value}"))?;
    }
    Ok(())
}

pub async fn preview(server: &Server, args: Preview, token: String, as_json: bool) -> Result<()> {
    let repo = RepoId::parse(&args.repo)?;
    let request = PreviewModelRequest { repo_id: repo.to_string(), revision: args.revision, hf_token: token };
    let p = server.downloader().preview_model(request).await.map_err(|s| server.explain(&s))?.into_inner();
    if as_json { output::json(&preview_json(&p)) } else { preview_text(&p) }
}

fn preview_json(p: &ModelPreview) -> serde_json::Value {
    let sizes: serde_json::Map<_, _> = p
        .estimates
        .iter()
        .map(|e| {
            let sizes = json!({ "disk_bytes": e.disk_size_bytes, "peak_disk_bytes": e.peak_disk_bytes, "memory_bytes": e.memory_bytes });
            (view::quantization(e.quantization()).to_owned(), sizes)
        })
        .collect();
    json!({
        "repo_id": p.repo_id,
        "commit": p.commit,
        "name": p.handle,
        "architecture": p.architecture.as_ref().map(view::ArchitectureView::from),
        "supported": p.supported,
        "unsupported_reason": p.unsupported_reason,
        "parameter_count": p.parameter_count,
        "is_gated": p.gated,
        "requires_trust_remote_code": p.requires_trust_remote_code,
        "license": p.license,
        "download_size_bytes": p.download_size_bytes,
        "estimated_sizes": sizes,
        "files": p.files.iter().map(|f| json!({ "path": f.path, "size_bytes": f.size_bytes, "selected": f.selected })).collect::<Vec<_>>(),
    })
}

fn preview_text(p: &ModelPreview) -> Result<()> {
    let yes = |b: bool| if b { "yes" } else { "no" };
    let architecture = p.architecture.as_ref().map(|a| a.name.clone()).unwrap_or_default();
    let supported = if p.supported { "yes".to_owned() } else { format!("no: {}", p.unsupported_reason) };
    let parameters =
        if p.parameter_count > 0 { format::parameters(p.parameter_count as u64) } else { String::new() };
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
    ] {
        if !value.is_empty() {
            output::line(&format!("{label:14} {value}"))?;
        }
    }
    let size = |n: i64| if n > 0 { format::bytes(n as u64) } else { "-".to_owned() };
    let rows: Vec<_> = p
        .estimates
        .iter()
        .map(|e| {
            let default = if e.quantization() == Quantization::Q4 { "default" } else { "" };
            vec![
                view::quantization(e.quantization()).to_owned(),
                size(e.disk_size_bytes),
                size(e.memory_bytes),
                default.to_owned(),
            ]
        })
        .collect();
    if rows.is_empty() {
        return Ok(());
    }
    output::line("")?;
    output::table(&["QUANT", "DISK", "MEMORY", ""], &[1, 2], &rows)
}

pub async fn rm(server: &Server, args: Rm, json: bool) -> Result<()> {
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
            output::json(&json!({ "removed": model.handle, "id": model.id }))?;
        } else {
            eprintln!("removed {}", model.handle);
        }
    }
    Ok(())
}
