//! The plan of the next forward pass: which sequence runs which rows in it.
//!
//! Every decoding sequence has its row in every pass that is not a prefill pass. The prefill budget is split evenly
//! among the sequences that are being prefilled, so a long prompt does not hold up a short one. A sequence that
//! begins like one that is being prefilled waits and shares its blocks, so the same prefix is never computed twice.

use std::ops::Range;

use crate::forward::batch::{Batch, Logits};
use crate::kv_cache::BlockPool;
use crate::scheduler::limits::PrefillBudget;
use crate::scheduler::running::Running;
use crate::scheduler::sequence::NextRows;

/// The cost of a recomputed row in prefill rows: products with few rows cost more for each.
const RECOMPUTE_COST: usize = 4;
/// The most draft rows in one pass: the logits of all are held at the same time.
const MAX_DRAFT_ROWS: usize = 32;

/// The rows of one running sequence in a pass.
#[derive(Debug)]
pub(crate) struct PlannedRows {
    /// Index in the running batch.
    pub index: usize,
    /// The tokens that run.
    pub tokens: Range<usize>,
    /// Draft tokens that run after those.
    pub draft: Vec<u32>,
    /// Its rows of the logits.
    pub outputs: Range<usize>,
}

/// The kinds of rows that a pass may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PassKind {
    /// All.
    Mixed,
    /// Those of sequences that are decoding.
    Decode,
    /// Those of sequences that are being prefilled.
    Prefill,
}

/// Fills `batch` and returns its rows by sequence. Decoding sequences must have room for their next token.
pub(crate) fn plan_pass(
    running: &[Running],
    blocks: &mut BlockPool,
    kind: PassKind,
    budget: PrefillBudget,
    batch: &mut Batch,
) -> Vec<PlannedRows> {
    batch.clear();
    let mut planned = Vec::new();
    let rows = split_rows(running, blocks, budget);
    let mut draft_room = MAX_DRAFT_ROWS;
    for (index, running) in running.iter().enumerate() {
        if rows[index] > 0 && kind != PassKind::Prefill && !running.is_prefilling(blocks) {
            let room = Room { rows: rows[index], draft: draft_room };
            let decode = plan_decode(index, running, blocks, room, batch);
            draft_room -= decode.draft.len();
            planned.push(decode);
        }
    }
    for (index, running) in running.iter().enumerate() {
        if rows[index] > 0 && kind != PassKind::Decode && running.is_prefilling(blocks) {
            planned.push(plan_prefill(index, running, blocks, rows[index], batch));
        }
    }
    planned
}

/// The rows that a sequence may run.
struct Room {
    /// Rows of its own tokens.
    rows: usize,
    /// Rows of draft tokens.
    draft: usize,
}

fn plan_decode(
    index: usize,
    running: &Running,
    blocks: &mut BlockPool,
    room: Room,
    batch: &mut Batch,
) -> PlannedRows {
    let Running { id, sequence } = running;
    let computed = blocks.length(*id);
    let tokens = computed..computed + room.rows;
    let newest = tokens.end == sequence.tokens().len();
    let mut draft = if newest { sequence.draft(room.draft) } else { &[] };
    // No sequence is preempted for a draft.
    if !blocks.reserve(*id, tokens.end + draft.len()) {
        draft = &[];
    }
    let start = batch.outputs().len();
    let outputs = if newest { 1 + draft.len() } else { 0 };
    let rows = [&sequence.tokens()[tokens.clone()], draft].concat();
    batch.push_decode_rows(blocks, *id, &rows, outputs);
    PlannedRows { index, tokens, draft: draft.to_vec(), outputs: start..batch.outputs().len() }
}

fn plan_prefill(
    index: usize,
    running: &Running,
    blocks: &BlockPool,
    rows: usize,
    batch: &mut Batch,
) -> PlannedRows {
    let Running { id, sequence } = running;
    let computed = blocks.length(*id);
    let tokens = computed..computed + rows;
    let logits = match tokens.end == sequence.prompt().len() {
        _ if sequence.scores_prompt() => Logits::All,
        true => Logits::Last,
        false => Logits::None,
    };
    let start = batch.outputs().len();
    let prompt_length = sequence.prompt().len();
    batch.push_prefill_chunk(blocks, *id, &sequence.tokens()[tokens.clone()], prompt_length, logits);
    PlannedRows { index, tokens, draft: Vec::new(), outputs: start..batch.outputs().len() }
}

/// Returns how many rows of its own tokens each sequence may run.
fn split_rows(running: &[Running], blocks: &BlockPool, budget: PrefillBudget) -> Vec<usize> {
    let next: Vec<NextRows> = running.iter().map(|running| running.next_rows(blocks)).collect();
    let mut rows: Vec<usize> = (0..running.len())
        .map(|index| match next[index] {
            NextRows::Prefill(_) if waits_for_prefix(index, running, blocks) => 0,
            NextRows::Prefill(rows) => rows.min(running[index].sequence.max_prefill_rows()),
            NextRows::Recompute(rows) => rows.saturating_mul(RECOMPUTE_COST),
            NextRows::Decode | NextRows::Paused => 0,
        })
        .collect();
    let decoding = next.contains(&NextRows::Decode);
    split_evenly(&mut rows, if decoding { budget.while_decoding.min(budget.alone) } else { budget.alone });
    for (rows, next) in rows.iter_mut().zip(next) {
        match next {
            NextRows::Prefill(_) | NextRows::Paused => {}
            NextRows::Recompute(_) => *rows = rows.div_ceil(RECOMPUTE_COST),
            NextRows::Decode => *rows = 1,
        }
    }
    rows
}

/// Returns whether an older sequence is computing the block that this one needs next: this one shares it afterwards.
/// The oldest never waits, so no sequence waits for ever.
fn waits_for_prefix(index: usize, running: &[Running], blocks: &BlockPool) -> bool {
    let own = &running[index];
    let key = own.shareable_key(blocks);
    running[..index].iter().filter(|other| other.is_prefilling(blocks)).any(|other| {
        own.sequence.can_fork_from(&other.sequence) || (key.is_some() && key == other.computing_key(blocks))
    })
}

/// Reduces the rows that each sequence asks for to shares of `budget` that are as even as possible, at least 1 each.
fn split_evenly(rows: &mut [usize], budget: usize) {
    let mut order: Vec<usize> = (0..rows.len()).filter(|index| rows[*index] > 0).collect();
    // Sequences that ask for less than an even share leave the rest to the others; among equals, first come.
    order.sort_by_key(|index| rows[*index]);
    let mut left = order.len();
    let mut budget = budget.max(left);
    for index in order {
        rows[index] = rows[index].min(budget.div_ceil(left));
        budget -= rows[index];
        left -= 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_budget_is_split_evenly() {
        let check = |mut rows: Vec<usize>, budget, expected: &[usize]| {
            split_evenly(&mut rows, budget);
            assert_eq!(rows, expected);
        };
        check(vec![2000, 0, 2000], 256, &[128, 0, 128]);
        check(vec![2000, 10], 256, &[246, 10]);
        check(vec![5, 6], 256, &[5, 6]);
        check(vec![9, 9, 9], 7, &[3, 2, 2]);
        check(vec![9, 9, 9], 2, &[1, 1, 1]);
        check(vec![], 7, &[]);
    }
}
