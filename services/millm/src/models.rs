//! `list`, `show`, `rm`.

use std::{
    collections::HashMap,
    io::{IsTerminal as _, Write as _},
};

use anyhow::{Result, bail};
use millm_kit::{format, view};
use millm_proto::{
    catalog::v1::{ListModelsRequest, Model},
    downloader::v1::{Download, ListDownloadsRequest, RemoveModelRequest},
    runtime::v1::{GetStatusRequest, LoadedModel},
};
use serde_json::json;

use crate::{
    args::{List, Rm},
    client::Server,
    output, pull,
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
            let status = match (v.queue_position, v.download_progress) {
                (Some(place), _) => {
                    let download = facts.downloads.get(&v.id);
                    let start = download.and_then(pull::starts_in).map(format::seconds);
                    let start = start.map(|start| format!(", in about {start}")).unwrap_or_default();
                    format!("{} {place}{start}", v.status)
                }
                (None, Some(progress)) => format!("{} {progress:.0}%", v.status),
                (None, None) => v.status.to_owned(),
            };
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
