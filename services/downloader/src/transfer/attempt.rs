//! One request for the rest of a file: what came of it, with all that came kept.

use bytes::Bytes;
use futures::StreamExt as _;
use http::{StatusCode, header};
use millm_kit::ServiceError;
use reqwest::Response;
use tokio::{
    sync::mpsc,
    time::{Instant, timeout_at},
};

use super::{Transfer, ledger::Partial};
use crate::hub::HubFault;

/// Frames on their way to the disk; beyond it the network waits.
const FRAMES_IN_FLIGHT: usize = 16;

/// How an attempt ended.
#[derive(Debug)]
pub(super) enum Ended {
    /// As long as it should be; to be verified.
    Complete,
    /// There was more than the file has.
    TooLong,
    Broken(HubFault),
}

/// Asks for what `partial` lacks and appends it. Errors only with the disk's.
pub(super) async fn attempt(
    transfer: &Transfer,
    mut partial: Partial,
) -> Result<(Partial, Ended), ServiceError> {
    if partial.is_complete() {
        return Ok((partial, Ended::Complete));
    }
    let start = partial.len();
    let response = match transfer.hub.open(transfer.at(), (start > 0).then_some(start..u64::MAX)).await {
        Ok(response) => response,
        Err(fault) => return Ok((partial, Ended::Broken(fault))),
    };
    let offset = match begins_at(&response, start, transfer.file.size) {
        Ok(offset) => offset,
        Err(why) => {
            // What we have and what the server says do not belong together.
            let partial = restart(transfer, partial).await?;
            return Ok((partial, Ended::Broken(HubFault::passing(why))));
        }
    };
    if offset != start {
        partial = restart(transfer, partial).await?;
    }
    receive(transfer, partial, response).await
}

/// Where the body begins; an error when that is of no use.
fn begins_at(response: &Response, start: u64, size: u64) -> Result<u64, String> {
    match response.status() {
        StatusCode::OK => Ok(0),
        StatusCode::PARTIAL_CONTENT => {
            let range = response.headers().get(header::CONTENT_RANGE).and_then(|value| value.to_str().ok());
            match range.and_then(content_range) {
                Some((first, total)) if first == start && total.is_none_or(|total| total == size) => {
                    Ok(start)
                }
                _ => Err("the server sent another part than was asked for".to_owned()),
            }
        }
        status => Err(format!("the server answered {status}")),
    }
}

/// First byte and total of `bytes 5-9/10`.
fn content_range(value: &str) -> Option<(u64, Option<u64>)> {
    let (range, total) = value.trim().strip_prefix("bytes ")?.split_once('/')?;
    let (first, _) = range.split_once('-')?;
    let total = if total == "*" { None } else { Some(total.parse().ok()?) };
    Some((first.parse().ok()?, total))
}

async fn restart(transfer: &Transfer, mut partial: Partial) -> Result<Partial, ServiceError> {
    transfer.meter.have(0);
    transfer
        .blocking(move || {
            partial.restart()?;
            Ok(partial)
        })
        .await
}

/// The network on this task, hash and disk on a thread of their own.
async fn receive(
    transfer: &Transfer,
    mut partial: Partial,
    response: Response,
) -> Result<(Partial, Ended), ServiceError> {
    let left = transfer.file.size - partial.len();
    let (frames, mut incoming) = mpsc::channel::<Bytes>(FRAMES_IN_FLIGHT);
    let meter = transfer.meter.clone();
    let writer = transfer.writers.spawn_blocking(move || {
        while let Some(frame) = incoming.blocking_recv() {
            partial.append(&frame)?;
            // Shown once written: what is counted survives a kill, but for a chunk.
            meter.received(frame.len() as u64);
        }
        partial.note()?;
        Ok(partial)
    });
    let ended = stream(transfer, response, left, &frames).await;
    drop(frames);
    let partial = writer.await.map_err(ServiceError::internal)?;
    let partial = partial.map_err(|error| transfer.disk_error(&error))?;
    transfer.meter.have(partial.len());
    Ok((partial, ended))
}

/// Passes at most `left` bytes on. A transfer that brings too little for too long is given up.
async fn stream(
    transfer: &Transfer,
    response: Response,
    mut left: u64,
    frames: &mpsc::Sender<Bytes>,
) -> Ended {
    let policy = transfer.hub.policy();
    let mut body = response.bytes_stream();
    let mut deadline = Instant::now() + policy.stall_timeout;
    let mut since_deadline = 0;
    loop {
        let mut frame: Bytes = match timeout_at(deadline, body.next()).await {
            Err(_) => return Ended::Broken(HubFault::passing("the transfer stalled")),
            Ok(Some(Err(error))) => return Ended::Broken(error.into()),
            Ok(Some(Ok(frame))) => frame,
            Ok(None) if left == 0 => return Ended::Complete,
            Ok(None) => {
                return Ended::Broken(HubFault::passing(format!("the body ended {left} bytes early")));
            }
        };
        if frame.len() as u64 > left {
            frame.truncate(left as usize);
            // An error means that the disk failed: the writer tells.
            let _ = frames.send(frame).await;
            return Ended::TooLong;
        }
        let length = frame.len() as u64;
        left -= length;
        if frames.send(frame).await.is_err() {
            return Ended::Broken(HubFault::passing("the disk failed"));
        }
        since_deadline += length;
        if since_deadline >= policy.bytes_to_live() {
            deadline = Instant::now() + policy.stall_timeout;
            since_deadline = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::content_range;

    #[test]
    fn content_ranges() {
        assert_eq!(content_range("bytes 5-9/10"), Some((5, Some(10))));
        assert_eq!(content_range("bytes 5-9/*"), Some((5, None)));
        for bad in ["bytes */10", "5-9/10", "bytes 5/10", "bytes a-9/10", ""] {
            assert_eq!(content_range(bad), None, "{bad}");
        }
    }
}
