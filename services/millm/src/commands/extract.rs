//! `millm extract`: starts an extraction and follows it, or estimates it.

use anyhow::Result;
use millm_api::inspection::{estimate::ExtractionEstimate, extraction::Shard};
use millm_kit::{ServiceError, format};
use millm_proto::{
    catalog::v1::{ExtractionSettings, Template},
    inspection::v1::{
        self as inspection, EstimateExtractionRequest, ExtractionConfig, StartExtractionRequest,
    },
};

use super::{datasets, extractions, templates};
use crate::{
    client::Server,
    fetch,
    inspection_args::Extract,
    output::{self, Misuse},
};

pub async fn run(server: &Server, args: Extract, json: bool) -> Result<()> {
    let base = match &args.template {
        Some(name) => templates::find(server, name).await?.settings.unwrap_or_default(),
        None => ExtractionSettings::default(),
    };
    let settings = args.settings.choice().over(base);
    if settings.points.is_empty() {
        return Err(Misuse("--hooks or --template must say what to extract".to_owned()).into());
    }
    if let Some(folder) = &args.out {
        fetch::create_folder(folder)?;
    }
    let dataset = datasets::resolve(server, &args.dataset, json).await?;
    let shard = args.shard.unwrap_or(Shard { index: 0, count: 0 });
    let config = ExtractionConfig {
        model: args.model,
        dataset: format!("datasets/{}", dataset.id),
        column: args.column,
        settings: Some(settings.clone()),
        shard_index: shard.index,
        shard_count: shard.count,
    };
    if args.dry_run {
        return estimate(server, config, json).await;
    }
    let request = StartExtractionRequest { config: Some(config) };
    let started = server.inspection().start_extraction(request).await.map_err(|s| server.explain(&s))?;
    let started = started.into_inner();
    if let Some(name) = args.save_template {
        save_template(server, name, settings, &started.id).await?;
    }
    if args.detach {
        return extractions::left_running(&started, json);
    }
    extractions::follow_and_fetch(server, &started.id, args.out.as_deref(), json).await
}

/// Stores the settings that the server has accepted.
async fn save_template(
    server: &Server,
    name: String,
    settings: ExtractionSettings,
    started: &str,
) -> Result<()> {
    let template = Template { handle: name, settings: Some(settings), ..Template::default() };
    let created = templates::create(server, template).await.inspect_err(|_| {
        eprintln!("extraction {started} goes on: 'millm extractions watch {started}' follows it");
    })?;
    eprintln!("stored the settings as template '{}'", created.handle);
    Ok(())
}

/// Prints what the extraction would take, and returns the error that it would end with.
async fn estimate(server: &Server, config: ExtractionConfig, json: bool) -> Result<()> {
    let request = EstimateExtractionRequest { config: Some(config) };
    let answer = server.inspection().estimate_extraction(request).await.map_err(|s| server.explain(&s))?;
    let estimate = answer.into_inner();
    if json {
        output::json(&ExtractionEstimate::from(&estimate))?;
    } else {
        as_text(&estimate)?;
    }
    let mut obstacles = estimate.obstacles.iter().map(ServiceError::from_rpc);
    let Some(first) = obstacles.next() else { return Ok(()) };
    for other in obstacles {
        eprintln!("also: {}", other.message);
    }
    Err(first.into())
}

fn as_text(estimate: &inspection::ExtractionEstimate) -> Result<()> {
    let size = |bytes: i64| format::bytes(u64::try_from(bytes).unwrap_or(0));
    let shown = ExtractionEstimate::from(estimate);
    let time = shown.seconds.and_then(|seconds| u64::try_from(seconds).ok());
    for (label, value) in [
        ("samples", shown.samples.to_string()),
        ("sample length", format!("{} tokens", shown.sequence_length)),
        ("batch size", shown.batch_size.to_string()),
        ("hook points", format!("{} ({})", shown.points.len(), few(&shown.points))),
        ("disk", size(shown.disk_bytes)),
        ("free on disk", size(shown.available_disk_bytes)),
        ("memory", size(shown.memory_bytes)),
        (
            "time",
            time.map_or_else(|| "unknown before the model has read a prompt".to_owned(), format::seconds),
        ),
    ] {
        output::line(&format!("{label:14} {value}"))?;
    }
    Ok(())
}

/// Returns all names, or the first and the last ones when they are many.
fn few(names: &[String]) -> String {
    const MANY: usize = 8;
    match names {
        [first, second, .., last] if names.len() > MANY => format!("{first}, {second}, …, {last}"),
        _ => names.join(", "),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_names_are_folded() {
        let names = |count: usize| (0..count).map(|n| format!("mlp.{n}")).collect::<Vec<_>>();
        assert_eq!(few(&names(2)), "mlp.0, mlp.1");
        assert_eq!(few(&names(20)), "mlp.0, mlp.1, …, mlp.19");
        assert_eq!(few(&[]), "");
    }
}
