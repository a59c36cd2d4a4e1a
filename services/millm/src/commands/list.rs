//! `millm list`: the table of models.

use anyhow::Result;
use millm_kit::format;
use millm_proto::catalog::v1::ListModelsRequest;

use crate::{args::List, client::Server, live_state::LiveState, output, progress::starts_in};

/// Prints the models that match the query.
pub async fn run(server: &Server, args: List, json: bool) -> Result<()> {
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
    let live = LiveState::read(server).await;
    let views: Vec<_> = models.iter().map(|m| live.model(m)).collect();
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
                    let download = live.downloads.get(&v.id);
                    let start = download.and_then(starts_in).map(format::seconds);
                    let start = start.map(|start| format!(", in about {start}")).unwrap_or_default();
                    format!("{} {place}{start}", v.status)
                }
                (None, Some(progress)) => format!("{} {progress:.0}%", v.status),
                (None, None) => v.status.to_string(),
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
