//! A request's sampling parameters.

/// The sampling parameters. The default samples from the model's own distribution.
#[derive(Debug, Clone, PartialEq)]
pub struct SamplingParams {
    /// Divides the logits. 0 always takes the most likely token.
    pub temperature: f32,
    /// Only the k most likely tokens; 0 is all.
    pub top_k: usize,
    /// Only the fewest most likely tokens that together reach this probability; 1 is all.
    pub top_p: f32,
    /// Only tokens at least this probable relative to the most likely one; 0 is all.
    pub min_p: f32,
    /// Applies to tokens of the prompt and of the answer: a positive logit is divided by this, a negative one
    /// multiplied. 1 is off.
    pub repetition_penalty: f32,
    /// Subtracted from a token's logit for each time that the answer contains it.
    pub frequency_penalty: f32,
    /// Subtracted once from the logit of each token that the answer contains.
    pub presence_penalty: f32,
    /// Token ids and what is added to their logits.
    pub logit_bias: Vec<(u32, f32)>,
    /// The same seed and request give the same tokens. `None` takes a seed from the operating system.
    pub seed: Option<u64>,
}

/// A parameter that is out of range.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InvalidParameter {
    /// The parameter's name.
    pub field: &'static str,
    /// The range that it must be in.
    pub why: &'static str,
}

impl Default for SamplingParams {
    fn default() -> Self {
        Self {
            temperature: 1.0,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            repetition_penalty: 1.0,
            frequency_penalty: 0.0,
            presence_penalty: 0.0,
            logit_bias: Vec::new(),
            seed: None,
        }
    }
}

impl SamplingParams {
    /// Returns parameters that always take the most likely token.
    pub fn greedy() -> Self {
        Self { temperature: 0.0, ..Self::default() }
    }

    /// Checks the range of each parameter.
    ///
    /// # Errors
    /// Returns the first parameter that is out of range.
    pub fn check(&self) -> Result<(), InvalidParameter> {
        let valid =
            |holds: bool, field, why| if holds { Ok(()) } else { Err(InvalidParameter { field, why }) };
        valid(self.temperature.is_finite() && self.temperature >= 0.0, "temperature", "must be 0 or more")?;
        valid(self.top_p > 0.0 && self.top_p <= 1.0, "top_p", "must be above 0 and at most 1")?;
        valid((0.0..=1.0).contains(&self.min_p), "min_p", "must be from 0 to 1")?;
        let repetition = self.repetition_penalty;
        valid(repetition.is_finite() && repetition > 0.0, "repetition_penalty", "must be above 0")?;
        valid(self.frequency_penalty.is_finite(), "frequency_penalty", "must be a number")?;
        valid(self.presence_penalty.is_finite(), "presence_penalty", "must be a number")?;
        valid(!self.logit_bias.iter().any(|(_, bias)| bias.is_nan()), "logit_bias", "must be numbers")
    }

    /// Returns whether penalties or biases change the logits. The comparisons are exact: each is off at one value
    /// only.
    #[allow(clippy::float_cmp)]
    pub(crate) fn adjusts_logits(&self) -> bool {
        !self.logit_bias.is_empty()
            || self.repetition_penalty != 1.0
            || self.frequency_penalty != 0.0
            || self.presence_penalty != 0.0
    }
}
