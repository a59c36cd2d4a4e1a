//! How tokens are chosen: what the request says, else what the model's publisher recommends, else neutral.

use millm_engine::Sampling;
use millm_kit::ServiceError;
use millm_model::GenerationDefaults;
use millm_proto::runtime::v1 as proto;

use crate::failure;

/// INVALID_ARGUMENT names the field that is out of range.
pub fn merge(
    asked: proto::Sampling,
    defaults: &GenerationDefaults,
    vocabulary: usize,
) -> Result<Sampling, ServiceError> {
    let neutral = Sampling::default();
    // Published files say 0 for "off" where that is not the neutral value.
    let on = |value: Option<f32>| value.filter(|value| *value > 0.0);
    // A publisher's `do_sample: false` means greedy whatever the temperature beside it.
    let recommended = if defaults.do_sample == Some(false) { Some(0.0) } else { defaults.temperature };
    let mut logit_bias: Vec<_> = asked.logit_bias.into_iter().collect();
    logit_bias.sort_unstable_by_key(|(id, _)| *id);
    if let Some((id, _)) = logit_bias.iter().find(|(id, _)| *id as usize >= vocabulary) {
        return Err(failure::unknown_token("logit_bias", *id, vocabulary));
    }
    let sampling = Sampling {
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
    sampling.check().map_err(|error| failure::of_submit(&error, ""))?;
    Ok(sampling)
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
    fn the_request_wins_then_the_publisher_then_neutral() {
        let asked = proto::Sampling { temperature: Some(0.0), seed: Some(7), ..proto::Sampling::default() };
        let merged = merge(asked, &defaults(), 10).unwrap();
        let expected = Sampling {
            temperature: 0.0,
            top_k: 20,
            repetition_penalty: 1.1,
            seed: Some(7),
            ..Sampling::default()
        };
        assert_eq!(merged, expected);
        let nothing = merge(proto::Sampling::default(), &GenerationDefaults::default(), 10).unwrap();
        assert_eq!(nothing, Sampling::default());
    }

    #[test]
    fn a_publisher_may_ask_for_greedy() {
        let plain = || Sampling { top_k: 20, repetition_penalty: 1.1, ..Sampling::default() };
        let greedy = GenerationDefaults { do_sample: Some(false), ..defaults() };
        assert_eq!(
            merge(proto::Sampling::default(), &greedy, 10).unwrap(),
            Sampling { temperature: 0.0, ..plain() }
        );
        let asked = proto::Sampling { temperature: Some(1.5), ..proto::Sampling::default() };
        assert_eq!(merge(asked, &greedy, 10).unwrap(), Sampling { temperature: 1.5, ..plain() });
    }

    #[test]
    fn mistakes_name_their_field() {
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
