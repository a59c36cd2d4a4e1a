//! The writer: one thread that writes activations into arrays, makes their statistics, and notes finished batches in the
//! journal.

use std::{
    path::Path,
    sync::Arc,
    thread::JoinHandle,
    time::{Duration, Instant},
};

use millm_model::hooks::HookPoint;

use crate::{
    capture::{BatchRows, BatchSink, Captured, Delivery, Message, Shared},
    checkpoint::{Checkpoint, Done},
    error::{Error, Result},
    layout::{Layout, Point},
    npy::{ArrayFile, Disk, RealDisk},
    statistics::{PointStatistics, TokenPlace},
};

/// Numbers that are encoded and written at once.
const PIECE_NUMBERS: u64 = 1 << 18;

/// How a writer works.
#[derive(Debug, Clone)]
pub struct WriterOptions {
    /// Writes to the files.
    pub disk: Arc<dyn Disk>,
    /// The most bytes of activations that wait to be written.
    pub queue_bytes: usize,
    /// The time after which everything written is synced to the disk.
    pub sync_interval: Duration,
}

impl Default for WriterOptions {
    fn default() -> Self {
        Self { disk: Arc::new(RealDisk), queue_bytes: 64 << 20, sync_interval: Duration::from_secs(60) }
    }
}

/// Writes the activations of a job. Batches are captured one after the other, in the samples' order.
#[derive(Debug)]
pub struct Writer {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<Checkpoint>>,
}

impl Writer {
    /// Opens a job's arrays and its journal in `folder`, and starts the thread. Samples that the journal has stay.
    ///
    /// # Errors
    /// [`Error::Setting`] or [`Error::TooLarge`] for a layout that cannot be written; [`Error::Damaged`] where the folder has
    /// other arrays; [`Error::DiskFull`] or [`Error::Io`].
    pub fn open(folder: &Path, layout: Layout, options: &WriterOptions) -> Result<Self> {
        layout.check()?;
        let checkpoint = Checkpoint::open(folder, &layout, Arc::clone(&options.disk))?;
        let done = checkpoint.done();
        if done.samples > layout.samples {
            let why = format!("it has {} samples of {}", done.samples, layout.samples);
            return Err(Error::damaged(&folder.join(crate::checkpoint::JOURNAL), why));
        }
        let open = |point: &Point| {
            let (path, header) = (folder.join(point.file_name()), layout.header(point));
            let disk = Arc::clone(&options.disk);
            if done.samples == 0 {
                ArrayFile::create(&path, &header, disk)
            } else {
                ArrayFile::resume(&path, &header, disk)
            }
        };
        // Complete arrays may have their final names already, and are not written any more.
        let is_complete = done.samples == layout.samples && done.samples > 0;
        let arrays = if is_complete {
            Vec::new()
        } else {
            layout.points.iter().map(open).collect::<Result<Vec<_>>>()?
        };
        let shared = Arc::new(Shared::new(layout, options.queue_bytes, done));
        let worker = Worker {
            shared: Arc::clone(&shared),
            arrays,
            checkpoint,
            batch: None,
            bytes: Vec::new(),
            numbers: Vec::new(),
            synced: Instant::now(),
            sync_interval: options.sync_interval,
        };
        let thread = std::thread::Builder::new().name("millm-extract".to_owned());
        let guard = PanicGuard(Arc::clone(&shared));
        let run = move || {
            let _guard = guard;
            worker.run()
        };
        let thread = thread.spawn(run).map_err(Error::Thread)?;
        Ok(Self { shared, thread: Some(thread) })
    }

    /// Returns what is in the arrays and noted in the journal.
    pub fn done(&self) -> Done {
        self.shared.done()
    }

    /// Returns whether writing has failed: [`Writer::finish`] says why.
    pub fn has_failed(&self) -> bool {
        self.shared.has_failed()
    }

    /// Returns the sink for the next batch, whose samples follow those of the batches before. `is_cancelled` is asked
    /// often, and `captured` is called when the engine has ended the batch.
    ///
    /// `first` is the first sample's index within the job. `tokens` are those of each sample.
    pub fn batch(
        &self,
        first: u64,
        tokens: Vec<Vec<u32>>,
        is_cancelled: impl Fn() -> bool + Send + 'static,
        captured: Captured,
    ) -> BatchSink {
        let batch = BatchRows { first, tokens };
        BatchSink::new(Arc::clone(&self.shared), batch, Box::new(is_cancelled), captured)
    }

    /// Waits until everything captured is written, and returns the journal.
    ///
    /// # Errors
    /// The first error of the thread: [`Error::DiskFull`], [`Error::Io`], or [`Error::Damaged`] for a batch with missing
    /// rows. What the journal notes stays valid.
    pub fn finish(mut self) -> Result<Checkpoint> {
        let checkpoint = self.close();
        if let Some(error) = self.shared.take_error() {
            return Err(error);
        }
        checkpoint.ok_or_else(|| {
            let why = "the writer's thread ended early".to_owned();
            Error::Damaged { file: crate::checkpoint::JOURNAL.to_owned(), why }
        })
    }

    fn close(&mut self) -> Option<Checkpoint> {
        let thread = self.thread.take()?;
        self.shared.queue.push(Message::Close);
        thread.join().ok()
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.close();
    }
}

/// Marks the writer as failed when its thread panics: nothing must wait for it then.
struct PanicGuard(Arc<Shared>);

impl Drop for PanicGuard {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let why = "the writer's thread panicked".to_owned();
            self.0.fail(Error::Damaged { file: crate::checkpoint::JOURNAL.to_owned(), why });
        }
    }
}

/// The thread's state.
struct Worker {
    shared: Arc<Shared>,
    arrays: Vec<ArrayFile>,
    checkpoint: Checkpoint,
    /// The batch whose activations come now.
    batch: Option<OpenBatch>,
    /// Memory for encoded rows.
    bytes: Vec<u8>,
    /// Memory for the rows of attention.
    numbers: Vec<f32>,
    synced: Instant,
    sync_interval: Duration,
}

struct OpenBatch {
    rows: Arc<BatchRows>,
    statistics: Vec<PointStatistics>,
    /// Tokens that came, of each point.
    received: Vec<u64>,
}

impl Worker {
    fn run(mut self) -> Checkpoint {
        loop {
            let message = self.shared.queue.pop();
            if let Message::Close = message {
                return self.checkpoint;
            }
            let result = match message {
                Message::Rows(delivery) => {
                    let written = self.write(&delivery);
                    self.shared.queue.release(delivery.values);
                    written
                }
                Message::Begin(rows) => {
                    self.begin(rows);
                    Ok(())
                }
                Message::Commit => self.commit(),
                Message::Abort | Message::Close => {
                    self.batch = None;
                    Ok(())
                }
            };
            if let Err(error) = result {
                self.batch = None;
                self.shared.fail(error);
            }
        }
    }

    fn begin(&mut self, rows: Arc<BatchRows>) {
        if self.shared.has_failed() {
            return;
        }
        let points = &self.shared.layout.points;
        let statistics = points.iter().map(|point| PointStatistics::new(point.dimensions())).collect();
        self.batch = Some(OpenBatch { rows, statistics, received: vec![0; points.len()] });
    }

    /// Writes a delivery, in pieces so that little further memory is needed. Without an open batch, after an error, it is
    /// dropped.
    fn write(&mut self, delivery: &Delivery) -> Result<()> {
        let layout = &self.shared.layout;
        let point = &layout.points[delivery.point];
        let heads = if point.is_attention() { point.dimensions() } else { 1 };
        let row_numbers = (heads * delivery.width).max(1);
        let token_elements = point.token_elements(layout.sequence_length).max(1);
        let piece_rows = (PIECE_NUMBERS / token_elements).max(1) as usize;
        let shared = Arc::clone(&self.shared);
        for (index, values) in delivery.values.chunks(row_numbers * piece_rows).enumerate() {
            let position = delivery.position + index * piece_rows;
            let piece = Piece { position, row_numbers, token_elements, values };
            self.write_piece(&shared.layout, delivery, &piece)?;
        }
        Ok(())
    }

    fn write_piece(&mut self, layout: &Layout, delivery: &Delivery, piece: &Piece<'_>) -> Result<()> {
        let Self { arrays, batch: Some(batch), bytes, numbers, .. } = self else { return Ok(()) };
        let Some(array) = arrays.get(delivery.point) else { return Ok(()) };
        let point = &layout.points[delivery.point];
        let statistics = &mut batch.statistics[delivery.point];
        let tokens = &batch.rows.tokens[delivery.sample];
        let sample = batch.rows.first + delivery.sample as u64;
        let place = |offset: usize| TokenPlace {
            sample: layout.shard.global(sample),
            position: (piece.position + offset) as u32,
            token: tokens[piece.position + offset],
        };
        let rows = piece.values.chunks(piece.row_numbers);
        batch.received[delivery.point] += rows.len() as u64;
        bytes.clear();
        if point.is_attention() {
            for (offset, row) in rows.enumerate() {
                let present = piece.position + offset + 1;
                let keys = Keys { present, sample: tokens.len(), all: layout.sequence_length };
                numbers.clear();
                row.chunks(delivery.width).for_each(|head| numbers.extend_from_slice(&head[..present]));
                statistics.add_attention(numbers, present, place(offset));
                numbers.clear();
                row.chunks(delivery.width).for_each(|head| keys.fill(point, head, numbers));
                layout.dtype.encode(numbers, bytes);
            }
        } else {
            statistics.add(piece.values, place);
            layout.dtype.encode(piece.values, bytes);
        }
        let columns = layout.columns() as u64;
        let mut written = Ok(());
        // Rows of several tokens are only sent where all positions are kept, and then they are one piece of the array.
        layout.positions.for_each_column(piece.position, tokens.len(), |column| {
            if written.is_ok() {
                written = array.write((sample * columns + column as u64) * piece.token_elements, bytes);
            }
        });
        written
    }

    /// Notes the batch, if all its activations have come.
    fn commit(&mut self) -> Result<()> {
        let Some(mut batch) = self.batch.take() else { return Ok(()) };
        let layout = &self.shared.layout;
        let kept = |tokens: &Vec<u32>| {
            (0..tokens.len()).filter(|position| layout.positions.keep(*position, tokens.len())).count() as u64
        };
        let expected: u64 = batch.rows.tokens.iter().map(kept).sum();
        if let Some(index) = batch.received.iter().position(|received| *received != expected) {
            let (file, received) = (layout.points[index].file_name(), batch.received[index]);
            let why = format!("{received} tokens of a batch came, and {expected} were asked for");
            return Err(Error::Damaged { file, why });
        }
        let first = self.checkpoint.done().samples;
        if batch.rows.first != first {
            let why = format!("sample {} follows {first}", batch.rows.first);
            return Err(Error::Damaged { file: crate::checkpoint::JOURNAL.to_owned(), why });
        }
        let tokens = batch.rows.tokens.iter().map(|tokens| tokens.len() as u64).sum();
        let done = Done { samples: batch.rows.tokens.len() as u64, tokens };
        self.checkpoint.batch(done, &mut batch.statistics)?;
        self.shared.set_done(self.checkpoint.done());
        if self.synced.elapsed() >= self.sync_interval {
            self.arrays.iter().try_for_each(ArrayFile::sync)?;
            self.checkpoint.synced()?;
            self.synced = Instant::now();
        }
        Ok(())
    }
}

/// Some rows of a delivery.
struct Piece<'a> {
    /// Of the first token.
    position: usize,
    /// Numbers of a row as it came.
    row_numbers: usize,
    /// Numbers of a row as the array has it.
    token_elements: u64,
    values: &'a [f32],
}

/// The keys of one row of attention.
#[derive(Debug, Clone, Copy)]
struct Keys {
    /// Up to the token itself.
    present: usize,
    /// Tokens of the sample.
    sample: usize,
    /// Tokens of the array's rows.
    all: usize,
}

impl Keys {
    /// Appends a head's row as the array has it: masked after the token, and zeros after the sample. What the engine
    /// computed beyond the token depends on how it cut the sample, and is left out.
    fn fill(self, point: &Point, head: &[f32], out: &mut Vec<f32>) {
        let start = out.len();
        let masked = if point.hook.point == HookPoint::AttnScores { f32::NEG_INFINITY } else { 0.0 };
        out.extend_from_slice(&head[..self.present]);
        out.resize(start + self.sample, masked);
        out.resize(start + self.all, 0.0);
    }
}
