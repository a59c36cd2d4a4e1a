//! `millm extractions`: lists, shows, follows, stops, resumes, repeats, removes and fetches extractions.

use std::path::Path;

use anyhow::Result;
use millm_api::{
    cli::RemovedExtraction,
    inspection::extraction::{Extraction, is_over},
};
use millm_kit::{ServiceError, format};
use millm_proto::inspection::v1::{
    self as inspection, CancelExtractionRequest, DeleteExtractionRequest, GetExtractionRequest,
    ListExtractionsRequest, ReplayExtractionRequest, ResumeExtractionRequest,
};

use super::templates;
use crate::{
    client::Server,
    confirm, fetch, follow,
    inspection_args::{ExtractionsCommand, RmExtractions},
    output::{self, Unwell},
};

pub async fn run(server: &Server, command: ExtractionsCommand, json: bool) -> Result<()> {
    match command {
        ExtractionsCommand::List(args) => list(server, &args.model, json).await,
        ExtractionsCommand::Show(args) => show(&find(server, &args.extraction).await?, json),
        ExtractionsCommand::Watch(args) => follow_and_fetch(server, &args.extraction, None, json).await,
        ExtractionsCommand::Cancel(args) => cancel(server, args.extraction, json).await,
        ExtractionsCommand::Resume(args) => {
            let request = ResumeExtractionRequest { name: args.extraction };
            let answer = server.inspection().resume_extraction(request).await;
            started(server, answer, args.detach, json).await
        }
        ExtractionsCommand::Rm(args) => remove(server, args, json).await,
        ExtractionsCommand::Replay(args) => {
            let request = ReplayExtractionRequest { name: args.extraction };
            let answer = server.inspection().replay_extraction(request).await;
            started(server, answer, args.detach, json).await
        }
        ExtractionsCommand::Fetch(args) => {
            let extraction = find(server, &args.extraction).await?;
            if !is_over(extraction.state()) {
                return Err(ServiceError::extraction_running(&extraction.id).into());
            }
            follow::end(&extraction)?;
            fetch::files(server, &extraction, &args.out, json).await
        }
    }
}

async fn find(server: &Server, id: &str) -> Result<inspection::Extraction> {
    let request = GetExtractionRequest { name: id.to_owned() };
    Ok(server.inspection().get_extraction(request).await.map_err(|s| server.explain(&s))?.into_inner())
}

async fn list(server: &Server, model: &str, json: bool) -> Result<()> {
    let mut extractions = Vec::new();
    let mut request = ListExtractionsRequest { model: model.to_owned(), ..ListExtractionsRequest::default() };
    loop {
        let page = server.inspection().list_extractions(request.clone()).await;
        let page = page.map_err(|s| server.explain(&s))?.into_inner();
        extractions.extend(page.extractions.iter().map(Extraction::from));
        if page.next_page_token.is_empty() {
            break;
        }
        request.page_token = page.next_page_token;
    }
    if json {
        return output::json(&extractions);
    }
    if extractions.is_empty() {
        eprintln!("no extractions yet: 'millm extract MODEL --dataset DATASET --hooks residual' starts one");
        return Ok(());
    }
    let row = |extraction: &Extraction| {
        let state = extraction.state.as_str();
        let is_moving = extraction.ended_at.is_none() && extraction.progress > 0.0;
        let created = extraction.created_at.as_deref().unwrap_or("-");
        vec![
            extraction.id.clone(),
            if is_moving { format!("{state} {:.0}%", extraction.progress) } else { state.to_owned() },
            extraction.model.clone(),
            extraction.dataset.clone(),
            format!("{}/{}", extraction.samples_done, extraction.samples_total),
            format::bytes(u64::try_from(extraction.disk_bytes).unwrap_or(0)),
            created.split('.').next().unwrap_or(created).to_owned(),
        ]
    };
    let rows: Vec<_> = extractions.iter().map(row).collect();
    output::table(&["ID", "STATE", "MODEL", "DATASET", "SAMPLES", "SIZE", "CREATED"], &[4, 5], &rows)
}

fn show(extraction: &inspection::Extraction, json: bool) -> Result<()> {
    let shown = Extraction::from(extraction);
    if json {
        return output::json(&shown);
    }
    let shard = shown.shard.map(|shard| format!("{} of {}", shard.index, shard.count));
    for (label, value) in [
        ("id", Some(shown.id)),
        ("state", Some(shown.state.as_str().to_owned())),
        ("error", shown.error_message),
        ("model", Some(shown.model)),
        ("dataset", Some(shown.dataset)),
        ("column", shown.column),
        ("shard", shard),
        ("samples", Some(format!("{} of {}", shown.samples_done, shown.samples_total))),
        ("tokens", Some(shown.tokens_done.to_string())),
        ("replay of", shown.replay_of),
        ("replay", shown.replay.map(|replay| replay.message)),
        ("created", shown.created_at),
        ("started", shown.started_at),
        ("ended", shown.ended_at),
    ] {
        if let Some(value) = value {
            output::line(&format!("{label:16} {value}"))?;
        }
    }
    templates::settings(&shown.settings)?;
    for file in &shown.files {
        let size = format::bytes(u64::try_from(file.size_bytes).unwrap_or(0));
        output::line(&format!("{:16} {}  {size}  sha256 {}", "file", file.name, file.sha256))?;
    }
    Ok(())
}

async fn cancel(server: &Server, id: String, json: bool) -> Result<()> {
    let request = CancelExtractionRequest { name: id.clone() };
    let cancelled = server.inspection().cancel_extraction(request).await.map_err(|s| server.explain(&s))?;
    if json {
        return output::json(&Extraction::from(cancelled.get_ref()));
    }
    eprintln!(
        "{id} is cancelled: 'millm extractions resume {id}' goes on, 'millm extractions rm {id}' removes it"
    );
    Ok(())
}

async fn started(
    server: &Server,
    answer: Result<tonic::Response<inspection::Extraction>, tonic::Status>,
    detach: bool,
    json: bool,
) -> Result<()> {
    let started = answer.map_err(|s| server.explain(&s))?.into_inner();
    if detach {
        return left_running(&started, json);
    }
    follow_and_fetch(server, &started.id, None, json).await
}

/// Says how to follow an extraction that nobody waits for.
pub fn left_running(extraction: &inspection::Extraction, json: bool) -> Result<()> {
    if json {
        return output::json(&Extraction::from(extraction));
    }
    let id = &extraction.id;
    output::line(id)?;
    eprintln!("'millm extractions watch {id}' follows it, 'millm extractions cancel {id}' stops it");
    Ok(())
}

/// Follows an extraction to its end, says what came of it, and fetches its files into a folder, if there is one.
pub async fn follow_and_fetch(server: &Server, id: &str, folder: Option<&Path>, json: bool) -> Result<()> {
    let ended = follow::extraction(server, id, json).await?;
    let shown = Extraction::from(&ended);
    if json {
        output::json(&shown)?;
    }
    follow::end(&ended)?;
    if let Some(replay) = &shown.replay {
        if !replay.identical {
            return Err(Unwell(replay.message.clone()).into());
        }
        if !json {
            output::line("identical")?;
        }
        return Ok(());
    }
    if !json {
        output::line(&summary(&shown))?;
    }
    if let Some(folder) = folder {
        return fetch::files(server, &ended, folder, json).await;
    }
    if !json {
        eprintln!("'millm extractions fetch {id} --out FOLDER' fetches the files");
    }
    Ok(())
}

/// Returns one line about an extraction that has succeeded: `7f3a  12 samples, 5 files, 1.2 MB`.
fn summary(extraction: &Extraction) -> String {
    let size = format::bytes(u64::try_from(extraction.disk_bytes).unwrap_or(0));
    format!(
        "{}  {} samples, {} files, {size}",
        extraction.id,
        extraction.samples_done,
        extraction.files.len()
    )
}

async fn remove(server: &Server, args: RmExtractions, json: bool) -> Result<()> {
    for id in &args.extractions {
        let extraction = find(server, id).await?;
        let size = format::bytes(u64::try_from(extraction.disk_bytes).unwrap_or(0));
        if !args.yes && !confirm::removal(id, &format!("extraction {id} ({size})"), json)? {
            continue;
        }
        let request = DeleteExtractionRequest { name: id.clone() };
        server.inspection().delete_extraction(request).await.map_err(|s| server.explain(&s))?;
        if json {
            output::json(&RemovedExtraction { removed: id.clone() })?;
        } else {
            eprintln!("removed {id}");
        }
    }
    Ok(())
}
