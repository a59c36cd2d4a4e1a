//! The queue: which downloads run, which wait and in what order. One task owns it all; others send commands and
//! watch the board.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    panic::AssertUnwindSafe,
    sync::Arc,
    time::{Duration, SystemTime},
};

use futures::FutureExt as _;
use millm_kit::{Secret, ServiceError, view::quantization as name_of};
use millm_proto::{
    catalog::v1::Model,
    downloader::v1::{Download, download::State},
};
use tokio::{
    sync::{mpsc, oneshot, watch},
    task::JoinSet,
    time::Instant,
};
use tokio_util::sync::CancellationToken;

use crate::{
    context::Context,
    estimate::{Pace, starts},
    job::Job,
    progress::{Reporter, is_final},
    reconcile::reconcile,
};

/// How often it is estimated when those who wait will begin.
const ESTIMATE_PAUSE: Duration = Duration::from_secs(1);
/// Ended downloads that stay listed.
const ENDED_KEPT: usize = 200;
/// How long a caller waits for the queue: it is busy only while the Catalog is away at the start.
const PATIENCE: Duration = Duration::from_secs(10);

/// Every download known, by model id.
pub type Board = Arc<BTreeMap<i64, Entry>>;

#[derive(Debug, Clone)]
pub struct Entry {
    /// Another number for each attempt at a model.
    pub run: u64,
    pub watcher: watch::Receiver<Download>,
}

/// What a row needs to become a job.
#[derive(Debug)]
pub struct Order {
    pub row: Model,
    pub token: Option<Secret>,
    pub keep_source: bool,
    /// To be fetched; 0 while unknown.
    pub bytes: u64,
}

#[derive(Debug)]
enum Command {
    Submit(Box<Order>, oneshot::Sender<Result<watch::Receiver<Download>, ServiceError>>),
    /// Something that was done at once.
    Record(Box<Download>),
    Cancel(i64, oneshot::Sender<Option<watch::Receiver<Download>>>),
    Forget(i64),
}

/// The others' end of it.
#[derive(Debug, Clone)]
pub struct Queue {
    commands: mpsc::Sender<Command>,
    board: watch::Receiver<Board>,
    ready: watch::Receiver<bool>,
}

impl Queue {
    /// What was left by the last run comes first.
    pub fn start(context: &Arc<Context>) -> Self {
        let (commands, inbox) = mpsc::channel(64);
        let (board_out, board) = watch::channel(Board::default());
        let (ready_out, ready) = watch::channel(false);
        let owner = Owner {
            context: Arc::clone(context),
            board: board_out,
            waiting: VecDeque::new(),
            active: HashMap::new(),
            running: JoinSet::new(),
            runs: 0,
            pace: Pace::default(),
        };
        context.tasks.spawn(owner.run(inbox, ready_out));
        Self { commands, board, ready }
    }

    pub fn board(&self) -> watch::Receiver<Board> {
        self.board.clone()
    }

    pub fn watcher(&self, id: i64) -> Option<watch::Receiver<Download>> {
        self.board.borrow().get(&id).map(|entry| entry.watcher.clone())
    }

    /// Until what the last run left is known, nothing new is begun.
    pub async fn wait_ready(&self) -> Result<(), ServiceError> {
        let mut ready = self.ready.clone();
        let waited = tokio::time::timeout(PATIENCE, ready.wait_for(|ready| *ready)).await;
        match waited {
            Ok(Ok(_)) => Ok(()),
            _ => Err(ServiceError::service_unavailable("catalog")),
        }
    }

    /// MODEL_ALREADY_EXISTS when it is on its way already.
    pub async fn submit(&self, order: Order) -> Result<watch::Receiver<Download>, ServiceError> {
        let (reply, answer) = oneshot::channel();
        self.send(Command::Submit(Box::new(order), reply)).await?;
        answer.await.map_err(|_| gone())?
    }

    pub async fn record(&self, download: Download) -> Result<(), ServiceError> {
        self.send(Command::Record(Box::new(download))).await
    }

    /// Answers when the download has stopped and nothing of it is left; `None` when none was under way.
    pub async fn cancel(&self, id: i64) -> Result<Option<Download>, ServiceError> {
        let (reply, answer) = oneshot::channel();
        self.send(Command::Cancel(id, reply)).await?;
        let Some(mut watcher) = answer.await.map_err(|_| gone())? else { return Ok(None) };
        let ended =
            tokio::time::timeout(PATIENCE, watcher.wait_for(|download| is_final(download.state()))).await;
        match ended {
            Ok(Ok(download)) => Ok(Some(download.clone())),
            Ok(Err(_)) => Err(gone()),
            // It has stopped and its files are gone; only its row waits for the Catalog.
            Err(_) => Err(ServiceError::service_unavailable("catalog")),
        }
    }

    /// Takes an ended download off the board.
    pub async fn forget(&self, id: i64) -> Result<(), ServiceError> {
        self.send(Command::Forget(id)).await
    }

    async fn send(&self, command: Command) -> Result<(), ServiceError> {
        self.wait_ready().await?;
        self.commands.send(command).await.map_err(|_| gone())
    }
}

/// The process is ending.
fn gone() -> ServiceError {
    ServiceError::service_unavailable("downloader")
}

struct Owner {
    context: Arc<Context>,
    board: watch::Sender<Board>,
    waiting: VecDeque<Job>,
    /// Those that run, by model id.
    active: HashMap<i64, Active>,
    running: JoinSet<i64>,
    runs: u64,
    pace: Pace,
}

struct Active {
    stop: CancellationToken,
    since: Instant,
    /// One that is only being cleared takes nobody's place.
    holds_slot: bool,
}

impl Owner {
    async fn run(mut self, mut inbox: mpsc::Receiver<Command>, ready: watch::Sender<bool>) {
        let stopping = self.context.stopping.clone();
        let Some(left) = reconcile(&self.context).await else { return };
        for order in left {
            self.enqueue(order);
        }
        ready.send_replace(true);
        let mut ticks = tokio::time::interval(ESTIMATE_PAUSE);
        loop {
            self.fill_slots();
            tokio::select! {
                () = stopping.cancelled() => break,
                Some(command) = inbox.recv() => self.obey(command),
                Some(ended) = self.running.join_next() => self.ended(ended),
                _ = ticks.tick(), if !self.waiting.is_empty() => self.renumber(),
            }
        }
        // Jobs see the same token and suspend themselves.
        self.waiting.clear();
        while self.running.join_next().await.is_some() {}
    }

    fn obey(&mut self, command: Command) {
        match command {
            Command::Submit(order, reply) => {
                let id = order.row.id;
                let known = self.active.contains_key(&id) || self.waiting.iter().any(|job| job.row.id == id);
                let answer = if known {
                    let name = name_of(order.row.requested_quantization());
                    Err(ServiceError::model_already_exists(id, &order.row.handle, name))
                } else {
                    Ok(self.enqueue(*order))
                };
                // That the caller has left changes nothing.
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

    fn enqueue(&mut self, order: Order) -> watch::Receiver<Download> {
        let Order { row, token, keep_source, bytes } = order;
        let mut first = first_snapshot(&row);
        first.total_bytes = bytes as i64;
        let (reporter, watcher) = Reporter::new(first, self.context.hub.policy().stalled_after);
        let id = row.id;
        self.waiting.push_back(Job { row, token, keep_source, reporter, stop: CancellationToken::new() });
        self.post(id, watcher.clone());
        self.renumber();
        watcher
    }

    fn cancel(&mut self, id: i64) -> Option<watch::Receiver<Download>> {
        if let Some(place) = self.waiting.iter().position(|job| job.row.id == id) {
            let job = self.waiting.remove(place).expect("the position was just found");
            job.stop.cancel();
            self.begin(job, false);
            self.renumber();
        } else {
            self.active.get(&id)?.stop.cancel();
        }
        self.board.borrow().get(&id).map(|entry| entry.watcher.clone())
    }

    fn fill_slots(&mut self) {
        while self.active.values().filter(|active| active.holds_slot).count() < self.context.downloads_at_once
        {
            let Some(job) = self.waiting.pop_front() else { return };
            self.begin(job, true);
            self.renumber();
        }
    }

    fn begin(&mut self, job: Job, holds_slot: bool) {
        let (id, stop) = (job.row.id, job.stop.clone());
        self.active.insert(id, Active { stop, since: Instant::now(), holds_slot });
        let context = Arc::clone(&self.context);
        self.running.spawn(async move {
            if AssertUnwindSafe(job.run(&context)).catch_unwind().await.is_err() {
                let error = ServiceError::internal(format!("the download of model {id} panicked"));
                // The row must not wait for a job that is no more.
                let _ = context.registry.fail_when_back(&context.stopping, id, &error).await;
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

    fn renumber(&self) {
        let board = self.board.borrow().clone();
        let snapshot = |id: i64| board.get(&id).map(|entry| entry.watcher.borrow().clone());
        let running = self.active.iter().filter(|(_, active)| active.holds_slot);
        let left: Vec<_> = running
            .map(|(id, active)| self.pace.seconds_left(&snapshot(*id)?, active.since.elapsed()))
            .collect();
        let needed: Vec<_> =
            self.waiting.iter().map(|job| self.pace.seconds_for(&snapshot(job.row.id)?)).collect();
        let starts = starts(left, &needed, self.context.downloads_at_once);
        let now = SystemTime::now();
        for ((place, job), start) in (1..).zip(&self.waiting).zip(starts) {
            job.reporter.waiting(place, start.map(|seconds| now + seconds));
        }
    }

    fn post(&mut self, id: i64, watcher: watch::Receiver<Download>) {
        self.runs += 1;
        let run = self.runs;
        self.board.send_modify(|board| {
            let board = Arc::make_mut(board);
            board.insert(id, Entry { run, watcher });
            let ended = |entry: &Entry| is_final(entry.watcher.borrow().state());
            let mut old: Vec<_> =
                board.iter().filter(|(_, entry)| ended(entry)).map(|(id, entry)| (entry.run, *id)).collect();
            old.sort_unstable();
            for (_, id) in old.iter().take(old.len().saturating_sub(ENDED_KEPT)) {
                board.remove(id);
            }
        });
    }
}

/// Of a row whose work has not begun.
pub fn first_snapshot(row: &Model) -> Download {
    let mut download = Download {
        name: format!("downloads/{}", row.id),
        model_id: row.id,
        handle: row.handle.clone(),
        repo_id: row.repo_id.clone(),
        start_time: Some(SystemTime::now().into()),
        ..Download::default()
    };
    download.set_quantization(row.requested_quantization());
    download.set_state(State::Queued);
    download
}
