//! `millm ps`: loaded models, active downloads and devices.

use anyhow::Result;
use millm_api::{
    download as api,
    load::LoadState,
    system::{Activity, Device, LoadedModel},
};
use millm_kit::format;
use millm_proto::{
    downloader::v1::{Download, ListDownloadsRequest},
    runtime::v1::GetStatusRequest,
};

use crate::{client::Server, output, progress::describe};

/// Prints loaded models, active downloads and devices.
pub async fn run(server: &Server, as_json: bool) -> Result<()> {
    let status =
        server.runtime().get_status(GetStatusRequest {}).await.map_err(|s| server.explain(&s))?.into_inner();
    let downloads = server.downloader().list_downloads(ListDownloadsRequest {}).await;
    let downloads = downloads.map_err(|s| server.explain(&s))?.into_inner().downloads;
    let running: Vec<&Download> = downloads.iter().filter(|d| api::is_running(d.state())).collect();
    if as_json {
        return output::json(&Activity {
            models: status.models.iter().map(LoadedModel::from).collect(),
            devices: status.devices.iter().map(Device::from).collect(),
            downloads: running.iter().copied().map(api::Download::from).collect(),
            process_memory_bytes: status.process_memory_bytes,
        });
    }
    if status.models.is_empty() {
        eprintln!("nothing is loaded: 'millm load NAME' loads a model");
    } else {
        let rows: Vec<_> = status
            .models
            .iter()
            .map(|m| {
                // The KV cache grows into the estimate; the measured peak exceeds it only if the estimate was low.
                let memory = m.measured_memory_bytes.max(m.estimated_memory_bytes);
                vec![
                    m.handle.clone(),
                    LoadState::from(m.state()).as_str().to_owned(),
                    m.device.clone(),
                    format::bytes(memory.max(0) as u64),
                    m.context_length.to_string(),
                    format!("{}/{}", m.running_requests, m.slots),
                    m.waiting_requests.to_string(),
                    m.generated_tokens.to_string(),
                ]
            })
            .collect();
        let header = ["NAME", "STATE", "DEVICE", "MAX MEMORY", "CONTEXT", "RUNNING", "WAITING", "TOKENS"];
        output::table(&header, &[3, 4, 5, 6, 7], &rows)?;
    }
    for download in running {
        let state = api::Stage::from(download.state()).as_str();
        output::line(&format!(
            "{}  {state} {:.0}%  {}",
            download.handle,
            download.fraction * 100.0,
            describe(download)
        ))?;
    }
    for device in &status.devices {
        let (used, total) =
            (format::bytes(device.used_bytes as u64), format::bytes(device.total_bytes as u64));
        eprintln!("{}  {used} of {total} used  {}", device.id, device.name);
    }
    Ok(())
}
