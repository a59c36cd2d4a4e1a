//! The files of finished jobs: parts of them as they are, and activations read from their arrays.

use std::path::PathBuf;

use async_stream::try_stream;
use futures::Stream;
use millm_extraction::{Array, ArrayFile, DataType, Metadata, PlanReader, Positions};
use millm_kit::{ServiceError, format::excerpt};
use millm_proto::inspection::v1::{ActivationChunk, FileChunk};
use tokio::{
    io::{AsyncReadExt as _, AsyncSeekExt as _},
    sync::mpsc,
};
use tonic::Status;

use super::{activations::wire_type, job::JobState, jobs::Job};
use crate::error;

/// Bytes of one message of a file.
const CHUNK_BYTES: usize = 512 << 10;
/// Bytes of activations that are read from a file at once.
const READ_BYTES: u64 = 1 << 20;
/// Chunks of activations that wait to be sent.
const MAX_WAITING: usize = 8;

/// Returns the part of a job's file. Only files that the finished job lists can be read.
///
/// # Errors
///
/// INVALID_ARGUMENT for a file that is not the job's, or a part beyond its end; NOT_FOUND for a file that is gone.
pub(super) async fn read_file(
    job: &Job,
    file: &str,
    offset: u64,
    length: u64,
) -> Result<impl Stream<Item = Result<FileChunk, Status>> + Send + use<>, ServiceError> {
    let record = job.record();
    let Some(listed) = record.files.iter().find(|listed| listed.name == file) else {
        let why = match record.state {
            JobState::Succeeded => format!("'{}' is not one of the extraction's files", excerpt(file)),
            _ => "cannot be read before the extraction has succeeded".to_owned(),
        };
        return Err(ServiceError::invalid_argument("file", why));
    };
    let size = listed.size_bytes;
    let left = size.checked_sub(offset).ok_or_else(|| {
        ServiceError::invalid_argument("offset", format!("is {offset}, and the file has {size} bytes"))
    })?;
    if length > left {
        let why = format!("is {length}, and {left} bytes follow the offset");
        return Err(ServiceError::invalid_argument("length", why));
    }
    let length = if length == 0 { left } else { length };
    let path = job.folder.join(&listed.name);
    let missing = |error: std::io::Error| {
        tracing::warn!(path = %path.display(), "cannot read: {error}");
        ServiceError::not_found(format!("file '{}' of extraction '{}'", excerpt(file), job.id()))
    };
    let mut opened = tokio::fs::File::open(&path).await.map_err(missing)?;
    opened.seek(std::io::SeekFrom::Start(offset)).await.map_err(missing)?;
    let name = listed.name.clone();
    Ok(try_stream! {
        let mut left = length;
        let mut size_bytes = size;
        loop {
            let mut data = vec![0; left.min(CHUNK_BYTES as u64) as usize];
            let read = opened.read_exact(&mut data).await;
            read.map_err(|error| ServiceError::extraction_failed(format!("{name}: {error}")))?;
            left -= data.len() as u64;
            yield FileChunk { size_bytes, data };
            size_bytes = 0;
            if left == 0 {
                break;
            }
        }
    })
}

/// The activations of a finished job that are asked for.
pub(super) struct JobActivations {
    folder: PathBuf,
    metadata: Metadata,
    arrays: Vec<Array>,
    /// The type of the answer; `None` is that of the arrays.
    dtype: Option<DataType>,
}

impl JobActivations {
    /// Finds the arrays of points; of no points all arrays. Blocks.
    ///
    /// # Errors
    ///
    /// INVALID_ARGUMENT for a job that has not succeeded, or HOOK_POINT_UNKNOWN for a point that it does not have.
    pub fn open(job: &Job, points: &[String], dtype: Option<DataType>) -> Result<Self, ServiceError> {
        let record = job.record();
        if record.state != JobState::Succeeded {
            let why = "names an extraction that has not succeeded: resume it first";
            return Err(ServiceError::invalid_argument("extraction", why));
        }
        let metadata = Metadata::load(&job.folder).map_err(error::from_extraction)?;
        let wanted = |array: &Array, name: &String| {
            array.point == *name || array.transformer_lens.as_ref() == Some(name)
        };
        if let Some(unknown) =
            points.iter().find(|name| !metadata.arrays.iter().any(|array| wanted(array, name)))
        {
            let why = "the extraction does not have it";
            let some: Vec<&str> = metadata.arrays.iter().take(4).map(|array| array.point.as_str()).collect();
            return Err(ServiceError::hook_point_unknown(
                unknown,
                &record.model_handle,
                why,
                &some.join(", "),
            ));
        }
        let is_wanted = |array: &&Array| points.is_empty() || points.iter().any(|name| wanted(array, name));
        let arrays = metadata.arrays.iter().filter(is_wanted).cloned().collect();
        Ok(Self { folder: job.folder.clone(), metadata, arrays, dtype })
    }

    /// Returns the chunks: array by array, sample by sample. Reads on a blocking thread as fast as they are taken.
    pub fn chunks(self) -> mpsc::Receiver<Result<ActivationChunk, Status>> {
        let (sender, receiver) = mpsc::channel(MAX_WAITING);
        tokio::task::spawn_blocking(move || {
            let result = self.read(&mut |chunk| sender.blocking_send(Ok(chunk)).is_ok());
            if let Err(error) = result {
                // Fails when nobody reads any more.
                let _ = sender.blocking_send(Err(error.into()));
            }
        });
        receiver
    }

    fn read(&self, send: &mut dyn FnMut(ActivationChunk) -> bool) -> Result<(), ServiceError> {
        let positions: Positions =
            self.metadata.facts.settings.positions.parse().map_err(error::from_extraction)?;
        let reader =
            PlanReader::open(&self.folder, &self.metadata.token_plan()).map_err(error::from_extraction)?;
        for array in &self.arrays {
            let file = ArrayFile::open(&self.folder.join(&array.file), &array.header())
                .map_err(error::from_extraction)?;
            for sample in 0..self.metadata.samples {
                let tokens = reader.read(sample..sample + 1).map_err(error::from_extraction)?;
                let Some(tokens) = tokens.into_iter().next() else { continue };
                if !self.read_sample(array, &file, &Sample { sample, tokens, positions: &positions }, send)? {
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// Sends the real positions of one sample. Returns whether to go on.
    fn read_sample(
        &self,
        array: &Array,
        file: &ArrayFile,
        sample: &Sample<'_>,
        send: &mut dyn FnMut(ActivationChunk) -> bool,
    ) -> Result<bool, ServiceError> {
        let width: u64 = array.shape.iter().skip(2).product();
        let columns = array.shape.get(1).copied().unwrap_or(1);
        let token_bytes = width * array.dtype.bytes() as u64;
        let most = (READ_BYTES / token_bytes.max(1)).max(1) as usize;
        for run in sample.runs(most) {
            let mut bytes = vec![0; run.count * token_bytes as usize];
            let first = (sample.sample * columns + run.column as u64) * width;
            file.read(first, &mut bytes).map_err(error::from_extraction)?;
            let dtype = self.dtype.unwrap_or(array.dtype);
            if dtype != array.dtype {
                let mut numbers = Vec::new();
                array.dtype.decode(&bytes, &mut numbers);
                bytes.clear();
                dtype.encode(&numbers, &mut bytes);
            }
            let shape = std::iter::once(run.count as u64).chain(array.shape.iter().skip(2).copied());
            let chunk = ActivationChunk {
                point: array.point.clone(),
                sample: self.metadata.shard.global(sample.sample),
                position: run.position as u32,
                shape: shape.collect(),
                dtype: wire_type(dtype).into(),
                data: bytes,
                token_ids: sample.tokens[run.position..run.position + run.count].to_vec(),
            };
            if !send(chunk) {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

/// A sample of a job, and the positions that its arrays have.
struct Sample<'a> {
    sample: u64,
    tokens: Vec<u32>,
    positions: &'a Positions,
}

/// Tokens at consecutive positions and in consecutive columns.
struct Run {
    column: usize,
    position: usize,
    count: usize,
}

impl Sample<'_> {
    /// Returns the real positions, in runs of at most `most` tokens.
    fn runs(&self, most: usize) -> Vec<Run> {
        let mut runs: Vec<Run> = Vec::new();
        for (column, position) in self.positions.of(self.tokens.len()).into_iter().enumerate() {
            let Some(position) = position else { continue };
            match runs.last_mut() {
                Some(run)
                    if run.count < most
                        && run.column + run.count == column
                        && run.position + run.count == position =>
                {
                    run.count += 1;
                }
                _ => runs.push(Run { column, position, count: 1 }),
            }
        }
        runs
    }
}
