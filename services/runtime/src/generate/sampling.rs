//! Sampling parameters: the request's values, else the model publisher's, else neutral ones.

use millm_engine::SamplingParams;
use millm_kit::ServiceError;
use millm_model::GenerationDefaults;
use millm_proto::runtime::v1 as proto;

use crate::error;

/// Merges the request's sampling parameters with the publisher's.
///
/// # Errors
///
/// INVALID_ARGUMENT, which names the field that is out of range.
pub(crate) fn merge(
    asked: proto::Sampling,
    defaults: &GenerationDefaults,
    vocabulary: usize,
) -> Result<SamplingParams, ServiceError> {
    let neutral =
        if asked.chat_defaults && !publishes_sampling(defaults) { chat() } else { SamplingParams::default() };
    // Some published files use 0 for "off" where the neutral value is 1.
    let on = |value: Option<f32>| value.filter(|value| *value > 0.0);
    // A publisher's `do_sample: false` means greedy decoding, whatever the temperature.
    let recommended = if defaults.do_sample == Some(false) { Some(0.0) } else { defaults.temperature };
    let mut logit_bias: Vec<_> = asked.logit_bias.into_iter().collect();
    logit_bias.sort_unstable_by_key(|(id, _)| *id);
    if let Some((id, _)) = logit_bias.iter().find(|(id, _)| *id as usize >= vocabulary) {
        return Err(error::unknown_token("logit_bias", *id, vocabulary));
    }
    let sampling = SamplingParams {
        temperature: asked.temperature.or(recommended).unwrap_or(neutral.temperature),
        top_k: asked.top_k.or(defaults.top_k).map_or(neutral.top_k, |k| k as usize),
        top_p: asked.top_p.or(on(defaults.top_p)).unwrap_or(neutral.top_p),
        min_p: asked.min_p.or(defaults.min_p).unwrap_or(neutral.min_p),
        repetition_penalty: asked
            .repetition_penalty
            .or(on(defaults.repetition_penalty))
            .unwrap_or(neutral.repetition_penalty),
        frequency_penalty: asked.frequency_penalty.unwrap_or(neutral.frequency_penalty),
        presence_penalty: asked.presence_penalty.unwrap_or(neutral.presence_penalty),
        logit_bias,
        seed: asked.seed,
    };
    sampling.check().map_err(|error| ServiceError::invalid_argument(error.field, error.why))?;
    Ok(sampling)
}

/// Returns whether the publisher recommends a way of sampling.
fn publishes_sampling(defaults: &GenerationDefaults) -> bool {
    let GenerationDefaults { do_sample, temperature, top_k, top_p, min_p, repetition_penalty: _ } = defaults;
    do_sample.is_some() || temperature.is_some() || top_k.is_some() || top_p.is_some() || min_p.is_some()
}

/// Returns the sampling parameters for a chat with a person, if the publisher recommends none.
fn chat() -> SamplingParams {
    SamplingParams { temperature: 0.7, top_p: 0.95, min_p: 0.05, ..SamplingParams::default() }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    fn defaults() -> GenerationDefaults {
        GenerationDefaults {
            temperature: Some(0.6),
            top_k: Some(20),
            top_p: Some(0.0),
            repetition_penalty: Some(1.1),
            ..GenerationDefaults::default()
        }
    }

    #[test]
    fn the_request_overrides_the_publisher() {
        let asked = proto::Sampling { temperature: Some(0.0), seed: Some(7), ..proto::Sampling::default() };
        let merged = merge(asked, &defaults(), 10).unwrap();
        let expected = SamplingParams {
            temperature: 0.0,
            top_k: 20,
            repetition_penalty: 1.1,
            seed: Some(7),
            ..SamplingParams::default()
        };
        assert_eq!(merged, expected);
        let nothing = merge(proto::Sampling::default(), &GenerationDefaults::default(), 10).unwrap();
        assert_eq!(nothing, SamplingParams::default());
    }

    #[test]
    fn a_publisher_may_recommend_greedy_decoding() {
        let plain = || SamplingParams { top_k: 20, repetition_penalty: 1.1, ..SamplingParams::default() };
        let greedy = GenerationDefaults { do_sample: Some(false), ..defaults() };
        assert_eq!(
            merge(proto::Sampling::default(), &greedy, 10).unwrap(),
            SamplingParams { temperature: 0.0, ..plain() }
        );
        let asked = proto::Sampling { temperature: Some(1.5), ..proto::Sampling::default() };
        assert_eq!(merge(asked, &greedy, 10).unwrap(), SamplingParams { temperature: 1.5, ..plain() });
    }

    #[test]
    fn a_chat_has_defaults_where_the_publisher_recommends_nothing() {
        let asked = |temperature| proto::Sampling { temperature, chat_defaults: true, ..Default::default() };
        let nothing = GenerationDefaults { repetition_penalty: Some(1.1), ..GenerationDefaults::default() };
        let expected = SamplingParams { repetition_penalty: 1.1, ..chat() };
        assert_eq!(merge(asked(None), &nothing, 10).unwrap(), expected);
        let greedy = SamplingParams { temperature: 0.0, ..expected };
        assert_eq!(merge(asked(Some(0.0)), &nothing, 10).unwrap(), greedy);
        let published = SamplingParams {
            temperature: 0.6,
            top_k: 20,
            repetition_penalty: 1.1,
            ..SamplingParams::default()
        };
        assert_eq!(merge(asked(None), &defaults(), 10).unwrap(), published);
    }

    #[test]
    fn errors_name_their_field() {
        let default = proto::Sampling::default;
        let cases = [
            ("temperature", proto::Sampling { temperature: Some(f32::NAN), ..default() }),
            ("temperature", proto::Sampling { temperature: Some(-1.0), ..default() }),
            ("top_p", proto::Sampling { top_p: Some(0.0), ..default() }),
            ("top_p", proto::Sampling { top_p: Some(1.1), ..default() }),
            ("min_p", proto::Sampling { min_p: Some(2.0), ..default() }),
            ("repetition_penalty", proto::Sampling { repetition_penalty: Some(0.0), ..default() }),
            ("presence_penalty", proto::Sampling { presence_penalty: Some(f32::INFINITY), ..default() }),
            ("logit_bias", proto::Sampling { logit_bias: HashMap::from([(10, 1.0)]), ..default() }),
            ("logit_bias", proto::Sampling { logit_bias: HashMap::from([(1, f32::NAN)]), ..default() }),
        ];
        for (field, asked) in cases {
            let error = merge(asked, &GenerationDefaults::default(), 10).unwrap_err();
            assert_eq!(error.details.get("field").map(String::as_str), Some(field), "{error}");
        }
    }
}
