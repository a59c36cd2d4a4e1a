//! Layer-wise prefill: a prefill pass runs some layers at a time, with the decode passes of running sequences in
//! between. So chunks of a prompt can be large enough to be efficient, and no decode waits for a whole chunk.
//! [`batch_plan`](super::batch_plan) decides which tokens make a chunk. Captures run
//! the same way, within a smaller share of the time.

use std::ops::Range;
use std::time::Duration;

use crate::forward::batch::Batch;
use crate::kv_cache::SequenceId;
use crate::scheduler::batch_plan::PlannedRows;
use crate::scheduler::running::Running;

/// A prefill pass that has begun.
#[derive(Debug)]
pub(crate) struct PartialPrefill {
    pub batch: Batch,
    planned: Vec<(SequenceId, PlannedRows)>,
    next_layer: usize,
}

impl PartialPrefill {
    pub fn new(batch: Batch, planned: Vec<PlannedRows>, running: &[Running]) -> Self {
        let planned = planned.into_iter().map(|rows| (running[rows.index].id, rows)).collect();
        Self { batch, planned, next_layer: 0 }
    }

    pub fn rows(&self) -> usize {
        self.batch.tokens().len()
    }

    /// Returns whether it computes rows of this sequence, which must not change until the last layer.
    pub fn contains(&self, sequence: SequenceId) -> bool {
        self.planned.iter().any(|(own, _)| *own == sequence)
    }

    /// Returns the next layers to run, at most `count` of `total`.
    pub fn take_layers(&mut self, count: usize, total: usize) -> Range<usize> {
        let start = self.next_layer;
        self.next_layer = total.min(start.saturating_add(count));
        start..self.next_layer
    }

    /// Returns its rows with their present places in the running batch, which other sequences may have left.
    pub fn into_planned(self, running: &[Running]) -> Vec<PlannedRows> {
        let place = |id| running.iter().position(|running| running.id == id);
        let planned = self.planned.into_iter();
        planned.filter_map(|(id, rows)| Some(PlannedRows { index: place(id)?, ..rows })).collect()
    }
}

/// The latest durations of passes.
#[derive(Debug, Default)]
pub(crate) struct LayerTiming {
    decode_pass: Duration,
    prefill_layer: Duration,
    /// Rows of that layer.
    prefill_rows: usize,
}

impl LayerTiming {
    /// Notes the duration of a decode pass.
    pub fn decoded(&mut self, time: Duration) {
        self.decode_pass = time;
    }

    /// Notes the duration of some layers of a prefill pass.
    pub fn prefilled(&mut self, rows: usize, layers: usize, time: Duration) {
        self.prefill_rows = rows;
        self.prefill_layer = time / u32::try_from(layers.max(1)).unwrap_or(u32::MAX);
    }

    /// Returns how many layers over `rows` rows take three quarters of a decode pass, at least 1. The quarter is a
    /// margin for durations that vary.
    pub fn layers_per_decode(&self, rows: usize) -> usize {
        self.layers_in(self.decode_pass * 3 / 4, rows)
    }

    /// Returns how many layers over `rows` rows take `time`, at least 1. Before the first measurement it is 1. More
    /// rows than measured are assumed to take proportionally longer, fewer rows as long.
    pub fn layers_in(&self, time: Duration, rows: usize) -> usize {
        let layer = self.prefill_layer.as_nanos() * rows.max(self.prefill_rows) as u128;
        let time = time.as_nanos() * self.prefill_rows as u128;
        let layers = time.checked_div(layer).unwrap_or(1);
        usize::try_from(layers).unwrap_or(usize::MAX).max(1)
    }
}

/// The share of the decode passes' time that captures may take: one part in this many. Decoding then keeps 6/7 of its
/// speed, 86 %.
const CAPTURE_SHARE: i64 = 6;

/// The time that captures may take between decode passes. A layer that takes more than there is leaves a debt, and
/// captures pause until decode passes have paid it. Time that is not used is not saved up.
#[derive(Debug, Default)]
pub(crate) struct TimeShare {
    /// Nanoseconds; a debt is negative.
    left: i64,
}

impl TimeShare {
    /// Notes the duration of a decode pass.
    pub fn decoded(&mut self, time: Duration) {
        let share = nanoseconds(time) / CAPTURE_SHARE;
        self.left = self.left.saturating_add(share).min(share);
    }

    /// Notes the duration of a capture's layers.
    pub fn spent(&mut self, time: Duration) {
        self.left = self.left.saturating_sub(nanoseconds(time));
    }

    /// Returns the time that may be taken now.
    pub fn left(&self) -> Duration {
        Duration::from_nanos(u64::try_from(self.left).unwrap_or(0))
    }
}

fn nanoseconds(time: Duration) -> i64 {
    i64::try_from(time.as_nanos()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefill_layers_take_somewhat_less_than_a_decode_pass() {
        let ms = Duration::from_millis;
        let mut timing = LayerTiming::default();
        assert_eq!(timing.layers_per_decode(64), 1);
        timing.decoded(ms(40));
        assert_eq!(timing.layers_per_decode(64), 1, "no layer is measured yet");
        timing.prefilled(64, 3, ms(30));
        assert_eq!(timing.layers_per_decode(64), 3);
        timing.decoded(ms(13));
        assert_eq!(timing.layers_per_decode(64), 1, "at least one");
        timing.decoded(ms(1000));
        assert_eq!(timing.layers_per_decode(64), 75);
        assert_eq!([timing.layers_per_decode(8), timing.layers_per_decode(256)], [75, 18]);
    }

    #[test]
    fn captures_take_a_share_of_the_time_and_pay_their_debts() {
        let ms = Duration::from_millis;
        let mut share = TimeShare::default();
        assert!(share.left().is_zero());
        share.decoded(ms(60));
        assert_eq!(share.left(), ms(10));
        share.decoded(ms(60));
        assert_eq!(share.left(), ms(10), "unused time is not saved up");
        share.spent(ms(25));
        share.decoded(ms(60));
        assert!(share.left().is_zero(), "5 ms are owed");
        share.decoded(ms(60));
        assert_eq!(share.left(), ms(5));
        share.spent(Duration::MAX);
        share.spent(Duration::MAX);
        share.decoded(Duration::MAX);
        assert!(share.left().is_zero());
    }

    #[test]
    fn layers_are_taken_in_order_until_the_last() {
        let mut prefill = PartialPrefill::new(Batch::default(), Vec::new(), &[]);
        assert_eq!([prefill.take_layers(2, 5), prefill.take_layers(usize::MAX, 5)], [0..2, 2..5]);
        assert!(prefill.take_layers(1, 5).is_empty());
    }
}
