//! Hooks that keep the states of a pass.

use std::collections::{HashMap, HashSet};

use millm_engine::{Batch, Hook, HookPoint, Hooks, Segment, SequenceId};

/// The states of each row, by hook and sequence, in order of position. Attention's scores and weights are those of the
/// keys up to the row's own, `[heads, keys]`.
#[derive(Default)]
pub struct Collected {
    /// `None` wants all hooks.
    wanted: Option<HashSet<Hook>>,
    states: HashMap<(Hook, SequenceId), Vec<Vec<f32>>>,
    /// The hooks that received something, in order, with repetitions.
    pub received: Vec<Hook>,
}

impl Collected {
    /// Makes hooks that want these points only.
    pub fn only(hooks: &[Hook]) -> Self {
        Self { wanted: Some(hooks.iter().copied().collect()), ..Self::default() }
    }

    /// Returns the states of a sequence's rows.
    pub fn rows(&self, hook: Hook, sequence: SequenceId) -> &[Vec<f32>] {
        let rows = self.states.get(&(hook, sequence));
        rows.unwrap_or_else(|| panic!("{hook} was not shown"))
    }

    /// Returns every hook that was shown for a sequence.
    pub fn hooks(&self, sequence: SequenceId) -> HashSet<Hook> {
        self.states.keys().filter(|(_, own)| *own == sequence).map(|(hook, _)| *hook).collect()
    }
}

impl Hooks for Collected {
    fn wants(&self, hook: Hook) -> bool {
        self.wanted.as_ref().is_none_or(|wanted| wanted.contains(&hook))
    }

    fn receive(&mut self, hook: Hook, states: &[f32], batch: &Batch) {
        self.received.push(hook);
        let all: Vec<usize> = (0..batch.tokens().len()).collect();
        // Logits are those of the outputs only.
        let rows = if hook.point == HookPoint::Logits { batch.outputs() } else { &all };
        assert!(states.len().is_multiple_of(rows.len()), "{hook}");
        let width = states.len() / rows.len();
        for segment in batch.segments() {
            for (states, row) in states.chunks_exact(width).zip(rows) {
                if segment.rows.contains(row) {
                    self.states.entry((hook, segment.sequence)).or_default().push(states.to_vec());
                }
            }
        }
    }

    fn receive_attention(&mut self, hook: Hook, segment: &Segment, keys: usize, values: &[f32]) {
        self.received.push(hook);
        assert_eq!(keys, segment.position + segment.rows.len(), "{hook}");
        assert!(values.len().is_multiple_of(segment.rows.len() * keys), "{hook}");
        let width = values.len() / segment.rows.len();
        let masked = if hook.point == HookPoint::AttnPattern { 0.0 } else { f32::NEG_INFINITY };
        for (row, values) in values.chunks_exact(width).enumerate() {
            let seen = segment.position + row + 1;
            let later = values.chunks_exact(keys).flat_map(|head| &head[seen..]);
            assert!(later.into_iter().all(|value| value.to_bits() == f32::to_bits(masked)), "{hook}");
            let states = values.chunks_exact(keys).flat_map(|head| &head[..seen]).copied().collect();
            self.states.entry((hook, segment.sequence)).or_default().push(states);
        }
    }
}
