//! An extraction over made-up texts, by an engine that makes activations up from tokens and positions.

use std::{
    collections::BTreeMap,
    fs,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc,
    },
};

use millm_engine::{CaptureError, CaptureRows, CaptureSink};
use millm_extraction::{
    ArrayFile, DataType, DatasetFacts, Disk, EngineFacts, Facts, Layout, Metadata, ModelFacts, Plan,
    PlanReader, PlanSettings, PlanWriter, Planner, Point, Positions, RealDisk, Result, RowLength, RunFacts,
    SettingsFacts, Shard, Writer, WriterOptions, finish,
};
use millm_model::hooks::{Hook, HookPoint};

/// What the tests vary.
#[derive(Debug, Clone)]
pub struct Job {
    pub texts: Vec<Vec<u32>>,
    pub points: Vec<Point>,
    pub plan: PlanSettings,
    pub positions: Positions,
    pub dtype: DataType,
    /// Samples of a batch.
    pub batch: u64,
    /// Rows of a delivery.
    pub chunk: usize,
    pub options: WriterOptions,
}

/// Returns a job over a few texts, with points of all kinds.
pub fn job() -> Job {
    let lengths = [5usize, 1, 8, 3, 0, 7, 2];
    let texts = lengths
        .iter()
        .enumerate()
        .map(|(row, length)| (0..*length).map(|position| (row * 31 + position * 7) as u32 % 100).collect());
    let point = |hook, shape: &[usize]| Point { hook, shape: shape.to_vec() };
    Job {
        texts: texts.collect(),
        points: vec![
            point(Hook::at(HookPoint::AttnScores, 0), &[2, 0]),
            point(Hook::at(HookPoint::AttnPattern, 0), &[2, 0]),
            point(Hook::at(HookPoint::HeadOutput, 1), &[2, 3]),
            point(Hook::at(HookPoint::ResidPost, 1), &[6]),
        ],
        plan: PlanSettings {
            length: RowLength::Exactly(6),
            pack: false,
            split: false,
            max_samples: None,
            shard: Shard::WHOLE,
        },
        positions: Positions::All,
        dtype: DataType::F32,
        batch: 2,
        chunk: 3,
        options: WriterOptions::default(),
    }
}

/// The made-up activation of a token.
pub fn value(hook: Hook, token: u32, position: usize, number: usize) -> f32 {
    let seed = (hook.point as u32).wrapping_mul(977) ^ hook.layer.unwrap_or(99) as u32;
    let mixed = (seed ^ token.wrapping_mul(2_654_435_761))
        .wrapping_add((position * 7919 + number * 104_729) as u32)
        .wrapping_mul(2_246_822_519);
    ((mixed >> 8) as f32 / (1u32 << 24) as f32 - 0.5) * 8.0
}

/// The made-up score or weight of a key.
pub fn attention(hook: Hook, tokens: &[u32], position: usize, head: usize, key: usize) -> f32 {
    value(hook, tokens[position], position, head * 1000 + key)
}

impl Job {
    /// Plans and writes everything, and finishes.
    pub fn run(&self, folder: &Path) -> Result<Metadata> {
        let (plan, layout) = self.plan(folder)?;
        let done = self.write(folder, &plan, &layout, u64::MAX)?;
        assert_eq!(done, layout.samples);
        self.finish(folder, &plan, &layout)
    }

    /// Makes the plan, or reads the one that there is.
    pub fn plan(&self, folder: &Path) -> Result<(Plan, Layout)> {
        let plan = if let Some(plan) = Plan::load(folder)? {
            plan
        } else {
            let mut planner = Planner::new(self.plan.clone())?;
            let mut writer = PlanWriter::create(folder)?;
            for (row, text) in self.texts.iter().enumerate() {
                planner.push(row as u64, text);
                while let Some(sample) = planner.next_sample() {
                    writer.write(&sample)?;
                }
            }
            planner.finish();
            while let Some(sample) = planner.next_sample() {
                writer.write(&sample)?;
            }
            writer.finish(&self.plan, &self.positions, planner.counts())?
        };
        let layout = Layout {
            points: self.points.clone(),
            samples: plan.samples,
            sequence_length: plan.sequence_length,
            positions: self.positions.clone(),
            dtype: self.dtype,
            shard: plan.shard,
        };
        Ok((plan, layout))
    }

    /// Writes at most `batches` further batches. Returns the samples that are done.
    pub fn write(&self, folder: &Path, plan: &Plan, layout: &Layout, batches: u64) -> Result<u64> {
        let reader = PlanReader::open(folder, plan)?;
        let writer = Writer::open(folder, layout.clone(), &self.options)?;
        let mut next = writer.done().samples;
        for _ in 0..batches {
            if next == layout.samples {
                break;
            }
            let end = (next + self.batch).min(layout.samples);
            let tokens = reader.read(next..end)?;
            let (captured, result) = mpsc::channel();
            let captured = Box::new(move |result| captured.send(result).unwrap());
            let sink = writer.batch(next, tokens.clone(), || false, captured);
            capture(Box::new(sink), &tokens, &self.points, self.chunk);
            if result.recv().unwrap() == Err(CaptureError::Cancelled) {
                break;
            }
            next = end;
        }
        Ok(writer.finish()?.done().samples)
    }

    /// Completes the folder.
    pub fn finish(&self, folder: &Path, plan: &Plan, layout: &Layout) -> Result<Metadata> {
        let checkpoint = Writer::open(folder, layout.clone(), &self.options)?.finish()?;
        finish(folder, plan, layout, &checkpoint, self.facts(), &mut |_| true)
    }

    fn facts(&self) -> Facts {
        let positions = match &self.positions {
            Positions::All => "all".to_owned(),
            Positions::At(indices) => indices.iter().map(i64::to_string).collect::<Vec<_>>().join(","),
        };
        Facts {
            model: ModelFacts { handle: "made-up".to_owned(), ..ModelFacts::default() },
            dataset: DatasetFacts::default(),
            settings: SettingsFacts { positions, dtype: Some(self.dtype), ..SettingsFacts::default() },
            engine: EngineFacts::default(),
            run: RunFacts { id: self.plan.shard.index.to_string(), ..RunFacts::default() },
        }
    }
}

/// Delivers the activations of a batch as the engine does: by point, in chunks that hold rows of several sequences.
pub fn capture(mut sink: Box<dyn CaptureSink>, tokens: &[Vec<u32>], points: &[Point], chunk: usize) {
    let mut places: Vec<(usize, usize)> = Vec::new();
    for (sequence, tokens) in tokens.iter().enumerate() {
        places.extend((0..tokens.len()).map(|position| (sequence, position)));
    }
    for places in places.chunks(chunk) {
        for point in points {
            if sink.closed() {
                sink.end(Err(CaptureError::Cancelled));
                return;
            }
            let rows = rows_of(places);
            if point.is_attention() {
                for rows in rows {
                    deliver_attention(&mut *sink, point, &tokens[rows.sequence], &rows);
                }
            } else {
                let width: usize = point.shape.iter().product();
                let state = |(sequence, position): &(usize, usize)| {
                    let token = tokens[*sequence][*position];
                    (0..width).map(|number| value(point.hook, token, *position, number)).collect::<Vec<_>>()
                };
                let states: Vec<f32> = places.iter().flat_map(state).collect();
                sink.receive(point.hook, &rows, width, &states);
            }
        }
    }
    sink.end(Ok(()));
}

fn deliver_attention(sink: &mut dyn CaptureSink, point: &Point, tokens: &[u32], rows: &CaptureRows) {
    let (heads, keys) = (point.shape[0], rows.position + rows.rows.len());
    let masked = if point.hook.point == HookPoint::AttnScores { f32::NEG_INFINITY } else { 0.0 };
    let mut values = Vec::new();
    for position in rows.position..keys {
        for head in 0..heads {
            let of_key = |key| {
                if key <= position { attention(point.hook, tokens, position, head, key) } else { masked }
            };
            values.extend((0..keys).map(of_key));
        }
    }
    sink.receive_attention(point.hook, rows, heads, keys, &values);
}

/// Joins consecutive places of one sequence.
fn rows_of(places: &[(usize, usize)]) -> Vec<CaptureRows> {
    let mut rows: Vec<CaptureRows> = Vec::new();
    for (row, (sequence, position)) in places.iter().enumerate() {
        match rows.last_mut() {
            Some(last) if last.sequence == *sequence => last.rows.end = row + 1,
            _ => rows.push(CaptureRows { sequence: *sequence, position: *position, rows: row..row + 1 }),
        }
    }
    rows
}

/// Returns the checksums of all files but the metadata, whose times differ.
pub fn checksums(metadata: &Metadata) -> BTreeMap<String, String> {
    metadata.all_files().map(|file| (file.name, file.sha256)).collect()
}

/// Copies the files of a folder.
pub fn copy(from: &Path, to: &Path) {
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}

/// Returns the numbers of an array.
pub fn numbers(folder: &Path, metadata: &Metadata, index: usize) -> Vec<f32> {
    let array = &metadata.arrays[index];
    let file = ArrayFile::open(&folder.join(&array.file), &array.header()).unwrap();
    let count: u64 = array.shape.iter().product();
    let mut bytes = vec![0; count as usize * array.dtype.bytes()];
    file.read(0, &mut bytes).unwrap();
    let mut numbers = Vec::new();
    array.dtype.decode(&bytes, &mut numbers);
    numbers
}

/// A disk that takes only so many bytes, and then is full.
#[derive(Debug)]
pub struct SmallDisk(AtomicU64);

impl Disk for SmallDisk {
    fn write_all_at(&self, file: &fs::File, bytes: &[u8], offset: u64) -> std::io::Result<()> {
        let size = bytes.len() as u64;
        let taken = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(size));
        if taken.is_ok() {
            return RealDisk.write_all_at(file, bytes, offset);
        }
        // A full disk takes a part.
        RealDisk.write_all_at(file, &bytes[..bytes.len() / 2], offset)?;
        Err(std::io::ErrorKind::StorageFull.into())
    }
}

/// Returns a disk that is full after so many bytes.
pub fn small_disk(bytes: u64) -> Arc<SmallDisk> {
    Arc::new(SmallDisk(AtomicU64::new(bytes)))
}
