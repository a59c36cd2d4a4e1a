//! Joins the folders of an extraction's shards into one: arrays, tokens, mask, samples and statistics are those of one
//! job that took all samples, to the byte.

use std::{
    fs::{self, File},
    io::{BufRead as _, BufReader, BufWriter, Write as _},
    path::{Path, PathBuf},
    sync::Arc,
};

use millm_model::hooks::{Hook, HookName};

use crate::{
    error::{At as _, Error, Result},
    finish::{Sums, describe},
    layout::{Layout, Point},
    metadata::{Facts, METADATA, Metadata, RunFacts},
    npy::{ArrayFile, DataType, Header, RealDisk, complete, partial},
    plan::{MAX_SHARDS, Positions, Shard},
    plan_file::{MASK, POSITIONS, Plan, SAMPLES, TOKENS},
    statistics::PointStatistics,
};

/// The most bytes that are copied at once.
const PIECE_BYTES: u64 = 4 << 20;
/// The longest line of `samples.jsonl`.
const MAX_LINE_BYTES: usize = 64 << 20;

/// A complete folder.
struct Part {
    folder: PathBuf,
    metadata: Metadata,
}

/// Joins the shards in `folders`, in any order, into the folder `out`. `run` describes the merge itself; its `merged` is
/// filled in. `progress` receives the bytes of each piece that is copied or hashed, and returns whether to go on.
///
/// # Errors
/// [`Error::Shards`] where the folders are not all the shards of one extraction, or `out` has an extraction already;
/// [`Error::Damaged`], [`Error::Cancelled`], [`Error::DiskFull`] or [`Error::Io`].
pub fn merge(
    folders: &[PathBuf],
    out: &Path,
    run: RunFacts,
    progress: &mut dyn FnMut(u64) -> bool,
) -> Result<Metadata> {
    let parts = open(folders)?;
    if out.join(METADATA).exists() {
        let why = format!("{} has an extraction already", out.display());
        return Err(Error::Shards { why });
    }
    fs::create_dir_all(out).at(out)?;
    let first = &parts[0].metadata;
    let layout = layout(first)?;
    let tokens = parts.iter().map(|part| part.metadata.tokens).sum();
    let (samples, length) = (first.plan.samples, layout.sequence_length);
    let plan = Plan::of_complete(Shard::WHOLE, samples, tokens, length, first.plan);
    for array in &first.arrays {
        join(&parts, out, &array.file, &array.header(), samples, progress)?;
    }
    let sequence_length = first.sequence_length;
    let tokens = Header { dtype: DataType::I32, shape: vec![first.samples, sequence_length] };
    join(&parts, out, TOKENS, &tokens, samples, progress)?;
    join(&parts, out, MASK, &Header { dtype: DataType::Bool, ..tokens }, samples, progress)?;
    if layout.positions != Positions::All {
        let shape = vec![first.samples, layout.columns() as u64];
        let header = Header { dtype: DataType::I32, shape };
        join(&parts, out, POSITIONS, &header, samples, progress)?;
    }
    join_lines(&parts, out, samples)?;
    let statistics = statistics(&parts, &layout)?;
    let merged = parts.iter().map(|part| part.metadata.facts.run.id.clone()).collect();
    let facts = Facts { run: RunFacts { merged, ..run }, ..first.facts.clone() };
    describe(out, &plan, &layout, &statistics, facts, progress)
}

/// Opens all shards of one extraction, in their order.
fn open(folders: &[PathBuf]) -> Result<Vec<Part>> {
    let wrong = |why: String| Error::Shards { why };
    if folders.is_empty() || folders.len() > MAX_SHARDS as usize {
        return Err(wrong(format!("{} folders were given: 1 to {MAX_SHARDS} can be merged", folders.len())));
    }
    let mut parts = Vec::with_capacity(folders.len());
    for folder in folders {
        parts.push(Part { folder: folder.clone(), metadata: Metadata::load(folder)? });
    }
    parts.sort_by_key(|part| part.metadata.shard.index);
    let first = &parts[0];
    let count = first.metadata.shard.count;
    for (index, part) in parts.iter().enumerate() {
        let Shard { index: found, count: of } = part.metadata.shard;
        if (u64::from(found), of) != (index as u64, count) {
            let folder = part.folder.display();
            return Err(wrong(format!(
                "{folder} is shard {found} of {of} where shard {index} of {count} is expected"
            )));
        }
        if let Some(what) = difference(&first.metadata, &part.metadata) {
            let (folder, other) = (part.folder.display(), first.folder.display());
            return Err(wrong(format!(
                "{folder} and {other} are of different extractions: their {what} differ"
            )));
        }
        if part.metadata.samples != part.metadata.shard.share(part.metadata.plan.samples) {
            let (folder, samples) = (part.folder.display(), part.metadata.samples);
            return Err(wrong(format!("{folder} has {samples} samples, which is not its share")));
        }
    }
    if parts.len() != count as usize {
        return Err(wrong(format!("{} of {count} shards were given", parts.len())));
    }
    Ok(parts)
}

/// Returns in what two shards' extractions differ.
fn difference(one: &Metadata, other: &Metadata) -> Option<&'static str> {
    let arrays = |metadata: &Metadata| -> Vec<_> {
        let of = |array: &crate::metadata::Array| {
            (array.point.clone(), array.dtype, array.shape.iter().skip(1).copied().collect::<Vec<_>>())
        };
        metadata.arrays.iter().map(of).collect()
    };
    let (facts, others) = (&one.facts, &other.facts);
    let same = |same: bool, what| (!same).then_some(what);
    // The handles are names that people may have changed.
    let model = |facts: &Facts| crate::metadata::ModelFacts { handle: String::new(), ..facts.model.clone() };
    let dataset =
        |facts: &Facts| crate::metadata::DatasetFacts { handle: String::new(), ..facts.dataset.clone() };
    same(model(facts) == model(others), "models")
        .or_else(|| same(dataset(facts) == dataset(others), "datasets"))
        .or_else(|| same(facts.settings == others.settings, "settings"))
        .or_else(|| same(facts.engine.version == others.engine.version, "versions of the program"))
        .or_else(|| same(facts.engine.kernels == others.engine.kernels, "kernels"))
        .or_else(|| same(one.plan == other.plan, "plans"))
        .or_else(|| same(arrays(one) == arrays(other), "arrays"))
        .or_else(|| same(one.sequence_length == other.sequence_length, "lengths"))
}

/// Returns the layout of the merged folder.
fn layout(metadata: &Metadata) -> Result<Layout> {
    let damaged = |why: String| Error::Damaged { file: METADATA.to_owned(), why };
    let positions: Positions = metadata.facts.settings.positions.parse()?;
    let mut points = Vec::with_capacity(metadata.arrays.len());
    for array in &metadata.arrays {
        let name: HookName = array
            .point
            .parse()
            .map_err(|_| damaged(format!("'{}' is no hook point", crate::error::shown(&array.point))))?;
        let hook = Hook { point: name.point, layer: name.layer };
        let keys = hook.point.is_attention();
        let mut shape: Vec<usize> = array.shape.iter().skip(2).map(|size| *size as usize).collect();
        if keys && let Some(last) = shape.last_mut() {
            *last = 0;
        }
        points.push(Point { hook, shape });
    }
    let Some(dtype) = metadata.arrays.first().map(|array| array.dtype) else {
        return Err(damaged("it has no arrays".to_owned()));
    };
    let layout = Layout {
        points,
        samples: metadata.plan.samples,
        sequence_length: metadata.sequence_length as usize,
        positions,
        dtype,
        shard: Shard::WHOLE,
    };
    layout.check()?;
    for (point, array) in layout.points.iter().zip(&metadata.arrays) {
        let expected = layout.header(point);
        if point.file_name() != array.file || expected.shape[1..] != array.shape[1.min(array.shape.len())..] {
            return Err(damaged(format!(
                "{} has the shape {:?}",
                crate::error::shown(&array.file),
                array.shape
            )));
        }
    }
    Ok(layout)
}

/// Joins one array. `header` is that of the first shard's.
fn join(
    parts: &[Part],
    out: &Path,
    name: &str,
    header: &Header,
    samples: u64,
    progress: &mut dyn FnMut(u64) -> bool,
) -> Result<()> {
    let with_samples = |samples: u64| {
        let mut header = header.clone();
        header.shape[0] = samples;
        header
    };
    let mut sources = Vec::with_capacity(parts.len());
    for part in parts {
        sources.push(ArrayFile::open(&part.folder.join(name), &with_samples(part.metadata.samples))?);
    }
    let path = out.join(name);
    let merged = ArrayFile::create(&path, &with_samples(samples), Arc::new(RealDisk))?;
    let elements = header.shape[1..].iter().fold(1, |product: u64, size| product.saturating_mul(*size));
    let size = header.dtype.bytes() as u64;
    let per_piece = (PIECE_BYTES / size).max(1);
    let mut buffer = Vec::new();
    for sample in 0..samples {
        let source = &sources[(sample % parts.len() as u64) as usize];
        let (from, to) = (sample / parts.len() as u64 * elements, sample * elements);
        let mut done = 0;
        while done < elements {
            let count = per_piece.min(elements - done);
            buffer.resize((count * size) as usize, 0);
            source.read(from + done, &mut buffer)?;
            // Padding stays a hole.
            if buffer.iter().any(|byte| *byte != 0) {
                merged.write(to + done, &buffer)?;
            }
            done += count;
            if !progress(buffer.len() as u64) {
                return Err(Error::Cancelled);
            }
        }
    }
    drop(merged);
    complete(&path)
}

/// Joins the lines of `samples.jsonl`.
fn join_lines(parts: &[Part], out: &Path, samples: u64) -> Result<()> {
    let mut sources = Vec::with_capacity(parts.len());
    for part in parts {
        let path = part.folder.join(SAMPLES);
        sources.push((BufReader::new(File::open(&path).at(&path)?), path));
    }
    let path = out.join(SAMPLES);
    let mut merged = BufWriter::new(File::create(partial(&path)).at(&path)?);
    let mut line = Vec::new();
    for sample in 0..samples {
        let (source, from) = &mut sources[(sample % parts.len() as u64) as usize];
        line.clear();
        let mut bounded = std::io::Read::take(source, MAX_LINE_BYTES as u64);
        bounded.read_until(b'\n', &mut line).at(from)?;
        if line.last() != Some(&b'\n') {
            return Err(Error::damaged(from, format!("the line of sample {sample} is missing or too long")));
        }
        merged.write_all(&line).at(&path)?;
    }
    merged.flush().at(&path)?;
    drop(merged);
    complete(&path)
}

fn statistics(parts: &[Part], layout: &Layout) -> Result<Vec<PointStatistics>> {
    let mut merged: Vec<PointStatistics> =
        layout.points.iter().map(|point| PointStatistics::new(point.dimensions())).collect();
    for part in parts {
        let sums = Sums::load(&part.folder)?;
        let names = sums.points.iter().map(|(name, statistics)| (name.clone(), statistics.dimensions()));
        let expected = layout.points.iter().map(|point| (point.hook.name(), point.dimensions()));
        if !names.eq(expected) {
            let path = part.folder.join(crate::finish::SUMS);
            return Err(Error::damaged(&path, "it has other points than the arrays"));
        }
        for (sum, (_, more)) in merged.iter_mut().zip(&sums.points) {
            sum.merge(more);
        }
    }
    Ok(merged)
}
