//! The MLP of a layer: gated, plain, or a choice of experts.

use millm_model::spec::{Activation, Experts as Choice};

use crate::activations::{MlpBuffers as Buffers, sized};
use crate::inputs::Scratch;
use crate::linear::{Linear, together};
use crate::team::Team;
use crate::vector::{exp, gelu, gelu_tanh, max, silu, swish};

pub(crate) enum Mlp<L = Linear> {
    One(Hidden<L>),
    Experts(Experts<L>),
}

/// `down(activation(gate(x)) * up(x))`, or without a gate `down(activation(up(x)))`.
pub(crate) struct Hidden<L = Linear> {
    pub gate: Option<L>,
    pub up: L,
    pub down: L,
}

pub(crate) struct Experts<L = Linear> {
    pub router: L,
    pub each: Vec<Hidden<L>>,
    pub choice: Choice,
}

/// What all MLPs of a pass share.
pub(crate) struct Pass<'a> {
    pub team: &'a Team,
    /// How many rows, the first ones, are steps.
    pub steps: usize,
    pub activation: Activation,
    pub scratch: &'a mut Scratch,
}

impl Mlp {
    /// `out = mlp(input)`, rows of the residual's width each.
    pub fn forward(&self, pass: &mut Pass<'_>, buffers: &mut Buffers, input: &[f32], out: &mut [f32]) {
        match self {
            Self::One(hidden) => hidden.forward(pass, (&mut buffers.gate, &mut buffers.up), input, out),
            Self::Experts(experts) => experts.forward(pass, buffers, input, out),
        }
    }

    /// All its matrices.
    pub fn linears(&self) -> Vec<&Linear> {
        match self {
            Self::One(hidden) => hidden.linears().collect(),
            Self::Experts(experts) => {
                let each = experts.each.iter().flat_map(Hidden::linears);
                std::iter::once(&experts.router).chain(each).collect()
            }
        }
    }
}

impl Hidden {
    fn linears(&self) -> impl Iterator<Item = &Linear> {
        self.gate.iter().chain([&self.up, &self.down])
    }

    fn forward(
        &self,
        pass: &mut Pass<'_>,
        (gate, up): (&mut Vec<f32>, &mut Vec<f32>),
        input: &[f32],
        out: &mut [f32],
    ) {
        let (team, steps, wide) = (pass.team, pass.steps, self.up.weight.rows);
        let rows = input.len() / self.up.weight.columns;
        let up = sized(up, rows * wide);
        let inner = if let Some(linear) = &self.gate {
            let gate = sized(gate, rows * wide);
            let layers = [(linear, &mut *gate), (&self.up, &mut *up)];
            together(team, steps, input, layers, pass.scratch);
            activate(pass, wide, gate, Some(up));
            gate
        } else {
            self.up.forward(team, steps, input, up, pass.scratch);
            activate(pass, wide, up, None);
            up
        };
        self.down.forward(team, steps, inner, out, pass.scratch);
    }
}

impl Experts {
    /// Each expert once, with the rows that chose it.
    fn forward(&self, pass: &mut Pass<'_>, buffers: &mut Buffers, input: &[f32], out: &mut [f32]) {
        let hidden = self.router.weight.columns;
        let rows = input.len() / hidden;
        let Buffers { gate, up, scores, chosen, taken, made } = buffers;
        let scores = sized(scores, rows * self.choice.count);
        self.router.forward(pass.team, pass.steps, input, scores, pass.scratch);
        chosen.clear();
        for (row, scores) in scores.chunks_exact_mut(self.choice.count).enumerate() {
            choose(self.choice, scores, |expert, weight| chosen.push((expert, row, weight)));
        }
        chosen.sort_unstable_by_key(|(expert, row, _)| (*expert, *row));
        out.fill(0.0);
        let all_steps = pass.steps;
        for group in chosen.chunk_by(|a, b| a.0 == b.0) {
            let taken = sized(taken, group.len() * hidden);
            for (taken, (_, row, _)) in taken.chunks_exact_mut(hidden).zip(group) {
                taken.copy_from_slice(&input[row * hidden..(row + 1) * hidden]);
            }
            let made = sized(made, group.len() * hidden);
            // Rows are sorted, so those that are steps still come first.
            pass.steps = group.iter().filter(|(_, row, _)| *row < all_steps).count();
            self.each[group[0].0].forward(pass, (&mut *gate, &mut *up), taken, made);
            for (made, (_, row, weight)) in made.chunks_exact(hidden).zip(group) {
                for (out, made) in out[row * hidden..(row + 1) * hidden].iter_mut().zip(made) {
                    *out += weight * made;
                }
            }
        }
        pass.steps = all_steps;
    }
}

/// Tells the experts of one row and their weights; `scores` are used up.
pub(crate) fn choose(choice: Choice, scores: &mut [f32], mut tell: impl FnMut(usize, f32)) {
    let most = max(scores);
    let mut total = 0.0;
    for score in &mut *scores {
        *score = exp(*score - most);
        total += *score;
    }
    let mut best = Vec::with_capacity(choice.used);
    for _ in 0..choice.used {
        // Of equal ones the first.
        let first = (0..scores.len()).max_by(|a, b| scores[*a].total_cmp(&scores[*b]).then(b.cmp(a)));
        let expert = first.expect("there is an expert for each that is used");
        best.push((expert, scores[expert]));
        scores[expert] = -1.0;
    }
    if choice.normalized {
        total = best.iter().map(|(_, score)| score).sum();
    }
    for (expert, score) in best {
        tell(expert, score / total);
    }
}

/// `values = activation(values) * factors`, rows of `width`; without a gate there are no factors.
fn activate(pass: &Pass<'_>, width: usize, values: &mut [f32], factors: Option<&[f32]>) {
    match pass.activation {
        Activation::Silu => activate_by(silu, pass.team, width, values, factors),
        Activation::Gelu => activate_by(gelu, pass.team, width, values, factors),
        Activation::GeluTanh => activate_by(gelu_tanh, pass.team, width, values, factors),
        Activation::Relu => activate_by(|x| x.max(0.0), pass.team, width, values, factors),
        Activation::Swiglu { alpha, limit } => {
            // What is no number stays so.
            let gate = |x: f32| swish(if x > limit { limit } else { x }, alpha);
            let up = |y: f32| y.clamp(-limit, limit) + 1.0;
            gated_by(gate, up, pass.team, width, values, factors);
        }
    }
}

fn activate_by(
    activation: impl Fn(f32) -> f32 + Sync,
    team: &Team,
    width: usize,
    values: &mut [f32],
    factors: Option<&[f32]>,
) {
    gated_by(activation, |factor| factor, team, width, values, factors);
}

/// For each activation by itself, so that it is a part of the loops.
fn gated_by(
    activation: impl Fn(f32) -> f32 + Sync,
    gated: impl Fn(f32) -> f32 + Sync,
    team: &Team,
    width: usize,
    values: &mut [f32],
    factors: Option<&[f32]>,
) {
    team.rows(values, width, |row, values| match factors {
        Some(factors) => {
            for (value, factor) in values.iter_mut().zip(&factors[row * width..]) {
                *value = activation(*value) * gated(*factor);
            }
        }
        None => {
            for value in values {
                *value = activation(*value);
            }
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_best_are_chosen_and_weighed() {
        let chosen = |normalized: bool, scores: &[f32]| {
            let (count, router_bias, packed) = (scores.len(), false, None);
            let choice = Choice { count, used: 2, intermediate_size: 1, normalized, router_bias, packed };
            let mut list = Vec::new();
            choose(choice, &mut scores.to_vec(), |expert, weight| list.push((expert, weight)));
            list
        };
        let (a, b) = (2f32.ln(), 4f32.ln());
        let list = chosen(true, &[0.0, a, b, 0.0]);
        assert_eq!((list[0].0, list[1].0), (2, 1));
        assert!((list[0].1 - 2.0 / 3.0).abs() < 1e-6 && (list[1].1 - 1.0 / 3.0).abs() < 1e-6);
        let list = chosen(false, &[0.0, a, b, 0.0]);
        assert!((list[0].1 - 0.5).abs() < 1e-6 && (list[1].1 - 0.25).abs() < 1e-6);
        let list = chosen(true, &[1.0, 1.0, 1.0]);
        assert_eq!((list[0].0, list[1].0), (0, 1), "of equal ones the first");
    }
}
