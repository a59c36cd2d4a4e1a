//! The MLP of a layer on a device.

use candle_core::{D, Tensor};
use millm_model::spec::Activation;

use crate::error::Result;
use crate::mlp::{Experts, Hidden, Mlp, choose};

use super::linear::Linear;

impl Mlp<Linear> {
    /// Rows of the residual's width, in and out.
    pub(super) fn run(&self, activation: Activation, input: &Tensor) -> Result<Tensor> {
        match self {
            Self::One(hidden) => hidden.run(activation, input),
            Self::Experts(experts) => experts.run(activation, input),
        }
    }

    pub(super) fn bytes(&self) -> usize {
        match self {
            Self::One(hidden) => hidden.bytes(),
            Self::Experts(experts) => {
                experts.router.bytes + experts.each.iter().map(Hidden::bytes).sum::<usize>()
            }
        }
    }
}

impl Hidden<Linear> {
    fn run(&self, activation: Activation, input: &Tensor) -> Result<Tensor> {
        let up = self.up.forward(input)?;
        let inner = match &self.gate {
            Some(gate) => (activate(activation, &gate.forward(input)?)? * gated(activation, up)?)?,
            None => activate(activation, &up)?,
        };
        self.down.forward(&inner)
    }

    fn bytes(&self) -> usize {
        self.gate.as_ref().map_or(0, |gate| gate.bytes) + self.up.bytes + self.down.bytes
    }
}

impl Experts<Linear> {
    /// Each expert once, with the rows that chose it. The choice is made on the host: it says what is to be run.
    fn run(&self, activation: Activation, input: &Tensor) -> Result<Tensor> {
        let (device, used) = (input.device(), self.choice.used);
        let mut scores = self.router.forward(input)?.to_vec2::<f32>()?;
        let mut chosen = Vec::with_capacity(scores.len() * used);
        for (row, scores) in scores.iter_mut().enumerate() {
            choose(self.choice, scores, |expert, weight| chosen.push((expert, row, weight)));
        }
        chosen.sort_unstable_by_key(|(expert, row, _)| (*expert, *row));
        let rows: Vec<u32> = chosen.iter().map(|(_, row, _)| *row as u32).collect();
        let weights: Vec<f32> = chosen.iter().map(|(_, _, weight)| *weight).collect();
        let taken = input.index_select(&Tensor::new(rows, device)?, 0)?;
        let mut made = Vec::new();
        let mut start = 0;
        for group in chosen.chunk_by(|a, b| a.0 == b.0) {
            made.push(self.each[group[0].0].run(activation, &taken.narrow(0, start, group.len())?)?);
            start += group.len();
        }
        let made = Tensor::cat(&made, 0)?.broadcast_mul(&Tensor::from_vec(weights, (start, 1), device)?)?;
        // Back in the order of rows, each with what its experts made.
        let mut places: Vec<u32> = (0..start as u32).collect();
        places.sort_by_key(|place| chosen[*place as usize].1);
        let of_rows = made.index_select(&Tensor::new(places, device)?, 0)?;
        Ok(of_rows.reshape((scores.len(), used, input.dim(D::Minus1)?))?.sum(1)?)
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

/// What the activated gate is multiplied by.
fn gated(activation: Activation, up: Tensor) -> Result<Tensor> {
    let Activation::Swiglu { limit, .. } = activation else { return Ok(up) };
    Ok((up.clamp(-limit, limit)? + 1.0)?)
}
