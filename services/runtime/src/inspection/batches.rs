//! The batches of a job: captured one after the other, and written while the next one is computed.

use std::{pin::pin, sync::Arc, time::Duration};

use millm_engine::{CaptureError, CaptureRequest, MAX_CAPTURE_SEQUENCES, SubmitError};
use millm_extraction::{Checkpoint, PlanReader, Writer};
use millm_kit::{Reason, ServiceError};
use millm_model::Hook;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use super::jobs::Job;
use crate::{error, model_finder::ModelFinder};

/// Tokens of a batch whose size nobody chose. A larger one does not compute faster, and more of it is lost when the
/// process is killed.
const BATCH_TOKENS: usize = 4096;
/// Batches that must succeed before a smaller batch grows again.
const GROW_AFTER: u32 = 16;
/// Free memory below which batches become smaller.
const MIN_FREE_BYTES: u64 = 64 << 20;
/// The pause before a batch is submitted again when too many captures wait.
const BUSY_PAUSE: Duration = Duration::from_millis(50);
/// The time between two reports of progress.
const TICK: Duration = Duration::from_millis(500);

/// Returns the samples of a batch with rows of so many tokens, where the KV cache holds `kv_tokens`.
pub(super) fn auto_batch(sequence_length: usize, kv_tokens: usize) -> u32 {
    let tokens = BATCH_TOKENS.min(kv_tokens);
    (tokens / sequence_length.max(1)).clamp(1, MAX_CAPTURE_SEQUENCES) as u32
}

/// The samples of a batch: fewer when memory is short, and more again later.
#[derive(Debug, Clone, Copy)]
pub(super) struct BatchSize {
    most: u32,
    now: u32,
    succeeded: u32,
}

impl BatchSize {
    /// Returns a size that begins with, and never exceeds, `most`.
    pub fn new(most: u32) -> Self {
        let most = most.max(1);
        Self { most, now: most, succeeded: 0 }
    }

    /// Halves the size. Returns false if it cannot be smaller.
    fn shrink(&mut self) -> bool {
        self.succeeded = 0;
        let smaller = self.now > 1;
        self.now = (self.now / 2).max(1);
        smaller
    }

    fn succeed(&mut self) {
        self.succeeded += 1;
        if self.succeeded >= GROW_AFTER {
            self.succeeded = 0;
            self.now = self.now.saturating_mul(2).min(self.most);
        }
    }
}

/// The batches of a job.
pub(super) struct Batches<'a> {
    pub job: &'a Job,
    pub models: &'a ModelFinder,
    pub model_id: i64,
    pub handle: &'a str,
    pub hooks: Vec<Hook>,
    pub reader: Arc<PlanReader>,
    pub writer: Writer,
    pub samples: u64,
    pub size: BatchSize,
    pub stop: CancellationToken,
}

impl Batches<'_> {
    /// Captures all samples that are not written yet, and returns the journal when everything is written.
    ///
    /// # Errors
    ///
    /// MODEL_NOT_LOADED if the model is unloaded meanwhile, INSUFFICIENT_DISK, INSUFFICIENT_MEMORY, EXTRACTION_FAILED or
    /// CANCELLED. What is written stays.
    pub async fn run(mut self) -> Result<Checkpoint, ServiceError> {
        let captured = self.capture_all().await;
        let writer = self.writer;
        let closed = tokio::task::spawn_blocking(move || writer.finish()).await.map_err(error::from_panic)?;
        match (captured, closed) {
            // A writer that fails ends the capture: its error is the cause.
            (_, Err(error)) => Err(error::from_extraction(error)),
            (Err(error), Ok(_)) => Err(error),
            (Ok(()), Ok(checkpoint)) => Ok(checkpoint),
        }
    }

    async fn capture_all(&mut self) -> Result<(), ServiceError> {
        let mut next = self.writer.done().samples;
        while next < self.samples {
            if self.models.loader.options.devices.free() < MIN_FREE_BYTES {
                self.size.shrink();
            }
            let end = next.saturating_add(u64::from(self.size.now)).min(self.samples);
            let reader = Arc::clone(&self.reader);
            let read = tokio::task::spawn_blocking(move || reader.read(next..end));
            let tokens = read.await.map_err(error::from_panic)?.map_err(error::from_extraction)?;
            match self.capture(next, tokens).await {
                Ok(()) => {
                    next = end;
                    self.size.succeed();
                }
                Err(error) if error.reason == Reason::InsufficientMemory && self.size.shrink() => {
                    tracing::warn!(extraction = %self.job.id(), batch = self.size.now, "memory is short: {error}");
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Captures one batch. The model counts as in use meanwhile, and only then: an unload waits for one batch at most.
    async fn capture(&self, first: u64, tokens: Vec<Vec<u32>>) -> Result<(), ServiceError> {
        loop {
            if self.stop.is_cancelled() || self.writer.has_failed() {
                return Err(ServiceError::cancelled());
            }
            let (loaded, guard) = self.models.loaded(self.model_id, self.handle)?;
            let (captured, result) = oneshot::channel();
            let stop = self.stop.clone();
            // Nobody waits for the result of a batch that was refused.
            let captured = Box::new(move |result| drop(captured.send(result)));
            let sink = self.writer.batch(first, tokens.clone(), move || stop.is_cancelled(), captured);
            let request = CaptureRequest { sequences: tokens.clone(), hooks: self.hooks.clone() };
            match loaded.engine.capture(request, Box::new(sink)) {
                Ok(()) => {}
                Err(SubmitError::QueueFull { .. }) => {
                    drop((loaded, guard));
                    tokio::time::sleep(BUSY_PAUSE).await;
                    continue;
                }
                Err(error) => return Err(error::from_submit(&error, self.handle)),
            }
            // The wait must not keep the model in memory.
            drop(loaded);
            let result = with_progress(result, || self.report()).await;
            drop(guard);
            return match result.unwrap_or(Err(CaptureError::Cancelled)) {
                Err(CaptureError::Cancelled) if self.stop.is_cancelled() || self.writer.has_failed() => {
                    Err(ServiceError::cancelled())
                }
                result => result.map_err(|error| error::from_capture(&error, self.handle)),
            };
        }
    }

    fn report(&self) {
        self.job.progress(self.writer.done(), self.size.now);
    }
}

/// Waits for `work`, and calls `report` from time to time.
pub(super) async fn with_progress<F: Future>(work: F, mut report: impl FnMut()) -> F::Output {
    let mut work = pin!(work);
    let mut ticks = tokio::time::interval(TICK);
    loop {
        tokio::select! {
            biased;
            output = &mut work => {
                report();
                return output;
            }
            _ = ticks.tick() => report(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_have_about_as_many_tokens() {
        assert_eq!(auto_batch(512, usize::MAX), 8);
        assert_eq!(auto_batch(1, usize::MAX), 4096);
        assert_eq!(auto_batch(10_000, usize::MAX), 1);
        assert_eq!(auto_batch(512, 1024), 2);
        assert_eq!(auto_batch(0, 0), 1);
    }

    #[test]
    fn batches_shrink_and_grow_again() {
        let mut size = BatchSize::new(5);
        assert!(size.shrink() && size.now == 2);
        assert!(size.shrink() && size.now == 1);
        assert!(!size.shrink() && size.now == 1);
        for expected in [2, 4, 5, 5] {
            (0..GROW_AFTER).for_each(|_| size.succeed());
            assert_eq!(size.now, expected);
        }
    }

    #[tokio::test]
    async fn progress_is_reported_at_the_end() {
        let mut reports = 0;
        assert_eq!(with_progress(async { 7 }, || reports += 1).await, 7);
        assert_eq!(reports, 1);
    }
}
