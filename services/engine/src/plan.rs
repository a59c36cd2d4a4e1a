//! The next forward pass: who runs which rows in it.
//!
//! Every answer has its step in every pass but those over prompts alone. What there is for prompts is shared out evenly
//! among those still being read, so a long one does not keep a short one waiting. Who begins like
//! somebody who is being read waits and takes over, so that the same is never computed twice.

use std::ops::Range;

use crate::batch::{Batch, Logits};
use crate::cache::KvCache;
use crate::generation::Due;
use crate::running::Running;

/// What a step costs of the budget that is counted in rows of prompts: products with few rows are dearer each.
const STEP_COST: usize = 4;
/// Guessed rows in one pass at most: the logits of all are held at once.
const GUESSED_ROWS: usize = 32;

/// A running request's part in a pass.
#[derive(Debug)]
pub(crate) struct Part {
    /// In the running batch.
    pub index: usize,
    /// Which of its tokens are run.
    pub tokens: Range<usize>,
    /// Guessed tokens that are run after those.
    pub guessed: Vec<u32>,
    /// Rows of logits.
    pub outputs: Range<usize>,
}

/// Rows of prompts in a pass.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Budget {
    /// When nothing else is to be done.
    pub alone: usize,
    /// Beside running answers.
    pub beside_answers: usize,
}

/// Whose rows a pass has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Whose {
    Everybodys,
    /// The steps of those who answer.
    Answers,
    /// The prompts of those who are being read.
    Prompts,
}

/// Fills `batch`. Answers have room for their next token already.
pub(crate) fn plan(
    running: &[Running],
    cache: &mut KvCache,
    (whose, budget): (Whose, Budget),
    batch: &mut Batch,
) -> Vec<Part> {
    batch.clear();
    let mut parts = Vec::new();
    let rows = share_rows(running, cache, budget);
    let mut room = GUESSED_ROWS;
    let is_prompt = |running: &Running, cache: &KvCache| matches!(running.due(cache), Due::Prompt(_));
    for (index, running) in running.iter().enumerate() {
        if rows[index] > 0 && whose != Whose::Prompts && !is_prompt(running, cache) {
            let part = steps(index, running, cache, (rows[index], room), batch);
            room -= part.guessed.len();
            parts.push(part);
        }
    }
    for (index, running) in running.iter().enumerate() {
        if rows[index] > 0 && whose != Whose::Answers && is_prompt(running, cache) {
            parts.push(chunk(index, running, cache, rows[index], batch));
        }
    }
    parts
}

fn steps(
    index: usize,
    running: &Running,
    cache: &mut KvCache,
    (rows, room): (usize, usize),
    batch: &mut Batch,
) -> Part {
    let Running { sequence, generation } = running;
    let held = cache.length(*sequence);
    let tokens = held..held + rows;
    let newest = tokens.end == generation.tokens().len();
    let mut guessed = if newest { generation.draft(room) } else { &[] };
    // Guesses are not worth anybody's pages.
    if !cache.pages_mut().reserve(*sequence, tokens.end + guessed.len()) {
        guessed = &[];
    }
    let start = batch.outputs().len();
    let wanted = if newest { 1 + guessed.len() } else { 0 };
    let run = [&generation.tokens()[tokens.clone()], guessed].concat();
    batch.push_steps(cache, *sequence, &run, wanted);
    Part { index, tokens, guessed: guessed.to_vec(), outputs: start..batch.outputs().len() }
}

fn chunk(index: usize, running: &Running, cache: &KvCache, rows: usize, batch: &mut Batch) -> Part {
    let Running { sequence, generation } = running;
    let held = cache.length(*sequence);
    let tokens = held..held + rows;
    let logits = match tokens.end == generation.prompt().len() {
        _ if generation.scores_prompt() => Logits::All,
        true => Logits::Last,
        false => Logits::None,
    };
    let start = batch.outputs().len();
    let whole = generation.prompt().len();
    batch.push_part(cache, *sequence, &generation.tokens()[tokens.clone()], whole, logits);
    Part { index, tokens, guessed: Vec::new(), outputs: start..batch.outputs().len() }
}

/// How many rows of its own tokens each may run.
fn share_rows(running: &[Running], cache: &KvCache, budget: Budget) -> Vec<usize> {
    let dues: Vec<Due> = running.iter().map(|running| running.due(cache)).collect();
    let mut asked: Vec<usize> = (0..running.len())
        .map(|index| match dues[index] {
            Due::Prompt(_) if waits(index, running, cache) => 0,
            Due::Prompt(rows) => rows.min(running[index].generation.most_prompt_rows()),
            Due::Again(rows) => rows.saturating_mul(STEP_COST),
            Due::Step | Due::Parked => 0,
        })
        .collect();
    let answers = dues.contains(&Due::Step);
    share_out(&mut asked, if answers { budget.beside_answers.min(budget.alone) } else { budget.alone });
    for (rows, due) in asked.iter_mut().zip(dues) {
        match due {
            Due::Prompt(_) | Due::Parked => {}
            Due::Again(_) => *rows = rows.div_ceil(STEP_COST),
            Due::Step => *rows = 1,
        }
    }
    asked
}

/// Whether an older one is computing what this one needs next: it takes that over when it is done. The oldest never
/// waits, so nobody waits for ever.
fn waits(index: usize, running: &[Running], cache: &KvCache) -> bool {
    let own = &running[index];
    let wanted = own.wanted(cache);
    let reading = |other: &&Running| matches!(other.due(cache), Due::Prompt(_));
    running[..index].iter().filter(reading).any(|other| {
        own.generation.is_twin_of(&other.generation)
            || (wanted.is_some() && wanted == other.working_on(cache))
    })
}

/// Cuts what each asks for down to shares of `budget` as even as can be, at least 1.
fn share_out(asked: &mut [usize], budget: usize) {
    let mut order: Vec<usize> = (0..asked.len()).filter(|index| asked[*index] > 0).collect();
    // Those who ask for less than an even share leave the rest to the others; among equals, first come.
    order.sort_by_key(|index| asked[*index]);
    let mut left = order.len();
    let mut budget = budget.max(left);
    for index in order {
        asked[index] = asked[index].min(budget.div_ceil(left));
        budget -= asked[index];
        left -= 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_budget_is_shared_evenly() {
        let check = |mut asked: Vec<usize>, budget, expected: &[usize]| {
            share_out(&mut asked, budget);
            assert_eq!(asked, expected);
        };
        check(vec![2000, 0, 2000], 256, &[128, 0, 128]);
        check(vec![2000, 10], 256, &[246, 10]);
        check(vec![5, 6], 256, &[5, 6]);
        check(vec![9, 9, 9], 7, &[3, 2, 2]);
        check(vec![9, 9, 9], 2, &[1, 1, 1]);
        check(vec![], 7, &[]);
    }
}
