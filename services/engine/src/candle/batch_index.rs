//! The index tensors of a batch, which all layers share: positions, the slots that keys and values go to, and which
//! keys each row attends to.

use std::ops::Range;

use candle_core::{Device, Tensor};
use millm_model::ModelSpec;

use crate::candle::kv_store::LayerKv;
use crate::error::Result;
use crate::forward::batch::{Batch, Segment};
use crate::forward::rope::Rope;
use crate::kv_cache::{BLOCK_SIZE, BlockPool, BlockTable};

/// The most scores, and the most numbers of keys or values, that attention works with at a time. It bounds
/// attention's memory for sequences of any length.
pub(super) const MAX_WORKING_SET: usize = 16 << 20;

/// Added to the scores of masked keys. It is finite: a row may see none of the keys of a piece, and its result must
/// then be a number, which the first visible key multiplies by 0.
const MASKED: f32 = -1e30;

/// Returns the bytes that attention needs at most, for `rows` rows that attend to `tokens` tokens of `segments`
/// sequences: scores before and after the mask and as weights, and keys and values in the cache's type and as f32.
pub(crate) fn attention_bytes(spec: &ModelSpec, rows: usize, segments: usize, tokens: usize) -> u64 {
    let scores = spec.heads.saturating_mul(rows).saturating_mul(tokens);
    let states = spec.kv_heads * spec.head_dim;
    let states = states.saturating_mul(segments).saturating_mul(tokens);
    (3 * 4 * scores.min(MAX_WORKING_SET) + 2 * (2 + 4) * states.min(MAX_WORKING_SET)) as u64
}

/// The index tensors of one batch.
pub(super) struct BatchIndex {
    /// The cache row that each key and value goes to, `[kv_heads, rows, head_dim]`.
    pub slots: Tensor,
    /// Cosines and sines, `[rows, 1, pairs]` each, of each of the spec's ropes.
    pub rotations: Vec<(Tensor, Tensor)>,
    /// One for each window size of the spec.
    views: Vec<View>,
}

/// The positions that the rows attend to, in layers of one window size.
pub(super) struct View {
    window: Option<usize>,
    pub groups: Vec<SegmentGroup>,
}

/// Neighbouring segments with equally many rows, computed together.
pub(super) struct SegmentGroup {
    pub segments: usize,
    /// The rows of each segment.
    pub rows: usize,
    /// Rows of the batch.
    pub range: Range<usize>,
    /// All keys that any of the rows attends to, in pieces.
    pub pieces: Vec<KeyPiece>,
}

/// Equally many keys of each segment.
pub(super) struct KeyPiece {
    /// The number of keys of each segment.
    pub count: usize,
    /// Their rows in the cache, `[segments * count]`.
    pub rows: Tensor,
    /// Added to scores, `[1, segments, 1, rows, count]`; `None` if every row attends to every key.
    pub mask: Option<Tensor>,
}

/// The inputs of an index beside the batch.
#[derive(Clone, Copy)]
pub(super) struct IndexContext<'a> {
    pub spec: &'a ModelSpec,
    pub device: &'a Device,
    pub blocks: &'a BlockPool,
    /// See [`MAX_WORKING_SET`].
    pub max_working_set: usize,
}

impl BatchIndex {
    pub fn new(context: &IndexContext<'_>, ropes: &mut [Rope], batch: &Batch) -> Result<Self> {
        let IndexContext { spec, device, blocks, .. } = *context;
        let rows = batch.tokens().len();
        let mut slots = Vec::with_capacity(rows);
        for segment in batch.segments() {
            let table = table(blocks, segment);
            let positions = segment.position..segment.position + segment.rows.len();
            slots.extend(positions.map(|position| LayerKv::row(table.slot(position))));
        }
        let shape = (spec.kv_heads, rows, spec.head_dim);
        let slots = Tensor::from_vec(slots, (1, rows, 1), device)?.broadcast_as(shape)?.contiguous()?;
        let rotations = ropes.iter_mut().map(|rope| rotation(rope, device, batch)).collect::<Result<_>>()?;
        let mut views: Vec<View> = Vec::new();
        for layer in &spec.layer_specs {
            if views.iter().all(|view| view.window != layer.window) {
                views.push(View::new(context, layer.window, batch)?);
            }
        }
        Ok(Self { slots, rotations, views })
    }

    /// Returns the view of layers with this window.
    pub fn view(&self, window: Option<usize>) -> &View {
        let view = self.views.iter().find(|view| view.window == window);
        view.expect("there is a view for each window of the spec")
    }
}

fn rotation(rope: &mut Rope, device: &Device, batch: &Batch) -> Result<(Tensor, Tensor)> {
    rope.prepare_batch(batch);
    let (cos, sin) = rope.tables();
    let rows = batch.tokens().len();
    let table = |of: &[f32]| Tensor::from_slice(of, (rows, 1, of.len() / rows), device);
    Ok((table(cos)?, table(sin)?))
}

impl View {
    fn new(context: &IndexContext<'_>, window: Option<usize>, batch: &Batch) -> Result<Self> {
        let alike = |a: &Segment, b: &Segment| a.rows.len() == b.rows.len();
        let groups = batch.segments().chunk_by(alike);
        let groups = groups.map(|segments| SegmentGroup::new(context, window, segments));
        Ok(Self { window, groups: groups.collect::<Result<_>>()? })
    }
}

impl SegmentGroup {
    fn new(context: &IndexContext<'_>, window: Option<usize>, segments: &[Segment]) -> Result<Self> {
        let IndexContext { spec, device, blocks, max_working_set } = *context;
        let rows = segments[0].rows.len();
        let range = segments[0].rows.start..segments[segments.len() - 1].rows.end;
        // The keys of a segment that its rows attend to: from the first row's first one to the last row itself.
        let first =
            |segment: &Segment| window.map_or(0, |window| (segment.position + 1).saturating_sub(window));
        let longest = segments.iter().map(|segment| segment.position + rows - first(segment)).max();
        let longest = longest.unwrap_or(0);
        let widest = (spec.heads * rows).max(spec.kv_heads * spec.head_dim) * segments.len();
        let max_keys = (max_working_set / widest).max(BLOCK_SIZE);
        let pieces = (0..longest).step_by(max_keys).map(|start| {
            let count = max_keys.min(longest - start);
            let (mut slots, mut mask) = (Vec::new(), Vec::new());
            for segment in segments {
                let table = table(blocks, segment);
                let (first, end) = (first(segment), segment.position + rows);
                let keys = first + start..first + start + count;
                // A shorter segment is padded with a masked key of its own.
                let slot = |key| LayerKv::row(table.slot(if key < end { key } else { first }));
                slots.extend(keys.clone().map(slot));
                for row in segment.position..end {
                    let visible = |key| key <= row && window.is_none_or(|window| key + window > row);
                    mask.extend(keys.clone().map(|key| if visible(key) { 0.0 } else { MASKED }));
                }
            }
            let all_visible = mask.iter().all(|mask| *mask == 0.0);
            let shape = (1, segments.len(), 1, rows, count);
            let mask = (!all_visible).then(|| Tensor::from_vec(mask, shape, device)).transpose()?;
            let slots = Tensor::from_vec(slots, segments.len() * count, device)?;
            Ok(KeyPiece { count, rows: slots, mask })
        });
        Ok(Self { segments: segments.len(), rows, range, pieces: pieces.collect::<Result<_>>()? })
    }
}

fn table<'a>(blocks: &'a BlockPool, segment: &Segment) -> &'a BlockTable {
    blocks.table(segment.sequence).expect("an open sequence: the batch was checked")
}
