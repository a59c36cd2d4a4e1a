//! What both kinds of completions say about sampling, stopping and streaming.

use std::collections::HashMap;

use millm_kit::ServiceError;
use millm_proto::runtime::v1::{Constraint, Sampling};
use serde::Deserialize;

use super::constraint;
use crate::body::Fields;

/// Choices per prompt.
const MOST_CHOICES: i64 = 16;
/// As OpenAI has it.
const MOST_STOPS: usize = 4;
const LONGEST_STOP: usize = 1024;
/// Tokens with a bias of their own.
const MOST_BIASED: usize = 16_384;
const MOST_GUESSED: i64 = 16;

/// The part of a request that chat and plain completions share.
#[derive(Debug)]
pub struct Settings {
    pub model: String,
    pub sampling: Sampling,
    pub stop: Vec<String>,
    pub choices: u32,
    pub stream: bool,
    pub include_usage: bool,
    pub ignore_eos: bool,
    pub constraint: Option<Constraint>,
    /// Not OpenAI's: tokens guessed ahead.
    pub speculate: Option<u32>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Stop {
    One(String),
    Many(Vec<String>),
}

#[derive(Deserialize)]
struct StreamOptions {
    #[serde(default)]
    include_usage: bool,
}

impl Settings {
    pub fn take(fields: &mut Fields) -> Result<Self, ServiceError> {
        let invalid = ServiceError::invalid_argument;
        let stream = fields.take("stream")?.unwrap_or(false);
        let options: Option<StreamOptions> = fields.take("stream_options")?;
        if options.is_some() && !stream {
            return Err(invalid("stream_options", "is for streams: set 'stream' as well"));
        }
        Ok(Self {
            model: fields.required("model")?,
            sampling: sampling(fields)?,
            stop: stop(fields)?,
            choices: fields.integer("n", 1..=MOST_CHOICES)?.unwrap_or(1) as u32,
            stream,
            include_usage: options.is_some_and(|options| options.include_usage),
            ignore_eos: fields.take("ignore_eos")?.unwrap_or(false),
            constraint: constraint::take(fields)?,
            speculate: fields.integer("speculate", 0..=MOST_GUESSED)?.map(|n| n as u32),
        })
    }
}

fn sampling(fields: &mut Fields) -> Result<Sampling, ServiceError> {
    let seed: Option<i64> = fields.integer("seed", i64::MIN..=i64::MAX)?;
    let top_p = fields.number("top_p", 0.0..=1.0)?;
    Ok(Sampling {
        temperature: fields.number("temperature", 0.0..=2.0)?,
        // None at all would leave no token: as good as none is the most likely one.
        top_p: top_p.map(|p| p.max(1e-6)),
        // Not OpenAI's, but what servers of open models take.
        top_k: fields.integer("top_k", 0..=i64::from(i32::MAX))?.map(|k| k as u32),
        min_p: fields.number("min_p", 0.0..=1.0)?,
        repetition_penalty: fields.number("repetition_penalty", 0.01..=10.0)?,
        frequency_penalty: fields.number("frequency_penalty", -2.0..=2.0)?,
        presence_penalty: fields.number("presence_penalty", -2.0..=2.0)?,
        seed: seed.map(i64::cast_unsigned),
        logit_bias: logit_bias(fields)?,
    })
}

fn logit_bias(fields: &mut Fields) -> Result<HashMap<u32, f32>, ServiceError> {
    let given: HashMap<String, f64> = fields.take("logit_bias")?.unwrap_or_default();
    let invalid = |why| ServiceError::invalid_argument("logit_bias", why);
    if given.len() > MOST_BIASED {
        let why = format!("has {} tokens, the most allowed are {MOST_BIASED}", given.len());
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

fn stop(fields: &mut Fields) -> Result<Vec<String>, ServiceError> {
    let invalid = |why: String| Err(ServiceError::invalid_argument("stop", why));
    let stops = match fields.take("stop")? {
        None => Vec::new(),
        Some(Stop::One(stop)) => vec![stop],
        Some(Stop::Many(stops)) => stops,
    };
    if stops.len() > MOST_STOPS {
        return invalid(format!("must be at most {MOST_STOPS} strings, not {}", stops.len()));
    }
    if let Some(stop) = stops.iter().find(|stop| stop.is_empty() || stop.len() > LONGEST_STOP) {
        return invalid(format!("must have strings of 1 to {LONGEST_STOP} bytes, not of {}", stop.len()));
    }
    Ok(stops)
}

/// Of choice number `choice`: a seed gives each choice a text of its own, and all of them the same again.
pub fn for_choice(sampling: &Sampling, choice: u32) -> Sampling {
    let seed = sampling.seed.map(|seed| seed.wrapping_add(u64::from(choice)));
    Sampling { seed, ..sampling.clone() }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn take(value: &Value) -> Result<Settings, ServiceError> {
        let mut object = json!({"model": "m"});
        object.as_object_mut().unwrap().extend(value.as_object().unwrap().clone());
        Settings::take(&mut Fields::parse(object.to_string().as_bytes()).unwrap())
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
        let many: Value = (0..=MOST_BIASED).map(|id| (id.to_string(), json!(1))).collect();
        check(json!({"logit_bias": many}), "logit_bias");
        check(json!({"stop": "x".repeat(LONGEST_STOP + 1)}), "stop");
        check(json!({"stream_options": {}}), "stream_options");
        check(json!({"seed": 1.5}), "seed");
    }
}
