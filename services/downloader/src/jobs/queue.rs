//! The queue of downloads: which run, which wait, and in what order. One task, the [`QueueWorker`], owns the queue.
//! Other tasks send commands through a [`Queue`] and watch its board.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    panic::AssertUnwindSafe,
    sync::Arc,
    time::{Duration, SystemTime},
};

use futures::FutureExt as _;
use millm_kit::{Secret, ServiceError, quantization::name as name_of};
use millm_proto::{catalog::v1::Model, downloader::v1::Download};
use tokio::{
    sync::{mpsc, oneshot, watch},
    task::JoinSet,
    time::Instant,
};
use tokio_util::sync::CancellationToken;

use super::{
    eta::{LastSpeed, waits},
    job,
    state::JobState,
};
use crate::{
    context::Context,
    progress::{Reporter, is_final, queued_snapshot},
};

/// The time between two estimates of when waiting downloads begin.
const ESTIMATE_INTERVAL: Duration = Duration::from_secs(1);
/// Ended downloads that stay listed.
const ENDED_KEPT: usize = 200;
/// The maximum time that a caller waits for the queue. It waits only while the Catalog is away at startup.
const QUEUE_TIMEOUT: Duration = Duration::from_secs(10);

/// All known downloads, by model id.
pub(crate) type Board = Arc<BTreeMap<i64, BoardEntry>>;

/// One download on the board.
#[derive(Debug, Clone)]
pub(crate) struct BoardEntry {
    /// A new number for each attempt at a model.
    pub(crate) run: u64,
    pub(crate) watcher: watch::Receiver<Download>,
}

/// A request for a job.
#[derive(Debug)]
pub(crate) struct JobRequest {
    pub(crate) row: Model,
    pub(crate) token: Option<Secret>,
    pub(crate) keep_source: bool,
    /// Bytes to fetch; 0 while unknown.
    pub(crate) bytes: u64,
}

#[derive(Debug)]
enum Command {
    Submit(Box<JobRequest>, oneshot::Sender<Result<watch::Receiver<Download>, ServiceError>>),
    /// Lists a download that needed no job.
    Record(Box<Download>),
    Cancel(i64, oneshot::Sender<Option<watch::Receiver<Download>>>),
    Forget(i64),
}

/// A handle of the queue. It is cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Queue {
    commands: mpsc::Sender<Command>,
    board: watch::Receiver<Board>,
    ready: watch::Receiver<bool>,
}

impl Queue {
    /// Makes a queue. Its worker is not running yet: commands wait until [`QueueWorker::run`] is ready.
    pub(crate) fn new(context: &Arc<Context>) -> (Self, QueueWorker) {
        let (commands, inbox) = mpsc::channel(64);
        let (board_out, board) = watch::channel(Board::default());
        let (ready_out, ready) = watch::channel(false);
        let worker = QueueWorker {
            context: Arc::clone(context),
            inbox,
            ready: ready_out,
            board: board_out,
            waiting: VecDeque::new(),
            active: HashMap::new(),
            running: JoinSet::new(),
            runs: 0,
            last_speed: LastSpeed::default(),
        };
        (Self { commands, board, ready }, worker)
    }

    /// Returns the board, for watching.
    pub(crate) fn board(&self) -> watch::Receiver<Board> {
        self.board.clone()
    }

    /// Returns the snapshots of a model's download.
    pub(crate) fn watcher(&self, id: i64) -> Option<watch::Receiver<Download>> {
        self.board.borrow().get(&id).map(|entry| entry.watcher.clone())
    }

    /// Waits until the repair at startup is done and the interrupted jobs are queued.
    ///
    /// # Errors
    ///
    /// SERVICE_UNAVAILABLE after 10 seconds.
    pub(crate) async fn wait_ready(&self) -> Result<(), ServiceError> {
        let mut ready = self.ready.clone();
        let waited = tokio::time::timeout(QUEUE_TIMEOUT, ready.wait_for(|ready| *ready)).await;
        match waited {
            Ok(Ok(_)) => Ok(()),
            _ => Err(ServiceError::service_unavailable("catalog")),
        }
    }

    /// Queues a job, and returns its snapshots.
    ///
    /// # Errors
    ///
    /// MODEL_ALREADY_EXISTS when the model has a job already, SERVICE_UNAVAILABLE.
    pub(crate) async fn submit(
        &self,
        request: JobRequest,
    ) -> Result<watch::Receiver<Download>, ServiceError> {
        let (reply, answer) = oneshot::channel();
        self.send(Command::Submit(Box::new(request), reply)).await?;
        answer.await.map_err(|_| stopped())?
    }

    /// Lists a download that needed no job.
    ///
    /// # Errors
    ///
    /// SERVICE_UNAVAILABLE.
    pub(crate) async fn record(&self, download: Download) -> Result<(), ServiceError> {
        self.send(Command::Record(Box::new(download))).await
    }

    /// Cancels a download. Returns its last snapshot once it has stopped and its files and row are gone; `None` when
    /// there was no download.
    ///
    /// # Errors
    ///
    /// SERVICE_UNAVAILABLE when the Catalog does not answer in time.
    pub(crate) async fn cancel(&self, id: i64) -> Result<Option<Download>, ServiceError> {
        let (reply, answer) = oneshot::channel();
        self.send(Command::Cancel(id, reply)).await?;
        let Some(mut watcher) = answer.await.map_err(|_| stopped())? else { return Ok(None) };
        let ended =
            tokio::time::timeout(QUEUE_TIMEOUT, watcher.wait_for(|download| is_final(download.state())))
                .await;
        match ended {
            Ok(Ok(download)) => Ok(Some(download.clone())),
            Ok(Err(_)) => Err(stopped()),
            // The download has stopped and its files are gone; only its row waits for the Catalog.
            Err(_) => Err(ServiceError::service_unavailable("catalog")),
        }
    }

    /// Removes an ended download from the board.
    ///
    /// # Errors
    ///
    /// SERVICE_UNAVAILABLE.
    pub(crate) async fn forget(&self, id: i64) -> Result<(), ServiceError> {
        self.send(Command::Forget(id)).await
    }

    async fn send(&self, command: Command) -> Result<(), ServiceError> {
        self.wait_ready().await?;
        self.commands.send(command).await.map_err(|_| stopped())
    }
}

/// Returns the error for a queue whose process stops.
fn stopped() -> ServiceError {
    ServiceError::service_unavailable("downloader")
}

/// The owner of the queue.
#[derive(Debug)]
pub(crate) struct QueueWorker {
    context: Arc<Context>,
    inbox: mpsc::Receiver<Command>,
    ready: watch::Sender<bool>,
    board: watch::Sender<Board>,
    waiting: VecDeque<JobState>,
    /// Running jobs, by model id.
    active: HashMap<i64, ActiveJob>,
    running: JoinSet<i64>,
    runs: u64,
    last_speed: LastSpeed,
}

#[derive(Debug)]
struct ActiveJob {
    cancel: CancellationToken,
    since: Instant,
    /// False for a cancelled job, whose files are being removed.
    holds_slot: bool,
}

impl QueueWorker {
    /// Queues the interrupted jobs, and then serves commands until the process stops.
    pub(crate) async fn run(mut self, interrupted: Vec<JobRequest>) {
        let shutdown = self.context.shutdown.clone();
        for request in interrupted {
            self.enqueue(request);
        }
        self.ready.send_replace(true);
        let mut ticks = tokio::time::interval(ESTIMATE_INTERVAL);
        loop {
            self.fill_slots();
            tokio::select! {
                () = shutdown.cancelled() => break,
                Some(command) = self.inbox.recv() => self.handle(command),
                Some(ended) = self.running.join_next() => self.ended(ended),
                _ = ticks.tick(), if !self.waiting.is_empty() => self.update_positions(),
            }
        }
        // Jobs watch the same token and suspend themselves.
        self.waiting.clear();
        while self.running.join_next().await.is_some() {}
    }

    fn handle(&mut self, command: Command) {
        match command {
            Command::Submit(request, reply) => {
                let id = request.row.id;
                let known = self.active.contains_key(&id) || self.waiting.iter().any(|job| job.row.id == id);
                let answer = if known {
                    let name = name_of(request.row.requested_quantization());
                    Err(ServiceError::model_already_exists(id, &request.row.handle, name))
                } else {
                    Ok(self.enqueue(*request))
                };
                // The job runs even if the caller has left.
                let _ = reply.send(answer);
            }
            Command::Record(download) => {
                let id = download.model_id;
                let (_, watcher) = watch::channel(*download);
                self.post(id, watcher);
            }
            Command::Cancel(id, reply) => {
                let _ = reply.send(self.cancel(id));
            }
            Command::Forget(id) => {
                self.board.send_modify(|board| drop(Arc::make_mut(board).remove(&id)));
            }
        }
    }

    fn enqueue(&mut self, request: JobRequest) -> watch::Receiver<Download> {
        let JobRequest { row, token, keep_source, bytes } = request;
        let mut first = queued_snapshot(&row);
        first.total_bytes = bytes as i64;
        let (reporter, watcher) = Reporter::new(first, self.context.hub.limits().stalled_after);
        let id = row.id;
        self.waiting.push_back(JobState {
            row,
            token,
            keep_source,
            reporter,
            cancel: CancellationToken::new(),
        });
        self.post(id, watcher.clone());
        self.update_positions();
        watcher
    }

    fn cancel(&mut self, id: i64) -> Option<watch::Receiver<Download>> {
        if let Some(place) = self.waiting.iter().position(|job| job.row.id == id) {
            let job = self.waiting.remove(place).expect("the position was just found");
            job.cancel.cancel();
            self.begin(job, false);
            self.update_positions();
        } else {
            self.active.get(&id)?.cancel.cancel();
        }
        self.board.borrow().get(&id).map(|entry| entry.watcher.clone())
    }

    fn fill_slots(&mut self) {
        while self.active.values().filter(|active| active.holds_slot).count()
            < self.context.max_concurrent_downloads
        {
            let Some(job) = self.waiting.pop_front() else { return };
            self.begin(job, true);
            self.update_positions();
        }
    }

    fn begin(&mut self, job: JobState, holds_slot: bool) {
        let (id, cancel) = (job.row.id, job.cancel.clone());
        self.active.insert(id, ActiveJob { cancel, since: Instant::now(), holds_slot });
        let context = Arc::clone(&self.context);
        self.running.spawn(async move {
            if AssertUnwindSafe(job::run(job, &context)).catch_unwind().await.is_err() {
                let error = ServiceError::internal(format!("the download of model {id} panicked"));
                // The row must not stay PENDING without a job.
                let _ = context.catalog.fail_with_retry(&context.shutdown, id, &error).await;
            }
            id
        });
    }

    fn ended(&mut self, ended: Result<i64, tokio::task::JoinError>) {
        match ended {
            Ok(id) => drop(self.active.remove(&id)),
            Err(error) => tracing::error!(%error, "a download's task was lost"),
        }
    }

    /// Writes positions and estimated starts into the snapshots of the waiting downloads.
    fn update_positions(&self) {
        let board = self.board.borrow().clone();
        let snapshot = |id: i64| board.get(&id).map(|entry| entry.watcher.borrow().clone());
        let running = self.active.iter().filter(|(_, active)| active.holds_slot);
        let left: Vec<_> = running
            .map(|(id, active)| self.last_speed.seconds_left(&snapshot(*id)?, active.since.elapsed()))
            .collect();
        let needed: Vec<_> =
            self.waiting.iter().map(|job| self.last_speed.seconds_for(&snapshot(job.row.id)?)).collect();
        let waits = waits(left, &needed, self.context.max_concurrent_downloads);
        let now = SystemTime::now();
        for ((position, job), wait) in (1..).zip(&self.waiting).zip(waits) {
            job.reporter.waiting(position, wait.map(|wait| now + wait));
        }
    }

    fn post(&mut self, id: i64, watcher: watch::Receiver<Download>) {
        self.runs += 1;
        let run = self.runs;
        self.board.send_modify(|board| {
            let board = Arc::make_mut(board);
            board.insert(id, BoardEntry { run, watcher });
            let ended = |entry: &BoardEntry| is_final(entry.watcher.borrow().state());
            let mut old: Vec<_> =
                board.iter().filter(|(_, entry)| ended(entry)).map(|(id, entry)| (entry.run, *id)).collect();
            old.sort_unstable();
            for (_, id) in old.iter().take(old.len().saturating_sub(ENDED_KEPT)) {
                board.remove(id);
            }
        });
    }
}
