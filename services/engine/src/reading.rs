//! A pass over prompts that is run some layers at a time, with the steps of running answers in between. So prompts are
//! read in chunks that are worth their while, and yet nobody waits for a chunk to end.

use std::ops::Range;
use std::time::Duration;

use crate::batch::Batch;
use crate::pages::SequenceId;
use crate::plan::Part;
use crate::running::Running;

/// A pass that has begun.
#[derive(Debug)]
pub(crate) struct Reading {
    pub batch: Batch,
    parts: Vec<(SequenceId, Part)>,
    /// The layer that comes next.
    next: usize,
}

impl Reading {
    pub fn new(batch: Batch, parts: Vec<Part>, running: &[Running]) -> Self {
        let parts = parts.into_iter().map(|part| (running[part.index].sequence, part)).collect();
        Self { batch, parts, next: 0 }
    }

    pub fn rows(&self) -> usize {
        self.batch.tokens().len()
    }

    /// Whether it is about this sequence, which must stay as it is until the last layer.
    pub fn has(&self, sequence: SequenceId) -> bool {
        self.parts.iter().any(|(own, _)| *own == sequence)
    }

    /// The next layers of `all`, at most `count`.
    pub fn take(&mut self, count: usize, all: usize) -> Range<usize> {
        let start = self.next;
        self.next = all.min(start.saturating_add(count));
        start..self.next
    }

    /// Its parts, now that others may have left the running batch.
    pub fn parts(self, running: &[Running]) -> Vec<Part> {
        let place = |sequence| running.iter().position(|running| running.sequence == sequence);
        let parts = self.parts.into_iter();
        parts.filter_map(|(sequence, part)| Some(Part { index: place(sequence)?, ..part })).collect()
    }
}

/// How long things took lately.
#[derive(Debug, Default)]
pub(crate) struct Pace {
    step: Duration,
    /// Of so many rows.
    layer: (usize, Duration),
}

impl Pace {
    /// A step of those who answer took so long.
    pub fn stepped(&mut self, time: Duration) {
        self.step = time;
    }

    /// So many layers of a pass over so many rows of prompts took so long.
    pub fn read(&mut self, rows: usize, layers: usize, time: Duration) {
        self.layer = (rows, time / u32::try_from(layers.max(1)).unwrap_or(u32::MAX));
    }

    /// Layers over `rows` rows that take three quarters of a step, as times differ: one at least, and one as long as
    /// nothing is known. More rows than were measured are taken to need as much more, fewer to need as much.
    pub fn layers(&self, rows: usize) -> usize {
        let (measured, layer) = self.layer;
        let layer = layer.as_nanos() * rows.max(measured) as u128;
        let time = (self.step * 3 / 4).as_nanos() * measured as u128;
        let layers = time.checked_div(layer).unwrap_or(1);
        usize::try_from(layers).unwrap_or(usize::MAX).max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_between_steps_take_as_long_as_a_step() {
        let ms = Duration::from_millis;
        let mut pace = Pace::default();
        assert_eq!(pace.layers(64), 1);
        pace.stepped(ms(40));
        assert_eq!(pace.layers(64), 1, "nothing is known of layers");
        pace.read(64, 3, ms(30));
        assert_eq!(pace.layers(64), 3);
        pace.stepped(ms(13));
        assert_eq!(pace.layers(64), 1, "one at least");
        pace.stepped(ms(1000));
        assert_eq!(pace.layers(64), 75);
        assert_eq!([pace.layers(8), pace.layers(256)], [75, 18]);
    }

    #[test]
    fn layers_come_in_order_and_end() {
        let mut reading = Reading::new(Batch::default(), Vec::new(), &[]);
        assert_eq!([reading.take(2, 5), reading.take(usize::MAX, 5)], [0..2, 2..5]);
        assert!(reading.take(1, 5).is_empty());
    }
}
