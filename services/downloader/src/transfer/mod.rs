//! One file from the hub to the disk: in as many attempts as it takes and policy allows, each going on where the
//! last one ended, hashed as it comes, under its name only when verified.

mod attempt;
mod ledger;

use std::{io, path::PathBuf, sync::Arc};

use millm_kit::{Secret, ServiceError, names::RepoId};
use tokio_util::task::TaskTracker;

use crate::{
    error::of_disk,
    hub::{FileAt, Hub, HubFault, RemoteFile},
    policy::WORTHWHILE_BYTES,
    progress::FileMeter,
};
use attempt::{Ended, attempt};
use ledger::{Partial, Wanted};

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
    /// Whoever drops a transfer waits here for the last write to end before removing files.
    pub writers: TaskTracker,
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
        let mut partial = self.open_partial().await?;
        self.meter.resume_from(partial.len());
        let mut pauses = self.hub.policy().pauses();
        let mut fetched_again = false;
        // Bytes of an earlier run may be at fault themselves: they do not count as damage by the hub.
        let mut inherited = partial.len() > 0;
        loop {
            let before = partial.len();
            let ended;
            (partial, ended) = attempt(&self, partial).await?;
            let damage = match ended {
                Ended::Complete => {
                    let got = partial.digest();
                    if got == self.file.digest {
                        return self.publish(partial).await;
                    }
                    ServiceError::checksum_mismatch(&self.file.path, self.file.digest.hex(), got.hex())
                }
                Ended::TooLong => ServiceError::download_failed(format!(
                    "'{}' came with more than its {size} bytes, twice",
                    self.file.path
                )),
                Ended::Broken(HubFault::Final(error)) => return Err(error),
                Ended::Broken(fault) => {
                    if partial.len().saturating_sub(before) >= WORTHWHILE_BYTES {
                        pauses = self.hub.policy().pauses();
                    }
                    let Some(pause) = pauses.next() else { return Err(fault.give_up(self.hub.host())) };
                    let pause = self.hub.policy().pause(pause, fault.asked_wait());
                    tracing::warn!(file = %self.file.path, why = fault.why(), ?pause, "transfer broke, trying again");
                    self.meter.retried();
                    tokio::time::sleep(pause).await;
                    continue;
                }
            };
            if fetched_again && !inherited {
                return Err(damage);
            }
            tracing::warn!(file = %self.file.path, "arrived damaged, fetching it again");
            fetched_again = !inherited;
            inherited = false;
            self.meter.retried();
            self.meter.have(0);
            partial = self
                .blocking(move || {
                    partial.restart()?;
                    Ok(partial)
                })
                .await?;
        }
    }

    async fn open_partial(&self) -> Result<Partial, ServiceError> {
        let wanted = Wanted { size: self.file.size, digest: self.file.digest, commit: self.commit.clone() };
        let path = self.partial.clone();
        self.blocking(move || Partial::open(&path, wanted)).await
    }

    async fn publish(self, partial: Partial) -> Result<(), ServiceError> {
        let destination = self.destination.clone();
        self.blocking(move || partial.publish(&destination)).await?;
        self.meter.verified(self.file.size);
        Ok(())
    }

    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> io::Result<T> + Send + 'static,
    ) -> Result<T, ServiceError> {
        let done = self.writers.spawn_blocking(work).await;
        let done = done.map_err(ServiceError::internal)?;
        done.map_err(|error| self.disk_error(&error))
    }

    fn disk_error(&self, error: &io::Error) -> ServiceError {
        of_disk(self.repo.as_str(), self.file.path.as_str(), error)
    }

    fn at(&self) -> FileAt<'_> {
        FileAt { repo: &self.repo, commit: &self.commit, path: &self.file.path, token: self.token.as_ref() }
    }
}
