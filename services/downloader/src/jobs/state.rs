//! The state of one job, which its phases share, and the ways in which a job ends early.

use std::io;

use millm_kit::{Secret, ServiceError};
use millm_proto::catalog::v1::Model;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    error::{from_disk, is_disk_full},
    progress::Reporter,
    store::models_dir::Incoming,
};

/// One job: the row, and how its model is to be made.
#[derive(Debug)]
pub(crate) struct JobState {
    pub(crate) row: Model,
    pub(crate) token: Option<Secret>,
    pub(crate) keep_source: bool,
    pub(crate) reporter: Reporter,
    /// Set when a person cancels the download.
    pub(crate) cancel: CancellationToken,
}

/// The folder in which the phases of a job work, and the threads that write into it.
#[derive(Debug)]
pub(crate) struct Workspace {
    pub(crate) incoming: Incoming,
    /// The threads that write into the folder. They must end before its files are removed.
    pub(crate) writers: TaskTracker,
}

/// The reason why a job did not succeed.
#[derive(Debug)]
pub(crate) enum JobEnd {
    Failed(ServiceError),
    Cancelled,
    /// The process stops. The next process resumes the job.
    Suspended,
}

impl From<ServiceError> for JobEnd {
    fn from(error: ServiceError) -> Self {
        Self::Failed(error)
    }
}

impl JobState {
    /// Runs blocking work on the disk. `operation` names it for the log.
    ///
    /// # Errors
    ///
    /// INSUFFICIENT_DISK, INTERNAL.
    pub(crate) async fn blocking<T: Send + 'static>(
        &self,
        operation: &str,
        work: impl FnOnce() -> io::Result<T> + Send + 'static,
    ) -> Result<T, ServiceError> {
        let done = tokio::task::spawn_blocking(work).await.map_err(ServiceError::internal)?;
        done.map_err(|error| {
            if !is_disk_full(&error) {
                tracing::warn!(id = self.row.id, %error, operation, "disk error");
            }
            from_disk(&self.row.handle, operation, &error)
        })
    }
}
