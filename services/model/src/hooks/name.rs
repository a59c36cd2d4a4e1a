//! Hook points as people write them: `resid_post.3`, `residual`, `blocks.3.attn.hook_q`. Names come from requests, so
//! any text may come here.

use std::str::FromStr;

use super::point::HookPoint;
use super::unknown::UnknownHook;

/// The longest name that is read, in bytes.
const MAX_LENGTH: usize = 120;
/// The most edits between a name and one that an error offers instead.
const MAX_EDITS: usize = 3;

/// A hook point as a caller wrote it, perhaps without a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct HookName {
    /// The point.
    pub point: HookPoint,
    /// The layer, if the name has one.
    pub layer: Option<usize>,
}

/// Short names of points.
const SHORT: [(&str, HookPoint); 2] = [("residual", HookPoint::ResidPost), ("attention", HookPoint::Attn)];

/// Names that are known and refused.
struct Refused {
    /// TransformerLens' names stand without `blocks.L.`.
    names: &'static [&'static str],
    why: &'static str,
    nearest: &'static [HookPoint],
}

const REFUSED: &[Refused] = {
    use HookPoint as P;
    &[
        Refused {
            names: &["hook_attn_in", "hook_q_input", "hook_k_input", "hook_v_input"],
            why: "TransformerLens means the residual stream before the norm by it",
            nearest: &[P::ResidPre, P::AttnIn],
        },
        Refused {
            names: &["hook_mlp_in"],
            why: "TransformerLens means the residual stream before the norm by it",
            nearest: &[P::ResidMid, P::MlpIn],
        },
        Refused {
            names: &["hook_scale", "ln1.hook_scale", "ln2.hook_scale", "ln_final.hook_scale"],
            why: "the divisor of a norm has no counterpart here",
            nearest: &[P::AttnNorm, P::MlpNorm],
        },
        Refused {
            names: &["hook_result", "attn.hook_result"],
            why: "heads' outputs after the output projection have no counterpart here",
            nearest: &[P::HeadOutput, P::Attn],
        },
        Refused {
            names: &["hook_pos_embed", "pos_embed"],
            why: "position embeddings have no counterpart here",
            nearest: &[P::Embed, P::ResidPre],
        },
        Refused {
            names: &["ln_final.hook_normalized"],
            why: "the last norm has no point before its gain",
            nearest: &[P::FinalNorm],
        },
        Refused {
            names: &["mamba"],
            why: "no supported architecture has a second mixer",
            nearest: &[P::Attn],
        },
        Refused {
            names: &["moe", "shared_mlp"],
            why: "no supported architecture has an MLP beside its experts",
            nearest: &[P::Mlp],
        },
    ]
};

impl FromStr for HookName {
    type Err = UnknownHook;

    fn from_str(text: &str) -> Result<Self, UnknownHook> {
        let text = text.trim();
        if text.len() > MAX_LENGTH {
            let why = format!("it has {} bytes, the limit is {MAX_LENGTH}", text.len());
            return Err(UnknownHook::new(text, why, [""; 0]));
        }
        let (name, layer) = split_layer(text);
        let layer = layer
            .map(str::parse::<usize>)
            .transpose()
            .map_err(|_| UnknownHook::new(text, "its layer is beyond any model's", [name]))?;
        let point = find(name).ok_or_else(|| unknown(text, name, layer))?;
        if layer.is_some() && !point.is_per_layer() {
            return Err(UnknownHook::new(
                text,
                "it belongs to the whole model, not to a layer",
                [point.name()],
            ));
        }
        Ok(Self { point, layer })
    }
}

impl std::fmt::Display for HookName {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str(&with_layer(self.point, self.layer))
    }
}

/// Splits a name from its layer: `resid_post.3` and `blocks.3.hook_resid_post`. A layer is digits only.
fn split_layer(text: &str) -> (&str, Option<&str>) {
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let of_block = text.strip_prefix("blocks.").and_then(|rest| rest.split_once('.'));
    if let Some((layer, name)) = of_block.filter(|(layer, _)| is_number(layer)) {
        return (name, Some(layer));
    }
    match text.rsplit_once('.') {
        Some((name, layer)) if is_number(layer) => (name, Some(layer)),
        _ => (text, None),
    }
}

fn find(name: &str) -> Option<HookPoint> {
    let named = |point: &&HookPoint| point.name() == name || point.transformer_lens() == Some(name);
    let short = || SHORT.iter().find(|(short, _)| *short == name).map(|(_, point)| *point);
    HookPoint::ALL.iter().find(named).copied().or_else(short)
}

/// Makes the error about a name that no point has.
fn unknown(text: &str, name: &str, layer: Option<usize>) -> UnknownHook {
    if let Some(refused) = REFUSED.iter().find(|refused| refused.names.contains(&name)) {
        let nearest = refused.nearest.iter().map(|point| with_layer(*point, layer));
        return UnknownHook::new(text, refused.why, nearest);
    }
    let own = HookPoint::ALL.iter().flat_map(|point| {
        let names = [Some(point.name()), point.transformer_lens()];
        names.into_iter().flatten().map(|name| (name, *point))
    });
    let mut close: Vec<(usize, HookPoint)> = own
        .chain(SHORT)
        .map(|(own, point)| (own.len(), strsim::osa_distance(name, own), point))
        .filter(|(length, edits, _)| *edits <= MAX_EDITS && 2 * edits <= *length)
        .map(|(_, edits, point)| (edits, point))
        .collect();
    close.sort();
    let mut nearest: Vec<HookPoint> = Vec::new();
    for (_, point) in close {
        if !nearest.contains(&point) {
            nearest.push(point);
        }
    }
    let nearest = nearest.into_iter().map(|point| with_layer(point, layer));
    UnknownHook::new(text, "no model has such a point", nearest)
}

/// Returns a point's name, with the layer if there is one and the point has one.
fn with_layer(point: HookPoint, layer: Option<usize>) -> String {
    match layer.filter(|_| point.is_per_layer()) {
        Some(layer) => format!("{point}.{layer}"),
        None => point.name().to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::hooks::hook::Hook;

    fn parsed(text: &str) -> Result<(HookPoint, Option<usize>), UnknownHook> {
        text.parse().map(|HookName { point, layer }| (point, layer))
    }

    #[test]
    fn points_are_found_by_every_name() {
        for point in HookPoint::ALL.iter().copied() {
            assert_eq!(parsed(point.name()), Ok((point, None)));
            let hook = if point.is_per_layer() { Hook::at(point, 12) } else { Hook::global(point) };
            assert_eq!(parsed(&hook.name()), Ok((point, hook.layer)));
            if let Some(theirs) = hook.transformer_lens() {
                assert_eq!(parsed(&theirs), Ok((point, hook.layer)), "{theirs}");
            }
        }
        assert_eq!(parsed("residual"), Ok((HookPoint::ResidPost, None)));
        assert_eq!(parsed(" attention.3 "), Ok((HookPoint::Attn, Some(3))));
        assert_eq!(parsed("mlp.0"), Ok((HookPoint::Mlp, Some(0))));
        assert_eq!(parsed("attn.hook_q"), Ok((HookPoint::Query, None)));
    }

    #[test]
    fn names_without_a_counterpart_are_refused_with_the_reason() {
        let check = |text: &str, why: &str, nearest: &[&str]| {
            let error = parsed(text).unwrap_err();
            assert_eq!(error.name, text);
            assert!(error.why.contains(why), "{error}");
            assert_eq!(error.nearest, nearest, "{error}");
        };
        check("blocks.3.hook_attn_in", "before the norm", &["resid_pre.3", "attn_in.3"]);
        check("blocks.0.hook_mlp_in", "before the norm", &["resid_mid.0", "mlp_in.0"]);
        check("blocks.1.ln2.hook_scale", "divisor", &["attn_norm.1", "mlp_norm.1"]);
        check("blocks.1.attn.hook_result", "output projection", &["z.1", "attn.1"]);
        check("hook_pos_embed", "position", &["embed", "resid_pre"]);
        check("mamba.4", "second mixer", &["attn.4"]);
        check("logits.4", "whole model", &["logits"]);
        check("resid_post.99999999999999999999999", "layer", &["resid_post"]);
        check("x", "no model", &[]);
    }

    #[test]
    fn a_misspelt_name_gets_the_nearest_ones() {
        let nearest = |text: &str| parsed(text).unwrap_err().nearest;
        assert_eq!(nearest("resid_pots.3")[0], "resid_post.3");
        assert_eq!(nearest("residaul"), ["resid_post"]);
        assert_eq!(nearest("hook_resid_pst")[0], "resid_post");
        assert!(nearest("attn_heads_of_the_second_kind").is_empty());
        assert!(nearest(&"x".repeat(1 << 20)).is_empty());
    }

    proptest! {
        #[test]
        fn any_text_is_a_point_or_an_error(text in "\\PC*") {
            if let Ok(name) = text.parse::<HookName>() {
                prop_assert_eq!(name.to_string().parse::<HookName>().unwrap(), name);
            }
        }

        #[test]
        fn any_layer_is_read_or_refused(point in 0..HookPoint::ALL.len(), layer in "[0-9.+-]{0,24}") {
            let point = HookPoint::ALL[point];
            if let Ok(name) = format!("{point}.{layer}").parse::<HookName>() {
                prop_assert_eq!((name.point, name.layer), (point, layer.parse().ok()));
            }
        }
    }
}
