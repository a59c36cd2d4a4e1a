//! The MLP of a layer on a GPU.

use candle_core::{D, Tensor};
use millm_model::arch::Activation;

use crate::candle::linear::CandleLinear;
use crate::candle::observe::show;
use crate::error::Result;
use crate::forward::hooks::{Hook, HookPoint};
use crate::forward::mlp::{FeedForward, MixtureOfExperts, Mlp, route};
use crate::forward::observe::Observer;

/// The hooks of a pass, and the layer that runs.
pub(super) struct MlpObserver<'a, 'o> {
    pub layer: usize,
    pub observer: &'a mut Observer<'o>,
}

impl MlpObserver<'_, '_> {
    fn show(&mut self, point: HookPoint, states: &Tensor) -> Result<()> {
        show(self.observer, Hook::at(point, self.layer), states)
    }
}

impl Mlp<CandleLinear> {
    /// Returns the MLP's output for its input, `[rows, hidden]` each.
    pub(super) fn run(
        &self,
        activation: Activation,
        input: &Tensor,
        observer: &mut MlpObserver<'_, '_>,
    ) -> Result<Tensor> {
        match self {
            Self::Dense(mlp) => {
                let neurons = mlp.project(input)?;
                observer.show(HookPoint::MlpPre, &neurons.pre)?;
                if let Some(linear) = &neurons.linear {
                    observer.show(HookPoint::MlpPreLinear, linear)?;
                }
                let post = neurons.activate(activation)?;
                observer.show(HookPoint::MlpPost, &post)?;
                mlp.down.forward(&post)
            }
            Self::MixtureOfExperts(mixture) => mixture.run(activation, input, observer),
        }
    }

    /// Returns the bytes that the weights take.
    pub(super) fn bytes(&self) -> usize {
        match self {
            Self::Dense(mlp) => mlp.bytes(),
            Self::MixtureOfExperts(mixture) => {
                mixture.router.bytes + mixture.experts.iter().map(FeedForward::bytes).sum::<usize>()
            }
        }
    }
}

/// The states of neurons before the activation, `[rows, inner]` each.
struct Neurons {
    /// What the activation is applied to: the gate, or without one what up gives.
    pre: Tensor,
    /// What up gives beside a gate.
    linear: Option<Tensor>,
}

impl Neurons {
    fn activate(self, activation: Activation) -> Result<Tensor> {
        let post = activate(activation, &self.pre)?;
        Ok(match self.linear {
            Some(linear) => (post * gate_factor(activation, linear)?)?,
            None => post,
        })
    }
}

impl FeedForward<CandleLinear> {
    fn run(&self, activation: Activation, input: &Tensor) -> Result<Tensor> {
        self.down.forward(&self.project(input)?.activate(activation)?)
    }

    fn project(&self, input: &Tensor) -> Result<Neurons> {
        let up = self.up.forward(input)?;
        Ok(match &self.gate {
            Some(gate) => Neurons { pre: gate.forward(input)?, linear: Some(up) },
            None => Neurons { pre: up, linear: None },
        })
    }

    fn bytes(&self) -> usize {
        self.gate.as_ref().map_or(0, |gate| gate.bytes) + self.up.bytes + self.down.bytes
    }
}

impl MixtureOfExperts<CandleLinear> {
    /// Runs each expert once, with the rows that chose it. The host makes the choice, because it decides what runs.
    fn run(
        &self,
        activation: Activation,
        input: &Tensor,
        observer: &mut MlpObserver<'_, '_>,
    ) -> Result<Tensor> {
        let (device, used) = (input.device(), self.spec.used);
        let scores = self.router.forward(input)?;
        observer.show(HookPoint::Router, &scores)?;
        let mut scores = scores.to_vec2::<f32>()?;
        let mut routes = Vec::with_capacity(scores.len() * used);
        for (row, scores) in scores.iter_mut().enumerate() {
            route(self.spec, row, scores, &mut routes);
        }
        observer.observer.show_routes(observer.layer, &routes);
        routes.sort_unstable_by_key(|route| (route.expert, route.row));
        let rows: Vec<u32> = routes.iter().map(|route| route.row as u32).collect();
        let weights: Vec<f32> = routes.iter().map(|route| route.weight).collect();
        let selected = input.index_select(&Tensor::new(rows, device)?, 0)?;
        let mut outputs = Vec::new();
        let mut start = 0;
        for group in routes.chunk_by(|a, b| a.expert == b.expert) {
            let expert = &self.experts[group[0].expert];
            outputs.push(expert.run(activation, &selected.narrow(0, start, group.len())?)?);
            start += group.len();
        }
        let weights = Tensor::from_vec(weights, (start, 1), device)?;
        let outputs = Tensor::cat(&outputs, 0)?.broadcast_mul(&weights)?;
        // Back in the order of rows, each with the outputs of its experts.
        let mut order: Vec<u32> = (0..start as u32).collect();
        order.sort_by_key(|index| routes[*index as usize].row);
        let by_row = outputs.index_select(&Tensor::new(order, device)?, 0)?;
        Ok(by_row.reshape((scores.len(), used, input.dim(D::Minus1)?))?.sum(1)?)
    }
}

fn activate(activation: Activation, values: &Tensor) -> Result<Tensor> {
    Ok(match activation {
        Activation::Silu => values.silu(),
        Activation::Gelu => values.gelu_erf(),
        Activation::GeluTanh => values.gelu(),
        Activation::Relu => values.relu(),
        Activation::Swiglu { alpha, limit } => {
            let values = values.minimum(limit)?;
            &values / ((&values * f64::from(-alpha))?.exp()? + 1.0)?
        }
    }?)
}

/// Returns the factor of the activated gate.
fn gate_factor(activation: Activation, up: Tensor) -> Result<Tensor> {
    let Activation::Swiglu { limit, .. } = activation else { return Ok(up) };
    Ok((up.clamp(-limit, limit)? + 1.0)?)
}
