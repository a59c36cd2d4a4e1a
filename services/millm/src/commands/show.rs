//! `millm show`: all facts about one model.

use anyhow::Result;
use millm_kit::format;

use crate::{client::Server, live_state::LiveState, output};

/// Prints all facts about a model.
pub async fn run(server: &Server, name: &str, json: bool) -> Result<()> {
    let model = server.model(name).await?;
    let v = LiveState::read(server).await.model(&model);
    if json {
        return output::json(&v);
    }
    let mut rows: Vec<(&str, String)> = vec![
        ("name", v.name),
        ("id", v.id.to_string()),
        ("status", v.status.to_string()),
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
