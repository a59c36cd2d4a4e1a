//! `millm doctor`: checks settings, services and the models folder, and repairs them with `--fix`.

use std::time::{Duration, Instant, SystemTime};

use anyhow::Result;
use millm_api::cli::{Checkup, ServiceCheck, Setting, StorageCheck};
use millm_kit::{ServiceError, Settings, format};
use millm_proto::{
    catalog::v1::ListModelsRequest,
    downloader::v1::{
        CheckStorageRequest, GetHubStatusRequest, ListDownloadsRequest, StorageFinding, StorageReport,
        hub_status, storage_finding::Kind,
    },
    runtime::v1::GetStatusRequest,
};

use crate::{
    client::Server,
    output::{self, Unwell},
};

/// Settings that are wrong most often.
const SETTINGS: &[&str] = &[
    "model_cache_dir",
    "hf_hub_cache",
    "database_url",
    "hf_endpoint",
    "hf_token",
    "max_concurrent_downloads",
];
const PATIENCE: Duration = Duration::from_secs(15);

/// One line of the report.
struct Line {
    what: &'static str,
    text: String,
    /// True if this line is a problem.
    problem: bool,
}

impl Line {
    fn well(what: &'static str, text: impl Into<String>) -> Self {
        Self { what, text: text.into(), problem: false }
    }

    fn wrong(what: &'static str, text: impl Into<String>) -> Self {
        Self { what, text: text.into(), problem: true }
    }
}

/// Prints the results of all checks. With `fix`, repairs the models folder first.
pub async fn run(server: &Server, settings: &Settings, fix: bool, as_json: bool) -> Result<()> {
    let services = services(server).await;
    let storage = storage(server, fix).await;
    let wrong = services.iter().filter(|line| line.problem).count() + wrong_in(&storage);
    if as_json {
        output::json(&checkup(settings, server, &services, &storage, wrong))?;
    } else {
        print(settings, server, &services, &storage)?;
    }
    if wrong == 0 {
        return Ok(());
    }
    let problems = if wrong == 1 { "1 problem".to_owned() } else { format!("{wrong} problems") };
    let curable = storage
        .as_ref()
        .is_ok_and(|report| report.findings.iter().any(|f| f.problem && !f.remedy.is_empty()));
    let hint = if curable && !fix { ": 'millm doctor --fix' repairs what can be repaired" } else { "" };
    Err(Unwell(format!("{problems}{hint}")).into())
}

/// Asks each service. The Catalog's list shows that the database answers too.
async fn services(server: &Server) -> Vec<Line> {
    let (mut catalog, mut downloader, mut runtime) =
        (server.catalog(), server.downloader(), server.runtime());
    let models = async {
        let request = ListModelsRequest { page_size: 1, ..ListModelsRequest::default() };
        let listed = catalog.list_models(request).await?.into_inner();
        Ok(format!("{} models", listed.total_size))
    };
    let downloads = async {
        let listed = downloader.list_downloads(ListDownloadsRequest {}).await?.into_inner();
        let open = listed.downloads.iter().filter(|download| download.end_time.is_none()).count();
        Ok(format!("{open} downloads under way or waiting"))
    };
    let loaded = async {
        let status = runtime.get_status(GetStatusRequest {}).await?.into_inner();
        Ok(format!("{} models in memory", status.models.len()))
    };
    let (models, downloads, loaded) = tokio::join!(
        asked(server, "catalog", models),
        asked(server, "downloader", downloads),
        asked(server, "runtime", loaded)
    );
    vec![models, downloads, loaded, hub(server).await]
}

/// The hub as the Downloader saw it last; no request is sent to it.
async fn hub(server: &Server) -> Line {
    let mut downloader = server.downloader();
    let status = downloader.get_hub_status(GetHubStatusRequest {}).await;
    let status = match status.map_err(|status| server.explain(&status)) {
        Ok(answer) => answer.into_inner(),
        Err(error) => return Line::wrong("hub", message(&error)),
    };
    let failures = match status.consecutive_failures {
        0 => "has not failed lately".to_owned(),
        n => format!("has failed {n} times in a row, last with: {}", status.last_error),
    };
    let text = format!("{} {failures}", status.host);
    if status.state() == hub_status::State::Closed {
        return Line::well("hub", text);
    }
    let next = status.next_try_time.and_then(|time| SystemTime::try_from(time).ok());
    let next = next.and_then(|time| time.duration_since(SystemTime::now()).ok()).unwrap_or_default();
    Line::wrong("hub", format!("{text}; it is left alone for {}", format::seconds(next.as_secs())))
}

async fn asked(
    server: &Server,
    what: &'static str,
    call: impl Future<Output = Result<String, tonic::Status>>,
) -> Line {
    let start = Instant::now();
    match tokio::time::timeout(PATIENCE, call).await {
        Ok(Ok(said)) => Line::well(what, format!("answers in {} ms: {said}", start.elapsed().as_millis())),
        Ok(Err(status)) => Line::wrong(what, message(&server.explain(&status))),
        Err(_) => Line::wrong(what, format!("gives no answer within {} s", PATIENCE.as_secs())),
    }
}

fn message(error: &anyhow::Error) -> String {
    let service = error.chain().find_map(|cause| cause.downcast_ref::<ServiceError>());
    service.map_or_else(|| format!("{error:#}"), |error| error.message.clone())
}

async fn storage(server: &Server, fix: bool) -> Result<StorageReport, String> {
    let answer = server.downloader().check_storage(CheckStorageRequest { fix }).await;
    answer.map(tonic::Response::into_inner).map_err(|status| message(&server.explain(&status)))
}

fn wrong_in(storage: &Result<StorageReport, String>) -> usize {
    storage.as_ref().map_or(1, |report| {
        let findings = report.findings.iter().filter(|finding| finding.problem && !finding.fixed);
        findings.count() + usize::from(!report.write_error.is_empty())
    })
}

fn print(
    settings: &Settings,
    server: &Server,
    services: &[Line],
    storage: &Result<StorageReport, String>,
) -> Result<()> {
    // These settings are the command's own; a server elsewhere may have others.
    line(&Line::well("server", server.url.clone()))?;
    for row in settings.rows().iter().filter(|row| SETTINGS.contains(&row.key)) {
        let value = if row.value.is_empty() { "not set" } else { &row.value };
        line(&Line::well("setting", format!("{} = {value} ({})", row.key, row.layer.name())))?;
    }
    if let Ok(report) = storage {
        line(&folder(report))?;
    }
    for service in services {
        line(service)?;
        if service.what == "catalog" && !service.problem {
            line(&Line::well("database", "answers"))?;
        }
    }
    match storage {
        Ok(report) => disk(report),
        Err(why) => line(&Line::wrong("models", format!("cannot be looked through: {why}"))),
    }
}

fn folder(report: &StorageReport) -> Line {
    let kind =
        if report.file_system.is_empty() { String::new() } else { format!("{}, ", report.file_system) };
    let free = format::bytes(report.free_bytes.max(0) as u64);
    if report.write_error.is_empty() {
        Line::well("models folder", format!("{}: can be written, {kind}{free} free", report.path))
    } else {
        Line::wrong("models folder", format!("{}: cannot be written: {}", report.path, report.write_error))
    }
}

fn disk(report: &StorageReport) -> Result<()> {
    let bytes = |n: i64| format::bytes(n.max(0) as u64);
    let (models, partial) = (bytes(report.models_bytes), bytes(report.partial_bytes));
    line(&Line::well("models", format!("{models} finished, {partial} partial")))?;
    if !report.hub_cache.is_empty() {
        line(&Line::well("reused from", report.hub_cache.clone()))?;
    }
    for finding in &report.findings {
        line(&told(finding))?;
    }
    if report.reclaimable_bytes > 0 {
        let verb = if report.findings.iter().any(|finding| finding.fixed) {
            "given back"
        } else {
            "to be given back"
        };
        line(&Line::well("models", format!("{} {verb}", bytes(report.reclaimable_bytes))))?;
    }
    Ok(())
}

fn told(finding: &StorageFinding) -> Line {
    let mut text = if finding.handle.is_empty() { String::new() } else { format!("'{}' ", finding.handle) };
    text += what_is_wrong(finding.kind());
    text += &format!(": {}", finding.path);
    if finding.bytes > 0 {
        text += &format!(" ({}, {} old)", format::bytes(finding.bytes as u64), age(finding));
    }
    if finding.fixed {
        text += "; done: ";
    } else if !finding.remedy.is_empty() {
        text += "; to do: ";
    }
    text += &finding.remedy;
    if !finding.error.is_empty() {
        text += &format!("; failed: {}", finding.error);
    }
    Line { what: "models", text, problem: finding.problem && !finding.fixed }
}

const fn what_is_wrong(kind: Kind) -> &'static str {
    match kind {
        Kind::Unspecified => "is odd",
        Kind::FilesMissing => "has lost files",
        Kind::FilesElsewhere => "has its files in another place",
        Kind::HalfRemoved => "was being removed",
        Kind::FolderWithoutRow => "a model that the catalog does not know",
        Kind::FolderOfAnother => "another catalog's model",
        Kind::FolderUnknown => "not made by miLLM",
        Kind::PartialWithoutRow => "partial files that nobody wants",
        Kind::PartialOld => "failed more than seven days ago and left partial files",
        Kind::PartialKept => "failed; its partial files are kept for a retry",
        Kind::PartialOfAnother => "another catalog's partial files",
        Kind::BrokenLink => "a link that leads nowhere",
    }
}

fn age(finding: &StorageFinding) -> String {
    let changed = finding.change_time.and_then(|time| SystemTime::try_from(time).ok());
    let age = changed.and_then(|time| time.elapsed().ok()).unwrap_or_default().as_secs();
    if age < 48 * 3600 { format::seconds(age) } else { format!("{} days", age / 86_400) }
}

fn line(line: &Line) -> Result<()> {
    output::line(&format!("{:4} {:14} {}", if line.problem { "BAD" } else { "ok" }, line.what, line.text))
}

fn checkup(
    settings: &Settings,
    server: &Server,
    services: &[Line],
    storage: &Result<StorageReport, String>,
    problems: usize,
) -> Checkup {
    let settings = settings
        .rows()
        .into_iter()
        .filter(|row| SETTINGS.contains(&row.key))
        .map(|row| (row.key, Setting { value: row.value, from: row.layer.name(), env: None }))
        .collect();
    let service = |line: &Line| (line.what, ServiceCheck { ok: !line.problem, says: line.text.clone() });
    Checkup {
        ok: problems == 0,
        problems,
        server: server.url.clone(),
        settings,
        services: services.iter().map(service).collect(),
        storage: match storage {
            Ok(report) => StorageCheck::Report(report.into()),
            Err(why) => StorageCheck::Failed { error: why.clone() },
        },
    }
}
