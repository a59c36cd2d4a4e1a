//! A run of blocks from the network to the writers, in as many requests as it takes and policy allows. What came
//! before a cut stays, in memory where it is no whole block yet.

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
    Lanes,
    blocks::Block,
    pace::Lap,
    source::Source,
    threads::{Arrived, News},
    work::Work,
};
use crate::{
    hub::HubFault,
    policy::{BLOCK_BYTES, LEFT_BEHIND_TIMES, WORTHWHILE_BYTES},
    progress::FileMeter,
};

/// What every connection of a file works with.
#[derive(Debug, Clone)]
pub struct Feed {
    pub source: Arc<Source>,
    pub size: u64,
    pub work: Arc<Work>,
    pub lanes: Arc<Lanes>,
    pub arrived: Sender<Arrived>,
    pub news: Sender<News>,
    pub meter: Arc<FileMeter>,
    /// True once the server has sent something: before that one connection is enough.
    pub answered: watch::Sender<bool>,
}

/// Why a connection cannot go on alone.
#[derive(Debug)]
pub enum Upset {
    /// The server ignores ranges: this is the whole file, from its start.
    Whole(Response),
    /// It says that there is no such range.
    Unsatisfiable,
    /// It sent more than was asked for.
    TooLong,
    /// The writers have left: their error tells why.
    NoWriter,
    Failed(ServiceError),
}

/// How a request ended that did not bring all.
enum Broken {
    Fault(HubFault),
    /// By us: the other connections are much faster.
    LeftBehind,
    /// There is no such range, by this server. Another one may know better: nothing is thrown away at once.
    Unsatisfiable,
    Upset(Upset),
}

impl From<HubFault> for Broken {
    fn from(fault: HubFault) -> Self {
        Self::Fault(fault)
    }
}

/// Blocks that are fetched one after the other, and how far that has come.
#[derive(Debug)]
struct Run {
    next: u64,
    end: u64,
    /// The next block, not yet full.
    open: Option<Block>,
    left_behind: u32,
}

impl Run {
    /// In the file, of the next byte.
    fn position(&self) -> u64 {
        self.next * BLOCK_BYTES + self.open.as_ref().map_or(0, |block| block.len() as u64)
    }
}

impl Feed {
    /// One connection: run after run, until something is wrong.
    pub async fn connection(self) -> Upset {
        loop {
            let run = self.work.next().await;
            if let Err(upset) = self.fetch(run, None).await {
                return upset;
            }
        }
    }

    /// As [`Self::connection`], once another one got an answer.
    pub async fn further_connection(self) -> Upset {
        let mut answered = self.answered.subscribe();
        // The sender is ours.
        let _ = answered.wait_for(|answered| *answered).await;
        self.connection().await
    }

    /// The whole file in one stream, beginning with `first` where there is one.
    pub async fn stream(self, first: Option<Response>) -> Upset {
        let run = self.work.next().await;
        match self.fetch(run, first).await {
            Err(upset) => upset,
            Ok(()) => self.connection().await,
        }
    }

    async fn fetch(&self, run: Range<u64>, mut first: Option<Response>) -> Result<(), Upset> {
        let policy = self.source.hub.policy();
        let mut run = Run { next: run.start, end: run.end, open: None, left_behind: 0 };
        let mut pauses = policy.pauses();
        loop {
            // Who waits for its next try must not keep what the others need to go on.
            if self.lanes.pool.is_tight()
                && let Some(block) = run.open.take()
            {
                self.meter.lost(block.len() as u64);
            }
            let before = run.position();
            let mut last_word: fn(ServiceError) -> Upset = Upset::Failed;
            let fault = match self.request(&mut run, first.take()).await {
                Ok(()) => return Ok(()),
                Err(Broken::Unsatisfiable) => {
                    self.source.forget_link().await;
                    last_word = |_| Upset::Unsatisfiable;
                    HubFault::passing("the server has no such range")
                }
                Err(Broken::Upset(upset)) => return Err(upset),
                Err(Broken::LeftBehind) => {
                    run.left_behind += 1;
                    self.meter.retried();
                    continue;
                }
                Err(Broken::Fault(HubFault::Final(error))) => return Err(Upset::Failed(error)),
                Err(Broken::Fault(fault)) => fault,
            };
            self.meter.retried();
            let asked = fault.asked_wait();
            let progressed = run.position() - before >= WORTHWHILE_BYTES;
            if progressed {
                pauses = policy.pauses();
            }
            let Some(own) = pauses.next() else {
                return Err(last_word(fault.give_up(self.source.hub.host())));
            };
            // What brought something may just have been cut: nobody is to be spared.
            let own = if progressed { Duration::ZERO } else { own };
            let pause = policy.pause(own, asked);
            tracing::debug!(file = %self.source.path, why = fault.why(), ?pause, "transfer broke, trying again");
            if asked.is_some() {
                self.lanes.wait_all(pause);
            }
            tokio::time::sleep(pause).await;
        }
    }

    /// One request for what the run lacks.
    async fn request(&self, run: &mut Run, given: Option<Response>) -> Result<(), Broken> {
        let _connection = self.lanes.connection().await;
        let (start, end) = (run.position(), self.size.min(run.end * BLOCK_BYTES));
        let is_all = (start, end) == (0, self.size);
        let response = match given {
            Some(response) => response,
            None => self.source.open((!is_all).then_some(start..end)).await?,
        };
        match response.status() {
            StatusCode::OK if is_all => {}
            StatusCode::OK => return Err(Broken::Upset(Upset::Whole(response))),
            StatusCode::RANGE_NOT_SATISFIABLE => return Err(Broken::Unsatisfiable),
            _ if is_part(&response, start, self.size) => {}
            _ => return Err(HubFault::passing("the server sent another part than was asked for").into()),
        }
        self.answered.send_if_modified(|answered| !std::mem::replace(answered, true));
        self.receive(run, end - start, response.bytes_stream()).await
    }

    /// `left` bytes of a body. One that brings too little for too long is given up.
    async fn receive(
        &self,
        run: &mut Run,
        mut left: u64,
        mut body: impl Stream<Item = reqwest::Result<Bytes>> + Unpin,
    ) -> Result<(), Broken> {
        let policy = self.source.hub.policy();
        let mut deadline = Instant::now() + policy.stall_timeout;
        let mut since_deadline = 0;
        let mut lap = Lap::start(policy.lap);
        loop {
            let frame: Bytes = match timeout_at(deadline, body.next()).await {
                // All is there: how the connection ends is of no interest.
                Ok(None | Some(Err(_))) | Err(_) if left == 0 => {
                    // For the others to be compared with.
                    lap.so_far().map(|speed| self.lanes.pace.is_left_behind(speed));
                    return Ok(());
                }
                Err(_) => return Err(HubFault::passing("the transfer stalled").into()),
                Ok(Some(Err(error))) => return Err(HubFault::from(error).into()),
                Ok(Some(Ok(frame))) => frame,
                Ok(None) => {
                    return Err(HubFault::passing(format!("the body ended {left} bytes early")).into());
                }
            };
            if frame.len() as u64 > left {
                return Err(Broken::Upset(Upset::TooLong));
            }
            left -= frame.len() as u64;
            let waited = self.keep(run, &frame).await.map_err(Broken::Upset)?;
            self.meter.received(frame.len() as u64);
            // A slow disk of ours is no stall of theirs.
            deadline += waited;
            since_deadline += frame.len() as u64;
            if let Some(speed) = lap.add(frame.len() as u64)
                && self.lanes.pace.is_left_behind(speed)
                && run.left_behind < LEFT_BEHIND_TIMES
                && left > 0
            {
                return Err(Broken::LeftBehind);
            }
            if since_deadline >= policy.bytes_to_live() {
                deadline = Instant::now() + policy.stall_timeout;
                since_deadline = 0;
            }
        }
    }

    /// Into blocks, and those that are full to writers and hasher; how long it had to wait for memory.
    async fn keep(&self, run: &mut Run, mut bytes: &[u8]) -> Result<Duration, Upset> {
        let mut waited = Duration::ZERO;
        while !bytes.is_empty() {
            let mut block = if let Some(block) = run.open.take() {
                block
            } else {
                let since = Instant::now();
                let block = self.lanes.pool.take().await;
                let block = block.map_err(|error| Upset::Failed(ServiceError::internal(error)))?;
                waited += since.elapsed();
                block
            };
            let length = BLOCK_BYTES.min(self.size - run.next * BLOCK_BYTES) as usize;
            let taken = block.fill(bytes, length);
            bytes = &bytes[taken..];
            if block.len() < length {
                run.open = Some(block);
                continue;
            }
            let arrived = Arrived { index: run.next, block: Arc::new(block) };
            // A hasher that has left has ended the transfer.
            let _ = self.news.send(News::Arrived(arrived.clone()));
            self.arrived.send(arrived).map_err(|_| Upset::NoWriter)?;
            run.next += 1;
        }
        Ok(waited)
    }
}

/// Whether it is of a file of this size, beginning at `start`.
fn is_part(response: &Response, start: u64, size: u64) -> bool {
    let range = response.headers().get(header::CONTENT_RANGE).and_then(|value| value.to_str().ok());
    response.status() == StatusCode::PARTIAL_CONTENT
        && range
            .and_then(content_range)
            .is_some_and(|(first, total)| first == start && total.is_none_or(|total| total == size))
}

/// First byte and total of `bytes 5-9/10`.
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
