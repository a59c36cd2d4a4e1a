//! The plan of a capture's passes: which rows of which sequences run together, and how many bytes its sink receives
//! of them.

use std::ops::Range;

use millm_model::{Hook, HookPoint, ModelSpec};

use crate::capture::{CaptureRows, MAX_DELIVERY_BYTES};
use crate::kv_cache::BLOCK_SIZE;

/// A token of a capture.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Place {
    pub sequence: usize,
    pub position: usize,
}

/// What a pass may take.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PassRoom {
    pub rows: usize,
    /// KV blocks in addition to those that the capture holds.
    pub blocks: usize,
    /// Bytes that the sink receives at a time.
    pub bytes: usize,
}

/// f32 numbers that a sink receives of one row.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct RowWidth {
    /// Whatever the row's position is.
    pub fixed: usize,
    /// For each key of the row's segment: attention's scores and weights.
    pub per_key: usize,
}

impl RowWidth {
    /// Returns the bytes of `rows` rows whose segment has `keys` keys.
    fn bytes(self, rows: usize, keys: usize) -> usize {
        self.per_key.saturating_mul(keys).saturating_add(self.fixed).saturating_mul(rows.saturating_mul(4))
    }
}

/// The widths of what each layer delivers. What belongs to the whole model comes with the first or the last layer.
#[derive(Debug)]
pub(crate) struct DeliveryWidths {
    layers: Vec<RowWidth>,
}

impl DeliveryWidths {
    pub fn new<'a>(spec: &ModelSpec, hooks: impl IntoIterator<Item = &'a Hook>) -> Self {
        let mut layers = vec![RowWidth::default(); spec.layers];
        for hook in hooks {
            let last = if hook.point == HookPoint::Embed { 0 } else { spec.layers.saturating_sub(1) };
            let Some(width) = layers.get_mut(hook.layer.unwrap_or(last)) else { continue };
            let shape = spec.hook_shape(*hook);
            let numbers: usize = shape.iter().filter(|size| **size > 0).product();
            if shape.contains(&0) {
                width.per_key += numbers;
            } else {
                width.fixed += numbers;
            }
        }
        Self { layers }
    }

    /// Returns the bytes that a layer delivers of a pass with these rows.
    pub fn bytes(&self, layer: usize, pass: &[CaptureRows]) -> usize {
        let width = self.layers.get(layer).copied().unwrap_or_default();
        pass.iter().map(|part| width.bytes(part.rows.len(), part.end())).fold(0, usize::saturating_add)
    }

    /// Returns at least the width of each layer.
    pub fn widest_layer(&self) -> RowWidth {
        let wider = |a: RowWidth, b: &RowWidth| RowWidth {
            fixed: a.fixed.max(b.fixed),
            per_key: a.per_key.max(b.per_key),
        };
        self.layers.iter().fold(RowWidth::default(), wider)
    }

    /// Returns the width of all layers together.
    pub fn all_layers(&self) -> RowWidth {
        let sum = |a: RowWidth, b: &RowWidth| RowWidth {
            fixed: a.fixed.saturating_add(b.fixed),
            per_key: a.per_key.saturating_add(b.per_key),
        };
        self.layers.iter().fold(RowWidth::default(), sum)
    }
}

impl PassRoom {
    /// Returns the room of a pass: all bytes of a delivery, and no more blocks than are free.
    pub fn new(rows: usize, blocks: usize) -> Self {
        Self { rows, blocks, bytes: MAX_DELIVERY_BYTES }
    }

    /// Returns how many of a sequence's rows from `position` on fit.
    pub fn rows_from(&self, position: usize, width: RowWidth) -> usize {
        let tokens = position.div_ceil(BLOCK_SIZE).saturating_add(self.blocks).saturating_mul(BLOCK_SIZE);
        let rows = self.rows.min(tokens - position);
        // The last row has the most keys.
        let bytes = width.bytes(1, position + rows);
        rows.min(self.bytes.checked_div(bytes).unwrap_or(rows))
    }

    /// Takes the room of a sequence's rows.
    fn take(&mut self, positions: Range<usize>, width: RowWidth) {
        self.rows = self.rows.saturating_sub(positions.len());
        self.bytes = self.bytes.saturating_sub(width.bytes(positions.len(), positions.end));
        self.blocks = self.blocks.saturating_sub(blocks_of(&positions));
    }
}

/// Returns the blocks that a sequence's rows take in addition to those of the tokens before them.
fn blocks_of(positions: &Range<usize>) -> usize {
    positions.end.div_ceil(BLOCK_SIZE) - positions.start.div_ceil(BLOCK_SIZE)
}

/// Returns the blocks that the rows of a pass take.
pub(crate) fn blocks_of_pass(pass: &[CaptureRows]) -> usize {
    pass.iter().map(|part| blocks_of(&(part.position..part.end()))).sum()
}

/// Plans a pass from `first` on. Sequences that fit a pass are not cut; longer ones are cut where the pass is full. Only
/// the first sequence of a pass can have begun in an earlier one. Empty if there is no room.
pub(crate) fn plan_capture_pass(
    sequences: &[Vec<u32>],
    first: Place,
    room: PassRoom,
    width: RowWidth,
) -> Vec<CaptureRows> {
    let (whole_pass, mut room) = (room.rows, room);
    let mut pass = Vec::new();
    let (mut row, mut position) = (0, first.position);
    for (sequence, tokens) in sequences.iter().enumerate().skip(first.sequence) {
        let rest = tokens.len() - position;
        let mut rows = room.rows_from(position, width).min(rest);
        if pass.is_empty() && rows == 0 {
            // One row runs, however wide it is.
            let one = PassRoom { bytes: usize::MAX, ..room };
            rows = one.rows_from(position, width).min(1);
        }
        let cut = rows < rest;
        if rows == 0 || (cut && !pass.is_empty() && rest <= whole_pass) {
            break;
        }
        pass.push(CaptureRows { sequence, position, rows: row..row + rows });
        if cut {
            break;
        }
        room.take(position..position + rows, width);
        row += rows;
        position = 0;
    }
    pass
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sequences(lengths: &[usize]) -> Vec<Vec<u32>> {
        lengths.iter().map(|length| vec![3; *length]).collect()
    }

    /// Returns `(sequence, first position, end)` of each part of all passes, one after the other.
    fn passes(lengths: &[usize], room: PassRoom, width: RowWidth) -> Vec<Vec<(usize, usize, usize)>> {
        let sequences = sequences(lengths);
        let mut next = Place::default();
        let mut passes = Vec::new();
        while next.sequence < lengths.len() {
            let pass = plan_capture_pass(&sequences, next, room, width);
            let last = pass.last().expect("there is room");
            assert_eq!(last.rows.end, pass.iter().map(|part| part.rows.len()).sum::<usize>());
            next = Place { sequence: last.sequence, position: last.end() };
            if last.end() == lengths[last.sequence] {
                next = Place { sequence: last.sequence + 1, position: 0 };
            }
            passes.push(pass.iter().map(|part| (part.sequence, part.position, part.end())).collect());
        }
        passes
    }

    const NARROW: RowWidth = RowWidth { fixed: 1, per_key: 0 };
    const ROOM: PassRoom = PassRoom { rows: 10, blocks: 100, bytes: 1 << 20 };

    #[test]
    fn sequences_that_fit_are_not_cut_and_long_ones_fill_passes() {
        let check = |lengths: &[usize], room, width, expected: &[&[(usize, usize, usize)]]| {
            assert_eq!(passes(lengths, room, width), expected);
        };
        check(&[4, 6, 1], ROOM, NARROW, &[&[(0, 0, 4), (1, 0, 6)], &[(2, 0, 1)]]);
        check(&[4, 7, 2], ROOM, NARROW, &[&[(0, 0, 4)], &[(1, 0, 7), (2, 0, 2)]]);
        check(
            &[4, 23, 2],
            ROOM,
            NARROW,
            &[&[(0, 0, 4), (1, 0, 6)], &[(1, 6, 16)], &[(1, 16, 23), (2, 0, 2)]],
        );
        // One block each.
        check(&[4, 4, 4], PassRoom { blocks: 2, ..ROOM }, NARROW, &[&[(0, 0, 4), (1, 0, 4)], &[(2, 0, 4)]]);
        // Three rows, or one that is too wide alone.
        let bytes = |bytes| PassRoom { bytes, ..ROOM };
        check(&[2, 2, 5], bytes(12), NARROW, &[&[(0, 0, 2)], &[(1, 0, 2)], &[(2, 0, 3)], &[(2, 3, 5)]]);
        check(&[2], bytes(3), NARROW, &[&[(0, 0, 1)], &[(0, 1, 2)]]);
    }

    #[test]
    fn rows_of_attention_take_a_number_for_each_key() {
        let width = RowWidth { fixed: 2, per_key: 3 };
        assert_eq!(width.bytes(5, 7), 4 * 5 * (2 + 3 * 7));
        let room = PassRoom { rows: 64, blocks: 100, bytes: 4 * 10 * (2 + 3 * 64) };
        assert_eq!(room.rows_from(0, width), 10);
        assert_eq!(room.rows_from(640, width), 0);
    }

    #[test]
    fn a_pass_takes_no_more_blocks_than_there_are() {
        let long = sequences(&[100]);
        let plan = |position, blocks| {
            let room = PassRoom { rows: 64, blocks, bytes: 1 << 20 };
            plan_capture_pass(&long, Place { sequence: 0, position }, room, NARROW)
        };
        assert!(plan(0, 0).is_empty());
        assert_eq!(plan(0, 1)[0].rows, 0..BLOCK_SIZE);
        assert_eq!(plan(40, 0)[0].rows, 0..2 * BLOCK_SIZE - 40);
        assert_eq!(blocks_of_pass(&plan(40, 1)), 1);
        assert_eq!(blocks_of_pass(&plan(32, 2)), 2);
    }
}
