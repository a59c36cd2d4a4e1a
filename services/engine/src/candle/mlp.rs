//! The MLP of a layer on a GPU.

use candle_core::{D, Tensor};
use millm_model::arch::Activation;

use crate::candle::linear::CandleLinear;
use crate::error::Result;
use crate::forward::mlp::{FeedForward, MixtureOfExperts, Mlp, route};

impl Mlp<CandleLinear> {
    /// Returns the MLP's output for its input, `[rows, hidden]` each.
    pub(super) fn run(&self, activation: Activation, input: &Tensor) -> Result<Tensor> {
        match self {
            Self::Dense(mlp) => mlp.run(activation, input),
            Self::MixtureOfExperts(mixture) => mixture.run(activation, input),
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

impl FeedForward<CandleLinear> {
    fn run(&self, activation: Activation, input: &Tensor) -> Result<Tensor> {
        let up = self.up.forward(input)?;
        let inner = match &self.gate {
            Some(gate) => (activate(activation, &gate.forward(input)?)? * gate_factor(activation, up)?)?,
            None => activate(activation, &up)?,
        };
        self.down.forward(&inner)
    }

    fn bytes(&self) -> usize {
        self.gate.as_ref().map_or(0, |gate| gate.bytes) + self.up.bytes + self.down.bytes
    }
}

impl MixtureOfExperts<CandleLinear> {
    /// Runs each expert once, with the rows that chose it. The host makes the choice, because it decides what runs.
    fn run(&self, activation: Activation, input: &Tensor) -> Result<Tensor> {
        let (device, used) = (input.device(), self.spec.used);
        let mut scores = self.router.forward(input)?.to_vec2::<f32>()?;
        let mut routes = Vec::with_capacity(scores.len() * used);
        for (row, scores) in scores.iter_mut().enumerate() {
            route(self.spec, row, scores, &mut routes);
        }
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
