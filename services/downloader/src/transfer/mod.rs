//! One file from the hub to the disk. Large files come in ranges over several connections at once. Each block is hashed
//! in its turn, usually from memory. A file gets its final name once all of it is verified.
//!
//! ```text
//! connections (async) ─┬─ blocks ──> writers (threads), which note them in the ledger
//!        ^             └─ blocks ──> verifier (thread) ──> the digest
//!        └── damaged blocks of an earlier run ──┘
//! ```

mod block_queue;
mod buffer_pool;
mod ledger;
mod partial;
mod range;
pub(crate) mod shared_limits;
mod slow_connection;
mod source;
mod writer;

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
    error::from_disk,
    hub::{api_types::RemoteFile, client::Hub, digest::Digest},
    limits::{BLOCK_BYTES, CHUNK_BYTES, CONNECTIONS, SMALL_FILE_BYTES, WRITERS},
    progress::FileMeter,
};
use block_queue::BlockQueue;
use ledger::{BlockChecksums, ExpectedFile};
use partial::Partial;
use range::{FetchError, RangeFetcher};
use shared_limits::SharedLimits;
use source::Source;
use writer::{StopGuard, Verifier, VerifierEvent, Writer};

/// A file and its destination.
#[derive(Debug, Clone)]
pub(crate) struct Transfer {
    pub(crate) hub: Hub,
    pub(crate) repo: RepoId,
    pub(crate) commit: String,
    pub(crate) token: Option<Secret>,
    pub(crate) file: RemoteFile,
    /// In the folder of partials.
    pub(crate) partial: PathBuf,
    /// The final name. A file that has this name and the right size was verified before.
    pub(crate) destination: PathBuf,
    pub(crate) meter: Arc<FileMeter>,
    pub(crate) shared: Arc<SharedLimits>,
    /// The transfer's threads. After a transfer is dropped they must end before its files are removed.
    pub(crate) writers: TaskTracker,
}

/// The way in which a file is requested.
#[derive(Debug)]
enum RequestMode {
    Ranges,
    /// The whole file in one stream, which may have begun already.
    Stream(Option<Response>),
}

/// The end of one pass over a file.
enum PassEnd {
    Hashed(Digest),
    Broken(FetchError),
}

impl Transfer {
    /// Fetches, verifies and renames the file.
    ///
    /// # Errors
    ///
    /// The hub's errors, CHECKSUM_MISMATCH, MODEL_DOWNLOAD_FAILED, INSUFFICIENT_DISK, INTERNAL.
    pub(crate) async fn run(self) -> Result<(), ServiceError> {
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
        let (mut partial, mut checksums) = self.open_partial(false).await?;
        // The kept bytes of an earlier run may be damaged. That does not count as damage by the hub.
        let mut is_resumed = checksums.iter().any(Option::is_some);
        self.meter.resume_from(kept_bytes(&partial, &checksums));
        let mut mode = RequestMode::Ranges;
        let mut streams_left = self.hub.limits().retry.max_retries.unwrap_or(0) + 1;
        let mut was_fetched_again = false;
        loop {
            let error = match self.pass(&source, &partial, checksums, mode).await? {
                PassEnd::Hashed(digest) if digest == self.file.digest => return self.finish(partial).await,
                PassEnd::Hashed(digest) => {
                    mode = RequestMode::Ranges;
                    ServiceError::checksum_mismatch(&self.file.path, self.file.digest.hex(), digest.hex())
                }
                PassEnd::Broken(FetchError::Failed(error)) => return Err(error),
                PassEnd::Broken(FetchError::TooLong) => {
                    mode = RequestMode::Stream(None);
                    self.failed("came with more bytes than were asked for, twice")
                }
                PassEnd::Broken(FetchError::Unsatisfiable) => {
                    mode = RequestMode::Stream(None);
                    self.failed("is shorter on the server than the hub says")
                }
                PassEnd::Broken(FetchError::WholeFile(response)) => {
                    streams_left = streams_left.checked_sub(1).ok_or_else(|| {
                        self.failed("broke off again and again, and the server cannot resume it")
                    })?;
                    mode = RequestMode::Stream(Some(response));
                    is_resumed = false;
                    (partial, checksums) = self.start_again("the server sends the whole file").await?;
                    continue;
                }
                PassEnd::Broken(FetchError::NoWriter) => {
                    return Err(ServiceError::internal("a writer ended early"));
                }
            };
            if was_fetched_again && !is_resumed {
                return Err(error);
            }
            was_fetched_again = !is_resumed;
            is_resumed = false;
            (partial, checksums) = self.start_again(&error.message).await?;
        }
    }

    fn failed(&self, why: &str) -> ServiceError {
        ServiceError::download_failed(format!("'{}' {why}", self.file.path))
    }

    async fn start_again(&self, why: &str) -> Result<(Arc<Partial>, BlockChecksums), ServiceError> {
        tracing::warn!(file = %self.file.path, why, "starting the file again");
        self.meter.retried();
        self.meter.have(0);
        self.open_partial(true).await
    }

    async fn open_partial(&self, fresh: bool) -> Result<(Arc<Partial>, BlockChecksums), ServiceError> {
        let expected =
            ExpectedFile { size: self.file.size, digest: self.file.digest, commit: self.commit.clone() };
        let path = self.partial.clone();
        let opened = self.writers.spawn_blocking(move || Partial::open(&path, expected, fresh));
        let (partial, checksums) = self.joined(opened).await?;
        Ok((Arc::new(partial), checksums))
    }

    /// Fetches the blocks without a checksum, and hashes the whole file. All threads have ended when it returns.
    async fn pass(
        &self,
        source: &Arc<Source>,
        partial: &Arc<Partial>,
        checksums: BlockChecksums,
        mode: RequestMode,
    ) -> Result<PassEnd, ServiceError> {
        let is_stream = matches!(mode, RequestMode::Stream(_));
        let is_large = self.file.size > SMALL_FILE_BYTES;
        let chunk = if is_stream || !is_large { u64::MAX } else { CHUNK_BYTES / BLOCK_BYTES };
        // A stream that has begun already does not wait for its turn.
        let turn = if is_large && !is_stream { self.shared.acquire_turn().await } else { None };
        let queue = Arc::new(BlockQueue::new(&checksums, chunk, turn));
        let chunks = queue.chunks();
        let (received, received_blocks) = mpsc::channel();
        let (events, verifier_events) = mpsc::channel();
        let stop = StopGuard::default();
        let received_blocks = Arc::new(Mutex::new(received_blocks));
        let writer =
            Writer { partial: Arc::clone(partial), received: received_blocks, events: events.clone() };
        let writers = if is_large { WRITERS } else { 1 };
        let writers: Vec<_> = std::iter::repeat_n(writer, writers)
            .map(|writer| self.writers.spawn_blocking(move || writer.run()))
            .collect();
        let verifier = Verifier {
            partial: Arc::clone(partial),
            checksums,
            queue: Arc::clone(&queue),
            pool: Arc::clone(&self.shared.pool),
            meter: Arc::clone(&self.meter),
            events: verifier_events,
            stop: stop.flag(),
        };
        let mut verifier = self.writers.spawn_blocking(move || verifier.run());
        let pressure_guard = self.shared.pool.on_pressure({
            let events = events.clone();
            move || drop(events.send(VerifierEvent::MemoryPressure))
        });
        let mut connections = JoinSet::new();
        let fetcher = RangeFetcher {
            source: Arc::clone(source),
            size: self.file.size,
            queue,
            shared: Arc::clone(&self.shared),
            received,
            events,
            meter: Arc::clone(&self.meter),
            answered: watch::Sender::new(false),
        };
        match mode {
            RequestMode::Stream(first) => drop(connections.spawn(fetcher.clone().run_stream(first))),
            RequestMode::Ranges => {
                for _ in 1..chunks.min(CONNECTIONS) {
                    connections.spawn(fetcher.clone().run_after_answer());
                }
                connections.spawn(fetcher.clone().run());
            }
        }
        let mut writers = std::pin::pin!(futures::future::try_join_all(
            writers.into_iter().map(|writer| self.joined(writer))
        ));
        let mut hashed = None;
        let mut writers_ended = false;
        let broken = tokio::select! {
            digest = self.joined(&mut verifier) => {
                hashed = Some(digest);
                None
            }
            Some(error) = connections.join_next() => Some(error.map_err(ServiceError::internal)?),
            ended = &mut writers => {
                writers_ended = true;
                ended.map(|_| Some(FetchError::NoWriter))?
            }
        };
        if broken.is_some() {
            drop(stop);
        }
        // The writers' channel ends with its last sender, and the verifier's channel with the writers.
        connections.shutdown().await;
        drop((fetcher, pressure_guard));
        if !writers_ended {
            writers.await?;
        }
        let hashed = match hashed {
            Some(digest) => digest,
            None => self.joined(verifier).await,
        };
        match (hashed?, broken) {
            (Some(digest), _) => Ok(PassEnd::Hashed(digest)),
            (None, Some(error)) => Ok(PassEnd::Broken(error)),
            (None, None) => Err(ServiceError::internal("the verifier ended early")),
        }
    }

    /// Gives the verified file its final name.
    async fn finish(self, partial: Arc<Partial>) -> Result<(), ServiceError> {
        let destination = self.destination.clone();
        let finished = self.writers.spawn_blocking(move || partial.finish(&destination));
        self.joined(finished).await?;
        self.meter.verified(self.file.size);
        Ok(())
    }

    async fn joined<T>(
        &self,
        thread: impl Future<Output = Result<io::Result<T>, tokio::task::JoinError>>,
    ) -> Result<T, ServiceError> {
        let result = thread.await.map_err(ServiceError::internal)?;
        result.map_err(|error| from_disk(self.repo.as_str(), self.file.path.as_str(), &error))
    }
}

/// Returns the bytes of the blocks that have a checksum.
fn kept_bytes(partial: &Partial, checksums: &BlockChecksums) -> u64 {
    let kept = (0..).zip(checksums).filter(|(_, checksum)| checksum.is_some());
    kept.map(|(block, _)| partial.length_of(block) as u64).sum()
}
