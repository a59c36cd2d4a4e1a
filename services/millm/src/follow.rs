//! Follows an extraction to its end. Ctrl-C leaves it running, and asks on a terminal whether it should stop.

use std::{io::IsTerminal as _, time::Duration};

use anyhow::{Error, Result};
use millm_api::inspection::extraction::{failure, is_over};
use millm_kit::ServiceError;
use millm_proto::inspection::v1::{CancelExtractionRequest, Extraction, WatchExtractionRequest};

use crate::{
    client::Server,
    confirm,
    job_progress::ExtractionBar,
    output::{Hint, Unwell},
};

/// Between two attempts to reach a server that restarts.
const RETRY: Duration = Duration::from_millis(500);

/// Attempts without an answer before the command gives up.
const MAX_FAILURES: u32 = 30;

/// Returns the extraction once it is over, whatever came of it.
///
/// # Errors
///
/// The server's, and [`Unwell`] when the person leaves before the end.
pub async fn extraction(server: &Server, id: &str, json: bool) -> Result<Extraction> {
    let ended = tokio::select! {
        ended = watch(server, id, json) => Some(ended),
        _ = tokio::signal::ctrl_c() => None,
    };
    match ended {
        Some(ended) => ended,
        None => Err(leave(server, id, json).await),
    }
}

/// Follows the extraction through restarts of the server.
async fn watch(server: &Server, id: &str, json: bool) -> Result<Extraction> {
    let mut bar = ExtractionBar::new(json);
    let mut failures = 0;
    loop {
        let request = WatchExtractionRequest { name: id.to_owned() };
        let lost = match server.inspection().watch_extraction(request).await {
            Ok(answer) => {
                let mut stream = answer.into_inner();
                loop {
                    match stream.message().await {
                        Ok(Some(extraction)) => {
                            failures = 0;
                            bar.show(&extraction)?;
                            if is_over(extraction.state()) {
                                return Ok(extraction);
                            }
                        }
                        Ok(None) => break tonic::Status::unavailable("the watch ended early"),
                        Err(status) => break status,
                    }
                }
            }
            Err(status) => status,
        };
        // A restarting server is back in seconds; what it says itself is final.
        failures += 1;
        let is_away = matches!(lost.code(), tonic::Code::Unavailable | tonic::Code::Unknown);
        if !is_away || failures > MAX_FAILURES {
            return Err(server.explain(&lost));
        }
        tokio::time::sleep(RETRY).await;
    }
}

/// Asks once whether the extraction should stop too, where somebody can be asked. Anything but yes leaves it running.
async fn leave(server: &Server, id: &str, json: bool) -> Error {
    let can_ask = !json && std::io::stdin().is_terminal() && std::io::stderr().is_terminal();
    if can_ask && wants_to_stop(id).await {
        let request = CancelExtractionRequest { name: id.to_owned() };
        return match server.inspection().cancel_extraction(request).await {
            Ok(_) => resumable(ServiceError::cancelled(), id),
            Err(status) => server.explain(&status),
        };
    }
    let advice =
        format!("'millm extractions watch {id}' follows it, 'millm extractions cancel {id}' stops it");
    Unwell(format!("extraction {id} goes on: {advice}")).into()
}

async fn wants_to_stop(id: &str) -> bool {
    eprint!("\nStop extraction {id}? [y/N] ");
    tokio::select! {
        // Reading blocks, so it has a thread of its own.
        answer = tokio::task::spawn_blocking(confirm::read_yes) => matches!(answer, Ok(Ok(true))),
        _ = tokio::signal::ctrl_c() => {
            eprintln!();
            false
        }
    }
}

/// Returns the error of an extraction that is over without success.
pub fn end(extraction: &Extraction) -> Result<()> {
    match failure(extraction) {
        Some(error) => Err(resumable(error, &extraction.id)),
        None => Ok(()),
    }
}

fn resumable(error: ServiceError, id: &str) -> Error {
    Error::new(error).context(Hint(format!("'millm extractions resume {id}' goes on from what is written")))
}
