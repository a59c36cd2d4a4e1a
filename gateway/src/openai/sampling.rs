//! The fields for sampling, stopping and streaming that both kinds of completions share, and their checks.

use std::collections::HashMap;

use millm_api::openai::request::{GenerationParams, Stop};
use millm_kit::{ServiceError, settings::MAX_DRAFT_TOKENS};
use millm_proto::runtime::v1::{Constraint, Sampling};

use super::{constraint, number_ranges};

/// Choices of each prompt.
const MAX_CHOICES: i64 = 16;
/// OpenAI's own limit.
const MAX_STOPS: usize = 4;
const MAX_STOP_BYTES: usize = 1024;
/// Tokens with a bias.
const MAX_BIASED: usize = 16_384;

/// The part of a request that chats and plain completions share.
#[derive(Debug)]
pub struct Settings {
    /// The model's name.
    pub model: String,
    /// The sampling parameters.
    pub sampling: Sampling,
    /// Texts that end the answer.
    pub stop: Vec<String>,
    /// Answers of each prompt.
    pub choices: u32,
    /// True if the answer is streamed.
    pub stream: bool,
    /// True if the last event of a stream has the usage.
    pub include_usage: bool,
    /// True if the answer continues past the end of the sequence.
    pub ignore_eos: bool,
    /// The form of the answer.
    pub constraint: Option<Constraint>,
    /// Draft tokens of each step; the server's setting unless given.
    pub speculate: Option<u32>,
}

impl TryFrom<GenerationParams> for Settings {
    type Error = ServiceError;

    /// # Errors
    ///
    /// INVALID_ARGUMENT of the field that is missing, out of its range, or given beside one that excludes it.
    fn try_from(mut params: GenerationParams) -> Result<Self, ServiceError> {
        let invalid = ServiceError::invalid_argument;
        let stream = params.stream.unwrap_or(false);
        if params.stream_options.is_some() && !stream {
            return Err(invalid("stream_options", "is for streams: set 'stream' as well"));
        }
        let model = params.model.take().filter(|name| !name.is_empty());
        Ok(Self {
            model: model.ok_or_else(|| invalid("model", "must be given"))?,
            sampling: sampling(&mut params)?,
            stop: stop(params.stop.take())?,
            choices: number_ranges::integer("n", params.n, 1..=MAX_CHOICES)?.unwrap_or(1),
            stream,
            include_usage: params.stream_options.as_ref().is_some_and(|options| options.include_usage),
            ignore_eos: params.ignore_eos.unwrap_or(false),
            speculate: number_ranges::integer(
                "speculate",
                params.speculate,
                0..=i64::from(MAX_DRAFT_TOKENS),
            )?,
            constraint: constraint::of(params)?,
        })
    }
}

fn sampling(params: &mut GenerationParams) -> Result<Sampling, ServiceError> {
    let top_p = number_ranges::number("top_p", params.top_p, 0.0..=1.0)?;
    let penalty = |field, value| number_ranges::number(field, value, -2.0..=2.0);
    Ok(Sampling {
        temperature: number_ranges::number("temperature", params.temperature, 0.0..=2.0)?,
        // 0 would leave no token: the smallest positive value leaves the likeliest one.
        top_p: top_p.map(|p| p.max(1e-6)),
        top_k: number_ranges::integer("top_k", params.top_k, 0..=i64::from(i32::MAX))?,
        min_p: number_ranges::number("min_p", params.min_p, 0.0..=1.0)?,
        repetition_penalty: number_ranges::number(
            "repetition_penalty",
            params.repetition_penalty,
            0.01..=10.0,
        )?,
        frequency_penalty: penalty("frequency_penalty", params.frequency_penalty)?,
        presence_penalty: penalty("presence_penalty", params.presence_penalty)?,
        seed: params.seed.map(i64::cast_unsigned),
        logit_bias: logit_bias(params.logit_bias.take().unwrap_or_default())?,
        chat_defaults: false,
    })
}

fn logit_bias(given: HashMap<String, f64>) -> Result<HashMap<u32, f32>, ServiceError> {
    let invalid = |why| ServiceError::invalid_argument("logit_bias", why);
    if given.len() > MAX_BIASED {
        let why = format!("has {} tokens, the most allowed are {MAX_BIASED}", given.len());
        return Err(ServiceError::invalid_argument("logit_bias", why));
    }
    given
        .into_iter()
        .map(|(id, bias)| {
            let id = id.parse().map_err(|_| invalid("must have token ids as its keys"))?;
            if !(-100.0..=100.0).contains(&bias) {
                return Err(invalid("must have numbers from -100 to 100 as its values"));
            }
            Ok((id, bias as f32))
        })
        .collect()
}

fn stop(given: Option<Stop>) -> Result<Vec<String>, ServiceError> {
    let invalid = |why: String| Err(ServiceError::invalid_argument("stop", why));
    let stops = match given {
        None => Vec::new(),
        Some(Stop::One(stop)) => vec![stop],
        Some(Stop::Many(stops)) => stops,
    };
    if stops.len() > MAX_STOPS {
        return invalid(format!("must be at most {MAX_STOPS} strings, not {}", stops.len()));
    }
    if let Some(stop) = stops.iter().find(|stop| stop.is_empty() || stop.len() > MAX_STOP_BYTES) {
        return invalid(format!("must have strings of 1 to {MAX_STOP_BYTES} bytes, not of {}", stop.len()));
    }
    Ok(stops)
}

/// Returns the sampling of choice number `choice`: with a seed each choice has a seed of its own, the same in every run.
pub fn for_choice(sampling: &Sampling, choice: u32) -> Sampling {
    let seed = sampling.seed.map(|seed| seed.wrapping_add(u64::from(choice)));
    Sampling { seed, ..sampling.clone() }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::body::JsonObject;

    fn take(value: &Value) -> Result<Settings, ServiceError> {
        let mut object = json!({"model": "m"});
        object.as_object_mut().unwrap().extend(value.as_object().unwrap().clone());
        let params: GenerationParams = JsonObject::parse(object.to_string().as_bytes()).unwrap().view()?;
        params.try_into()
    }

    #[test]
    fn what_is_given_is_passed_on() {
        let settings = take(&json!({
            "temperature": 0, "top_p": 0.5, "seed": -1, "n": 2, "stop": "x", "logit_bias": {"5": -100},
            "frequency_penalty": null, "stream": true, "stream_options": {"include_usage": true}
        }))
        .unwrap();
        let sampling = &settings.sampling;
        assert_eq!(
            (sampling.temperature, sampling.top_p, sampling.seed),
            (Some(0.0), Some(0.5), Some(u64::MAX))
        );
        assert_eq!((sampling.frequency_penalty, sampling.logit_bias[&5]), (None, -100.0));
        assert_eq!((settings.stop.as_slice(), settings.choices), (&["x".to_owned()][..], 2));
        assert!(settings.stream && settings.include_usage);
        assert_eq!(for_choice(sampling, 1).seed, Some(0));
    }

    #[test]
    fn mistakes_name_their_field() {
        let check = |value: Value, field: &str| {
            let error = take(&value).unwrap_err();
            assert_eq!(error.details["field"], field, "{}", error.message);
        };
        check(json!({"model": null}), "model");
        check(json!({"model": ""}), "model");
        check(json!({"model": 5}), "model");
        check(json!({"n": 0}), "n");
        check(json!({"n": 17}), "n");
        check(json!({"temperature": 2.1}), "temperature");
        check(json!({"temperature": "hot"}), "temperature");
        check(json!({"top_p": -0.1}), "top_p");
        check(json!({"presence_penalty": 3}), "presence_penalty");
        check(json!({"stop": ["a", "b", "c", "d", "e"]}), "stop");
        check(json!({"stop": ""}), "stop");
        check(json!({"stop": 3}), "stop");
        check(json!({"logit_bias": {"x": 1}}), "logit_bias");
        check(json!({"logit_bias": {"1": 101}}), "logit_bias");
        let many: Value = (0..=MAX_BIASED).map(|id| (id.to_string(), json!(1))).collect();
        check(json!({"logit_bias": many}), "logit_bias");
        check(json!({"stop": "x".repeat(MAX_STOP_BYTES + 1)}), "stop");
        check(json!({"stream_options": {}}), "stream_options");
        check(json!({"seed": 1.5}), "seed");
    }
}
