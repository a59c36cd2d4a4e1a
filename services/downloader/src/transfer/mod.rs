//! One file from the hub to the disk. Large ones in ranges, over several connections at once; each block is hashed
//! when its turn has come, from memory as a rule; nothing has its final name before all of it is verified.
//!
//! ```text
//! connections (async) ─┬─ blocks ──> writers (threads), which note them in the ledger
//!        ^             └─ blocks ──> hasher (thread) ──> the digest
//!        └── damaged ones of an earlier run ──┘
//! ```

mod blocks;
mod lanes;
mod ledger;
mod pace;
mod partial;
mod range;
mod source;
mod threads;
mod work;

#[cfg(test)]
mod tests;

use std::{
    io,
    path::PathBuf,
    sync::{Arc, Mutex, mpsc},
};

use millm_kit::{Secret, ServiceError, names::RepoId};
use reqwest::Response;
use tokio::{sync::watch, task::JoinSet};
use tokio_util::task::TaskTracker;

use crate::{
    digest::Digest,
    error::of_disk,
    hub::{Hub, RemoteFile},
    policy::{BLOCK_BYTES, CHUNK_BYTES, CONNECTIONS, SMALL_FILE_BYTES, WRITERS},
    progress::FileMeter,
};
pub use lanes::Lanes;
use ledger::{Marks, Wanted};
use partial::Partial;
use range::{Feed, Upset};
use source::Source;
use threads::{News, Stop, Verifier, Writer};
use work::Work;

/// A file and where it belongs.
#[derive(Debug, Clone)]
pub struct Transfer {
    pub hub: Hub,
    pub repo: RepoId,
    pub commit: String,
    pub token: Option<Secret>,
    pub file: RemoteFile,
    /// In the folder of partials.
    pub partial: PathBuf,
    /// Where it goes once verified; what has this name and size was verified before.
    pub destination: PathBuf,
    pub meter: Arc<FileMeter>,
    pub lanes: Arc<Lanes>,
    /// Whoever drops a transfer waits here for the last write to end before removing files.
    pub writers: TaskTracker,
}

/// How a file is asked for.
#[derive(Debug)]
enum Way {
    Ranges,
    /// All of it, in one stream; from an answer that is there already, or not.
    Stream(Option<Response>),
}

/// How one pass over a file ended.
enum Pass {
    Hashed(Digest),
    Upset(Upset),
}

impl Transfer {
    /// Errors: the hub's, CHECKSUM_MISMATCH, MODEL_DOWNLOAD_FAILED, INSUFFICIENT_DISK.
    pub async fn run(self) -> Result<(), ServiceError> {
        let size = self.file.size;
        if std::fs::metadata(&self.destination).is_ok_and(|there| there.len() == size) {
            self.meter.resume_from(size);
            self.meter.verified(size);
            return Ok(());
        }
        let source = Arc::new(Source::new(
            self.hub.clone(),
            self.repo.clone(),
            self.commit.clone(),
            self.file.path.clone(),
            self.token.clone(),
        ));
        let (mut partial, mut marks) = self.open_partial(false).await?;
        // Bytes of an earlier run may be at fault themselves: they do not count as damage by the hub.
        let mut inherited = marks.iter().any(Option::is_some);
        self.meter.resume_from(kept_bytes(&partial, &marks));
        let mut way = Way::Ranges;
        let mut streams_left = self.hub.policy().retries + 1;
        let mut fetched_again = false;
        loop {
            let damage = match self.pass(&source, &partial, marks, way).await? {
                Pass::Hashed(digest) if digest == self.file.digest => return self.publish(partial).await,
                Pass::Hashed(digest) => {
                    way = Way::Ranges;
                    ServiceError::checksum_mismatch(&self.file.path, self.file.digest.hex(), digest.hex())
                }
                Pass::Upset(Upset::Failed(error)) => return Err(error),
                Pass::Upset(Upset::TooLong) => {
                    way = Way::Stream(None);
                    self.failed("came with more bytes than were asked for, twice")
                }
                Pass::Upset(Upset::Unsatisfiable) => {
                    way = Way::Stream(None);
                    self.failed("is shorter on the server than the hub says")
                }
                Pass::Upset(Upset::Whole(response)) => {
                    streams_left = streams_left.checked_sub(1).ok_or_else(|| {
                        self.failed("broke off again and again, and the server cannot go on where it did")
                    })?;
                    way = Way::Stream(Some(response));
                    inherited = false;
                    (partial, marks) = self.start_again("the server sends the whole file").await?;
                    continue;
                }
                Pass::Upset(Upset::NoWriter) => return Err(ServiceError::internal("a writer left")),
            };
            if fetched_again && !inherited {
                return Err(damage);
            }
            fetched_again = !inherited;
            inherited = false;
            (partial, marks) = self.start_again(&damage.message).await?;
        }
    }

    fn failed(&self, why: &str) -> ServiceError {
        ServiceError::download_failed(format!("'{}' {why}", self.file.path))
    }

    async fn start_again(&self, why: &str) -> Result<(Arc<Partial>, Marks), ServiceError> {
        tracing::warn!(file = %self.file.path, why, "starting the file again");
        self.meter.retried();
        self.meter.have(0);
        self.open_partial(true).await
    }

    async fn open_partial(&self, fresh: bool) -> Result<(Arc<Partial>, Marks), ServiceError> {
        let wanted = Wanted { size: self.file.size, digest: self.file.digest, commit: self.commit.clone() };
        let path = self.partial.clone();
        let opened = self.writers.spawn_blocking(move || Partial::open(&path, wanted, fresh));
        let (partial, marks) = self.joined(opened).await?;
        Ok((Arc::new(partial), marks))
    }

    /// Fetches what `marks` lack and hashes the whole. When it ends its threads have ended.
    async fn pass(
        &self,
        source: &Arc<Source>,
        partial: &Arc<Partial>,
        marks: Marks,
        way: Way,
    ) -> Result<Pass, ServiceError> {
        let is_stream = matches!(way, Way::Stream(_));
        let is_large = self.file.size > SMALL_FILE_BYTES;
        let chunk = if is_stream || !is_large { u64::MAX } else { CHUNK_BYTES / BLOCK_BYTES };
        // An answer that is there already does not wait.
        let turn = if is_large && !is_stream { self.lanes.turn().await } else { None };
        let work = Arc::new(Work::new(&marks, chunk, turn));
        let chunks = work.chunks();
        let (arrived, queue) = mpsc::channel();
        let (news, heard) = mpsc::channel();
        let stop = Stop::default();
        let arrived_queue = Arc::new(Mutex::new(queue));
        let writer = Writer { partial: Arc::clone(partial), arrived: arrived_queue, news: news.clone() };
        let writers = if is_large { WRITERS } else { 1 };
        let writers: Vec<_> = std::iter::repeat_n(writer, writers)
            .map(|writer| self.writers.spawn_blocking(move || writer.run()))
            .collect();
        let verifier = Verifier {
            partial: Arc::clone(partial),
            marks,
            work: Arc::clone(&work),
            pool: Arc::clone(&self.lanes.pool),
            meter: Arc::clone(&self.meter),
            news: heard,
            stop: stop.flag(),
        };
        let mut verifier = self.writers.spawn_blocking(move || verifier.run());
        let keeper = self.lanes.pool.keeper({
            let news = news.clone();
            move || drop(news.send(News::Short))
        });
        let mut connections = JoinSet::new();
        let feed = Feed {
            source: Arc::clone(source),
            size: self.file.size,
            work,
            lanes: Arc::clone(&self.lanes),
            arrived,
            news,
            meter: Arc::clone(&self.meter),
            answered: watch::Sender::new(false),
        };
        match way {
            Way::Stream(first) => drop(connections.spawn(feed.clone().stream(first))),
            Way::Ranges => {
                for _ in 1..chunks.min(CONNECTIONS) {
                    connections.spawn(feed.clone().further_connection());
                }
                connections.spawn(feed.clone().connection());
            }
        }
        let mut writers = std::pin::pin!(futures::future::try_join_all(
            writers.into_iter().map(|writer| self.joined(writer))
        ));
        let mut hashed = None;
        let mut writers_ended = false;
        let end = tokio::select! {
            digest = self.joined(&mut verifier) => {
                hashed = Some(digest);
                None
            }
            Some(upset) = connections.join_next() => Some(upset.map_err(ServiceError::internal)?),
            ended = &mut writers => {
                writers_ended = true;
                ended.map(|_| Some(Upset::NoWriter))?
            }
        };
        if end.is_some() {
            drop(stop);
        }
        // With the last sender the writers' queue ends, and with the writers the hasher.
        connections.shutdown().await;
        drop((feed, keeper));
        if !writers_ended {
            writers.await?;
        }
        let hashed = match hashed {
            Some(digest) => digest,
            None => self.joined(verifier).await,
        };
        match (hashed?, end) {
            (Some(digest), _) => Ok(Pass::Hashed(digest)),
            (None, Some(upset)) => Ok(Pass::Upset(upset)),
            (None, None) => Err(ServiceError::internal("the hasher left")),
        }
    }

    async fn publish(self, partial: Arc<Partial>) -> Result<(), ServiceError> {
        let destination = self.destination.clone();
        let published = self.writers.spawn_blocking(move || partial.publish(&destination));
        self.joined(published).await?;
        self.meter.verified(self.file.size);
        Ok(())
    }

    async fn joined<T>(
        &self,
        thread: impl Future<Output = Result<io::Result<T>, tokio::task::JoinError>>,
    ) -> Result<T, ServiceError> {
        let done = thread.await.map_err(ServiceError::internal)?;
        done.map_err(|error| of_disk(self.repo.as_str(), self.file.path.as_str(), &error))
    }
}

fn kept_bytes(partial: &Partial, marks: &Marks) -> u64 {
    let kept = (0..).zip(marks).filter(|(_, mark)| mark.is_some());
    kept.map(|(block, _)| partial.length_of(block) as u64).sum()
}
