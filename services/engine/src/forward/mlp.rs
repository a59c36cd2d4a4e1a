//! The MLP of a layer: gated or not, or a mixture of experts.

use millm_model::arch::{Activation, Experts};

use crate::forward::hooks::{Hook, HookPoint};
use crate::forward::linear::{Linear, forward_together};
use crate::forward::observe::Observer;
use crate::forward::workspace::{MlpWorkspace, Route, sized};
use crate::matmul::activations::Scratch;
use crate::sys::simd::{exp, gelu, gelu_tanh, max, silu, swish};
use crate::sys::thread_pool::ThreadPool;

/// The MLP of a layer. `L` is a linear layer on the device that runs it.
pub(crate) enum Mlp<L = Linear> {
    Dense(FeedForward<L>),
    MixtureOfExperts(MixtureOfExperts<L>),
}

/// `down(activation(gate(x)) * up(x))`, or without a gate `down(activation(up(x)))`.
pub(crate) struct FeedForward<L = Linear> {
    pub gate: Option<L>,
    pub up: L,
    pub down: L,
}

/// A router and the experts that it chooses from.
pub(crate) struct MixtureOfExperts<L = Linear> {
    pub router: L,
    pub experts: Vec<FeedForward<L>>,
    pub spec: Experts,
}

/// The inputs that all MLPs of a pass share.
pub(crate) struct MlpContext<'a, 'o> {
    pub pool: &'a ThreadPool,
    pub layer: usize,
    /// The number of decode rows, which come first.
    pub decode_rows: usize,
    pub activation: Activation,
    pub scratch: &'a mut Scratch,
    pub observer: &'a mut Observer<'o>,
}

impl Mlp {
    /// Computes `out = mlp(input)`, `[rows, hidden]` each.
    pub fn forward(
        &self,
        context: &mut MlpContext<'_, '_>,
        workspace: &mut MlpWorkspace,
        input: &[f32],
        out: &mut [f32],
    ) {
        match self {
            Self::Dense(mlp) => {
                let inner = Inner { gate: &mut workspace.gate, up: &mut workspace.up };
                mlp.forward_shown(context, inner, input, out);
            }
            Self::MixtureOfExperts(mixture) => mixture.forward(context, workspace, input, out),
        }
    }

    /// Returns all its linear layers.
    pub fn linears(&self) -> Vec<&Linear> {
        match self {
            Self::Dense(mlp) => mlp.linears().collect(),
            Self::MixtureOfExperts(mixture) => {
                let experts = mixture.experts.iter().flat_map(FeedForward::linears);
                std::iter::once(&mixture.router).chain(experts).collect()
            }
        }
    }
}

/// Memory for the states within an MLP, `[rows, inner]` each.
struct Inner<'a> {
    gate: &'a mut Vec<f32>,
    up: &'a mut Vec<f32>,
}

/// The states of neurons before the activation, `[rows, inner]` each.
struct Neurons<'a> {
    /// What the activation is applied to: the gate, or without one what up gives.
    pre: &'a mut [f32],
    /// What up gives beside a gate.
    linear: Option<&'a mut [f32]>,
}

impl FeedForward {
    fn linears(&self) -> impl Iterator<Item = &Linear> {
        self.gate.iter().chain([&self.up, &self.down])
    }

    fn forward(&self, context: &mut MlpContext<'_, '_>, inner: Inner<'_>, input: &[f32], out: &mut [f32]) {
        let neurons = self.project(context, inner, input);
        activate(context, self.up.weight.rows, neurons.pre, neurons.linear.as_deref());
        self.down.forward(context.pool, context.decode_rows, neurons.pre, out, context.scratch);
    }

    /// Computes [`FeedForward::forward`] and shows the neurons to hooks.
    fn forward_shown(
        &self,
        context: &mut MlpContext<'_, '_>,
        inner: Inner<'_>,
        input: &[f32],
        out: &mut [f32],
    ) {
        let layer = context.layer;
        let neurons = self.project(context, inner, input);
        context.observer.show(Hook::at(HookPoint::MlpPre, layer), neurons.pre);
        if let Some(linear) = neurons.linear.as_deref() {
            context.observer.show(Hook::at(HookPoint::MlpPreLinear, layer), linear);
        }
        activate(context, self.up.weight.rows, neurons.pre, neurons.linear.as_deref());
        context.observer.show(Hook::at(HookPoint::MlpPost, layer), neurons.pre);
        self.down.forward(context.pool, context.decode_rows, neurons.pre, out, context.scratch);
    }

    fn project<'a>(&self, context: &mut MlpContext<'_, '_>, inner: Inner<'a>, input: &[f32]) -> Neurons<'a> {
        let (pool, decode_rows, width) = (context.pool, context.decode_rows, self.up.weight.rows);
        let rows = input.len() / self.up.weight.columns;
        let up = sized(inner.up, rows * width);
        let Some(linear) = &self.gate else {
            self.up.forward(pool, decode_rows, input, up, context.scratch);
            return Neurons { pre: up, linear: None };
        };
        let gate = sized(inner.gate, rows * width);
        let layers = [(linear, &mut *gate), (&self.up, &mut *up)];
        forward_together(pool, decode_rows, input, layers, context.scratch);
        Neurons { pre: gate, linear: Some(up) }
    }
}

impl MixtureOfExperts {
    /// Runs each expert once, with the rows that chose it.
    fn forward(
        &self,
        context: &mut MlpContext<'_, '_>,
        workspace: &mut MlpWorkspace,
        input: &[f32],
        out: &mut [f32],
    ) {
        let hidden = self.router.weight.columns;
        let rows = input.len() / hidden;
        let MlpWorkspace { gate, up, scores, routes, expert_input, expert_output } = workspace;
        let scores = sized(scores, rows * self.spec.count);
        self.router.forward(context.pool, context.decode_rows, input, scores, context.scratch);
        context.observer.show(Hook::at(HookPoint::Router, context.layer), scores);
        routes.clear();
        for (row, scores) in scores.chunks_exact_mut(self.spec.count).enumerate() {
            route(self.spec, row, scores, routes);
        }
        context.observer.show_routes(context.layer, routes);
        routes.sort_unstable_by_key(|route| (route.expert, route.row));
        out.fill(0.0);
        let decode_rows = context.decode_rows;
        for group in routes.chunk_by(|a, b| a.expert == b.expert) {
            let expert_input = sized(expert_input, group.len() * hidden);
            for (expert_input, Route { row, .. }) in expert_input.chunks_exact_mut(hidden).zip(group) {
                expert_input.copy_from_slice(&input[row * hidden..(row + 1) * hidden]);
            }
            let expert_output = sized(expert_output, group.len() * hidden);
            // Rows are sorted, so the decode rows still come first.
            context.decode_rows = group.iter().filter(|route| route.row < decode_rows).count();
            let inner = Inner { gate: &mut *gate, up: &mut *up };
            self.experts[group[0].expert].forward(context, inner, expert_input, expert_output);
            for (expert_output, Route { row, weight, .. }) in expert_output.chunks_exact(hidden).zip(group) {
                for (out, value) in out[row * hidden..(row + 1) * hidden].iter_mut().zip(expert_output) {
                    *out += weight * value;
                }
            }
        }
        context.decode_rows = decode_rows;
    }
}

/// Adds the experts that one row chooses to `routes`, the best first. `scores`, `[experts]`, are overwritten.
pub(crate) fn route(spec: Experts, row: usize, scores: &mut [f32], routes: &mut Vec<Route>) {
    let largest = max(scores);
    let mut total = 0.0;
    for score in &mut *scores {
        *score = exp(*score - largest);
        total += *score;
    }
    let first = routes.len();
    for _ in 0..spec.used {
        // The first of equal ones.
        let best = (0..scores.len()).max_by(|a, b| scores[*a].total_cmp(&scores[*b]).then(b.cmp(a)));
        let expert = best.expect("there is an expert for each that is used");
        routes.push(Route { expert, row, weight: scores[expert] });
        scores[expert] = -1.0;
    }
    let chosen = &mut routes[first..];
    if spec.normalized {
        total = chosen.iter().map(|route| route.weight).sum();
    }
    for route in chosen {
        route.weight /= total;
    }
}

/// Computes `values = activation(values) * factors`, `[rows, width]`. Without a gate there are no factors.
fn activate(context: &MlpContext<'_, '_>, width: usize, values: &mut [f32], factors: Option<&[f32]>) {
    let pool = context.pool;
    match context.activation {
        Activation::Silu => activate_with(silu, pool, width, values, factors),
        Activation::Gelu => activate_with(gelu, pool, width, values, factors),
        Activation::GeluTanh => activate_with(gelu_tanh, pool, width, values, factors),
        Activation::Relu => activate_with(|x| x.max(0.0), pool, width, values, factors),
        Activation::Swiglu { alpha, limit } => {
            // A comparison instead of `min`: NaN stays NaN.
            let gate = |x: f32| swish(if x > limit { limit } else { x }, alpha);
            let up = |y: f32| y.clamp(-limit, limit) + 1.0;
            gate_with(gate, up, pool, width, values, factors);
        }
    }
}

fn activate_with(
    activation: impl Fn(f32) -> f32 + Sync,
    pool: &ThreadPool,
    width: usize,
    values: &mut [f32],
    factors: Option<&[f32]>,
) {
    gate_with(activation, |factor| factor, pool, width, values, factors);
}

/// Is generic over the functions, so that the compiler inlines them into the loops.
fn gate_with(
    activation: impl Fn(f32) -> f32 + Sync,
    factor_of: impl Fn(f32) -> f32 + Sync,
    pool: &ThreadPool,
    width: usize,
    values: &mut [f32],
    factors: Option<&[f32]>,
) {
    pool.rows(values, width, |row, values| match factors {
        Some(factors) => {
            for (value, factor) in values.iter_mut().zip(&factors[row * width..]) {
                *value = activation(*value) * factor_of(*factor);
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
    fn the_router_chooses_and_weighs_the_best_experts() {
        let chosen = |normalized: bool, scores: &[f32]| {
            let (count, router_bias, packed) = (scores.len(), false, None);
            let spec = Experts { count, used: 2, intermediate_size: 1, normalized, router_bias, packed };
            let mut routes = Vec::new();
            route(spec, 0, &mut scores.to_vec(), &mut routes);
            routes.into_iter().map(|route| (route.expert, route.weight)).collect::<Vec<_>>()
        };
        let (a, b) = (2f32.ln(), 4f32.ln());
        let list = chosen(true, &[0.0, a, b, 0.0]);
        assert_eq!((list[0].0, list[1].0), (2, 1));
        assert!((list[0].1 - 2.0 / 3.0).abs() < 1e-6 && (list[1].1 - 1.0 / 3.0).abs() < 1e-6);
        let list = chosen(false, &[0.0, a, b, 0.0]);
        assert!((list[0].1 - 0.5).abs() < 1e-6 && (list[1].1 - 0.25).abs() < 1e-6);
        let list = chosen(true, &[1.0, 1.0, 1.0]);
        assert_eq!((list[0].0, list[1].0), (0, 1), "the first of equal ones");
    }
}
