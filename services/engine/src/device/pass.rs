//! What all layers of one forward pass share: where rows stand, where their keys and values go, and who sees whose.

use std::ops::Range;

use candle_core::{Device, Tensor};
use millm_model::ModelSpec;

use crate::batch::{Batch, Segment};
use crate::cache::KvCache;
use crate::error::Result;
use crate::pages::{PAGE, Table};
use crate::rope::Rope;

use super::rows::Rows;

/// Scores, and keys or values, that are in work at a time, in numbers: the memory that attention takes however long
/// sequences are.
pub(super) const AT_A_TIME: usize = 16 << 20;

/// Added to the scores of keys that a row does not see. Finite: where a row sees none of the keys at hand, what comes of
/// them must be a number, which the first key that it sees makes naught.
const UNSEEN: f32 = -1e30;

/// What attention works in at most, for `rows` rows that see `tokens` tokens of `segments` sequences: scores as they were,
/// as they are seen and as weights, and keys and values as they lie and as floats.
pub(crate) fn attention_bytes(spec: &ModelSpec, (rows, segments): (usize, usize), tokens: usize) -> u64 {
    let scores = spec.heads.saturating_mul(rows).saturating_mul(tokens);
    let states = spec.kv_heads * spec.head_dim;
    let states = states.saturating_mul(segments).saturating_mul(tokens);
    (3 * 4 * scores.min(AT_A_TIME) + 2 * (2 + 4) * states.min(AT_A_TIME)) as u64
}

pub(super) struct Pass {
    /// In which of the cache's rows each key and value goes, `[kv_heads, rows, head_dim]`.
    pub places: Tensor,
    /// Cosines and sines `[rows, 1, pairs]` of each of the spec's ropes.
    pub turns: Vec<(Tensor, Tensor)>,
    views: Vec<View>,
}

/// What rows see where layers have this window.
pub(super) struct View {
    window: Option<usize>,
    pub groups: Vec<Group>,
}

/// Neighbouring segments of as many rows each, run together.
pub(super) struct Group {
    pub segments: usize,
    /// Of each segment.
    pub rows: usize,
    /// Rows of the batch.
    pub range: Range<usize>,
    /// All keys that any of the rows sees, some at a time.
    pub keys: Vec<Keys>,
}

/// As many keys of each segment.
pub(super) struct Keys {
    pub count: usize,
    /// The cache's rows, `[segments * count]`.
    pub rows: Tensor,
    /// To be added to scores, `[1, segments, 1, rows, count]`; `None` where every row sees every key.
    pub unseen: Option<Tensor>,
}

impl Pass {
    pub fn new(
        spec: &ModelSpec,
        device: &Device,
        ropes: &mut [Rope],
        batch: &Batch,
        cache: &KvCache,
        at_a_time: usize,
    ) -> Result<Self> {
        let rows = batch.tokens().len();
        let mut places = Vec::with_capacity(rows);
        for segment in batch.segments() {
            let table = table(cache, segment);
            let positions = segment.position..segment.position + segment.rows.len();
            places.extend(positions.map(|position| place(table, position)));
        }
        let shape = (spec.kv_heads, rows, spec.head_dim);
        let places = Tensor::from_vec(places, (1, rows, 1), device)?.broadcast_as(shape)?.contiguous()?;
        let turns = ropes.iter_mut().map(|rope| turn(rope, device, batch)).collect::<Result<_>>()?;
        let mut views: Vec<View> = Vec::new();
        for block in &spec.blocks {
            if views.iter().all(|view| view.window != block.window) {
                let scene = Scene { spec, device, cache, window: block.window, at_a_time };
                views.push(View::new(&scene, batch)?);
            }
        }
        Ok(Self { places, turns, views })
    }

    pub fn view(&self, window: Option<usize>) -> &View {
        let view = self.views.iter().find(|view| view.window == window);
        view.expect("there is a view for each window of the spec")
    }
}

fn turn(rope: &mut Rope, device: &Device, batch: &Batch) -> Result<(Tensor, Tensor)> {
    rope.prepare_batch(batch);
    let (cos, sin) = rope.tables();
    let rows = batch.tokens().len();
    let table = |of: &[f32]| Tensor::from_slice(of, (rows, 1, of.len() / rows), device);
    Ok((table(cos)?, table(sin)?))
}

/// What views are made from.
struct Scene<'a> {
    spec: &'a ModelSpec,
    device: &'a Device,
    cache: &'a KvCache,
    window: Option<usize>,
    at_a_time: usize,
}

impl View {
    fn new(scene: &Scene<'_>, batch: &Batch) -> Result<Self> {
        let alike = |a: &Segment, b: &Segment| a.rows.len() == b.rows.len();
        let groups = batch.segments().chunk_by(alike).map(|segments| Group::new(scene, segments));
        Ok(Self { window: scene.window, groups: groups.collect::<Result<_>>()? })
    }
}

impl Group {
    fn new(scene: &Scene<'_>, segments: &[Segment]) -> Result<Self> {
        let Scene { spec, device, cache, window, at_a_time } = *scene;
        let rows = segments[0].rows.len();
        let range = segments[0].rows.start..segments[segments.len() - 1].rows.end;
        // Of each segment the keys that its rows see: from the first row's first to the last row itself.
        let first =
            |segment: &Segment| window.map_or(0, |window| (segment.position + 1).saturating_sub(window));
        let longest = segments.iter().map(|segment| segment.position + rows - first(segment)).max();
        let longest = longest.unwrap_or(0);
        let widest = (spec.heads * rows).max(spec.kv_heads * spec.head_dim) * segments.len();
        let most = (at_a_time / widest).max(PAGE);
        let keys = (0..longest).step_by(most).map(|start| {
            let count = most.min(longest - start);
            let (mut places, mut unseen) = (Vec::new(), Vec::new());
            for segment in segments {
                let table = table(cache, segment);
                let (first, end) = (first(segment), segment.position + rows);
                let keys = first + start..first + start + count;
                // Where this one is shorter, a key of its own stands in, unseen.
                places.extend(keys.clone().map(|key| place(table, if key < end { key } else { first })));
                for row in segment.position..end {
                    let seen = |key| key <= row && window.is_none_or(|window| key + window > row);
                    unseen.extend(keys.clone().map(|key| if seen(key) { 0.0 } else { UNSEEN }));
                }
            }
            let all_seen = unseen.iter().all(|unseen| *unseen == 0.0);
            let shape = (1, segments.len(), 1, rows, count);
            let unseen = (!all_seen).then(|| Tensor::from_vec(unseen, shape, device)).transpose()?;
            Ok(Keys { count, rows: Tensor::from_vec(places, segments.len() * count, device)?, unseen })
        });
        Ok(Self { segments: segments.len(), rows, range, keys: keys.collect::<Result<_>>()? })
    }
}

fn table<'a>(cache: &'a KvCache, segment: &Segment) -> &'a Table {
    cache.pages().table(segment.sequence).expect("an open sequence: the batch was checked")
}

fn place(table: &Table, position: usize) -> u32 {
    let (page, within) = table.place(position);
    (Rows::first(page) + within) as u32
}
