//! A range of blocks from the network to the writers, in as many requests as the retry policy allows. Bytes that came
//! before a connection was cut are kept, in memory where they are no whole block yet.

use std::{
    ops::Range,
    sync::{Arc, mpsc::Sender},
    time::Duration,
};

use bytes::Bytes;
use futures::{Stream, StreamExt as _};
use http::{StatusCode, header};
use millm_kit::ServiceError;
use reqwest::Response;
use tokio::{
    sync::watch,
    time::{Instant, timeout_at},
};

use super::{
    block_queue::BlockQueue,
    buffer_pool::Buffer,
    shared_limits::SharedLimits,
    slow_connection::SpeedWindow,
    source::Source,
    writer::{ReceivedBlock, VerifierEvent},
};
use crate::{
    hub::error::HubError,
    limits::{BLOCK_BYTES, MAX_SLOW_RECONNECTS, PROGRESS_BYTES},
    progress::FileMeter,
    retry::RetryError as _,
};

/// Fetches ranges of one file. Each connection has a clone.
#[derive(Debug, Clone)]
pub(crate) struct RangeFetcher {
    pub(crate) source: Arc<Source>,
    /// The file's length in bytes.
    pub(crate) size: u64,
    pub(crate) queue: Arc<BlockQueue>,
    pub(crate) shared: Arc<SharedLimits>,
    pub(crate) received: Sender<ReceivedBlock>,
    pub(crate) events: Sender<VerifierEvent>,
    pub(crate) meter: Arc<FileMeter>,
    /// True once the server has sent something. Before that one connection is enough.
    pub(crate) answered: watch::Sender<bool>,
}

/// The reason why a connection gave up.
#[derive(Debug)]
pub(crate) enum FetchError {
    /// The server ignores ranges: this is the whole file, from its start.
    WholeFile(Response),
    /// The server says that there is no such range.
    Unsatisfiable,
    /// The server sent more than was asked for.
    TooLong,
    /// The writers have ended: their own error says why.
    NoWriter,
    Failed(ServiceError),
}

/// The reason why one request did not return its whole range.
enum RequestError {
    Hub(HubError),
    /// This side closed the connection: the others are much faster.
    Slow,
    /// This server has no such range. Another server may have it, so nothing is discarded yet.
    Unsatisfiable,
    Fetch(FetchError),
}

impl From<HubError> for RequestError {
    fn from(error: HubError) -> Self {
        Self::Hub(error)
    }
}

/// A range of blocks that is fetched in order, and its progress.
#[derive(Debug)]
struct BlockRun {
    next: u64,
    end: u64,
    /// The next block, not full yet.
    open: Option<Buffer>,
    slow_reconnects: u32,
}

impl BlockRun {
    /// Returns the offset of the next byte in the file.
    fn position(&self) -> u64 {
        self.next * BLOCK_BYTES + self.open.as_ref().map_or(0, |buffer| buffer.len() as u64)
    }
}

impl RangeFetcher {
    /// Runs one connection: range after range, until an error.
    pub(crate) async fn run(self) -> FetchError {
        loop {
            let blocks = self.queue.next().await;
            if let Err(error) = self.fetch(blocks, None).await {
                return error;
            }
        }
    }

    /// Does the same as [`Self::run`], but begins once another connection got an answer.
    pub(crate) async fn run_after_answer(self) -> FetchError {
        let mut answered = self.answered.subscribe();
        // `self` holds the sender, so there is no error.
        let _ = answered.wait_for(|answered| *answered).await;
        self.run().await
    }

    /// Fetches the whole file in one stream, which begins with `first` where there is one.
    pub(crate) async fn run_stream(self, first: Option<Response>) -> FetchError {
        let blocks = self.queue.next().await;
        match self.fetch(blocks, first).await {
            Err(error) => error,
            Ok(()) => self.run().await,
        }
    }

    /// Fetches a range of blocks, with retries. Blocks that came before an error are kept.
    async fn fetch(&self, blocks: Range<u64>, mut first: Option<Response>) -> Result<(), FetchError> {
        let mut run = BlockRun { next: blocks.start, end: blocks.end, open: None, slow_reconnects: 0 };
        let mut pauses = self.source.hub.limits().retry.pauses();
        loop {
            // Release buffers before sleeping: other ranges may be blocked on them.
            if self.shared.pool.is_low()
                && let Some(buffer) = run.open.take()
            {
                self.meter.lost(buffer.len() as u64);
            }
            let before = run.position();
            let mut when_exhausted: fn(ServiceError) -> FetchError = FetchError::Failed;
            let error = match self.request(&mut run, first.take()).await {
                Ok(()) => return Ok(()),
                Err(RequestError::Unsatisfiable) => {
                    self.source.forget_link().await;
                    when_exhausted = |_| FetchError::Unsatisfiable;
                    HubError::transient("the server has no such range")
                }
                Err(RequestError::Fetch(error)) => return Err(error),
                Err(RequestError::Slow) => {
                    run.slow_reconnects += 1;
                    self.meter.retried();
                    continue;
                }
                Err(RequestError::Hub(HubError::Permanent(error))) => return Err(FetchError::Failed(error)),
                Err(RequestError::Hub(error)) => error,
            };
            self.meter.retried();
            let requested = error.requested_pause();
            let made_progress = run.position() - before >= PROGRESS_BYTES;
            let pause = if made_progress {
                pauses.after_progress(requested)
            } else {
                pauses.after_failure(requested)
            };
            let Some(pause) = pause else {
                return Err(when_exhausted(error.into_service_error(self.source.hub.host())));
            };
            tracing::debug!(file = %self.source.path, why = error.why(), ?pause, "a transfer broke: trying again");
            if requested.is_some() {
                self.shared.pause_all(pause);
            }
            tokio::time::sleep(pause).await;
        }
    }

    /// Sends one request for the rest of the run. `given` is an answer that has come already.
    async fn request(&self, run: &mut BlockRun, given: Option<Response>) -> Result<(), RequestError> {
        let _connection = self.shared.acquire_connection().await;
        let (start, end) = (run.position(), self.size.min(run.end * BLOCK_BYTES));
        let is_all = (start, end) == (0, self.size);
        let response = match given {
            Some(response) => response,
            None => self.source.open((!is_all).then_some(start..end)).await?,
        };
        match response.status() {
            StatusCode::OK if is_all => {}
            StatusCode::OK => return Err(RequestError::Fetch(FetchError::WholeFile(response))),
            StatusCode::RANGE_NOT_SATISFIABLE => return Err(RequestError::Unsatisfiable),
            _ if is_part(&response, start, self.size) => {}
            _ => return Err(HubError::transient("the server sent another part than was asked for").into()),
        }
        self.answered.send_if_modified(|answered| !std::mem::replace(answered, true));
        self.receive(run, end - start, response.bytes_stream()).await
    }

    /// Receives `left` bytes of a body. It fails when too few bytes come for too long.
    async fn receive(
        &self,
        run: &mut BlockRun,
        mut left: u64,
        mut body: impl Stream<Item = reqwest::Result<Bytes>> + Unpin,
    ) -> Result<(), RequestError> {
        let limits = self.source.hub.limits();
        let mut deadline = Instant::now() + limits.stall_timeout;
        let mut since_deadline = 0;
        let mut window = SpeedWindow::start(limits.speed_window);
        loop {
            let frame: Bytes = match timeout_at(deadline, body.next()).await {
                // All bytes have come, so the end of the connection does not matter.
                Ok(None | Some(Err(_))) | Err(_) if left == 0 => {
                    // The other connections are compared with this speed.
                    window.so_far().map(|speed| self.shared.speeds.is_slow(speed));
                    return Ok(());
                }
                Err(_) => return Err(HubError::transient("the transfer stalled").into()),
                Ok(Some(Err(error))) => return Err(HubError::from(error).into()),
                Ok(Some(Ok(frame))) => frame,
                Ok(None) => {
                    return Err(HubError::transient(format!("the body ended {left} bytes early")).into());
                }
            };
            if frame.len() as u64 > left {
                return Err(RequestError::Fetch(FetchError::TooLong));
            }
            left -= frame.len() as u64;
            let waited = self.store(run, &frame).await.map_err(RequestError::Fetch)?;
            self.meter.received(frame.len() as u64);
            // The time that our own disk took is not the server's.
            deadline += waited;
            since_deadline += frame.len() as u64;
            if let Some(speed) = window.add(frame.len() as u64)
                && self.shared.speeds.is_slow(speed)
                && run.slow_reconnects < MAX_SLOW_RECONNECTS
                && left > 0
            {
                return Err(RequestError::Slow);
            }
            if since_deadline >= limits.bytes_before_stall() {
                deadline = Instant::now() + limits.stall_timeout;
                since_deadline = 0;
            }
        }
    }

    /// Copies bytes into buffers, and sends full ones to the writers and the verifier. Returns how long it waited for
    /// buffers.
    async fn store(&self, run: &mut BlockRun, mut bytes: &[u8]) -> Result<Duration, FetchError> {
        let mut waited = Duration::ZERO;
        while !bytes.is_empty() {
            let mut buffer = if let Some(buffer) = run.open.take() {
                buffer
            } else {
                let since = Instant::now();
                let buffer = self.shared.pool.acquire().await;
                let buffer = buffer.map_err(|error| FetchError::Failed(ServiceError::internal(error)))?;
                waited += since.elapsed();
                buffer
            };
            let length = BLOCK_BYTES.min(self.size - run.next * BLOCK_BYTES) as usize;
            let taken = buffer.fill(bytes, length);
            bytes = &bytes[taken..];
            if buffer.len() < length {
                run.open = Some(buffer);
                continue;
            }
            let block = ReceivedBlock { index: run.next, buffer: Arc::new(buffer) };
            // A verifier that has ended has ended the transfer, too.
            let _ = self.events.send(VerifierEvent::Received(block.clone()));
            self.received.send(block).map_err(|_| FetchError::NoWriter)?;
            run.next += 1;
        }
        Ok(waited)
    }
}

/// Returns whether the answer is a part of a file of this size, beginning at `start`.
fn is_part(response: &Response, start: u64, size: u64) -> bool {
    let range = response.headers().get(header::CONTENT_RANGE).and_then(|value| value.to_str().ok());
    response.status() == StatusCode::PARTIAL_CONTENT
        && range
            .and_then(content_range)
            .is_some_and(|(first, total)| first == start && total.is_none_or(|total| total == size))
}

/// Returns the first byte and the total of a `Content-Range`: `bytes 5-9/10` (RFC 9110 §14.4).
fn content_range(value: &str) -> Option<(u64, Option<u64>)> {
    let (range, total) = value.trim().strip_prefix("bytes ")?.split_once('/')?;
    let (first, _) = range.split_once('-')?;
    let total = if total == "*" { None } else { Some(total.parse().ok()?) };
    Some((first.parse().ok()?, total))
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
