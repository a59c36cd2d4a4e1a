//! The hook points that a model has, and the shapes of their values.

use std::collections::BTreeSet;

use super::hook::Hook;
use super::layers::{missing_layer, parse_layers};
use super::name::HookName;
use super::point::HookPoint;
use super::unknown::UnknownHook;
use crate::arch::family::Positions;
use crate::arch::kinds::{MlpKind, RopeLayout};
use crate::arch::spec::ModelSpec;

/// The reason why a layer does not have a point.
struct Absence {
    why: String,
    /// Points that it may have instead.
    nearest: &'static [HookPoint],
}

impl ModelSpec {
    /// Returns the points of a layer, in the order in which they are computed.
    pub fn hook_points(&self, layer: usize) -> Vec<HookPoint> {
        if layer >= self.layers {
            return Vec::new();
        }
        let all = HookPoint::ALL.iter().copied().filter(|point| point.is_per_layer());
        all.filter(|point| self.absence(*point, layer).is_none()).collect()
    }

    /// Returns the points of the whole model, in the order in which they are computed.
    pub fn global_hook_points(&self) -> Vec<HookPoint> {
        HookPoint::ALL.iter().copied().filter(|point| !point.is_per_layer()).collect()
    }

    /// Returns the shape of one token's values at a hook that the model has. 0 stands for the number of keys.
    pub fn hook_shape(&self, hook: Hook) -> Vec<usize> {
        match hook.point {
            HookPoint::Query | HookPoint::QueryRotated | HookPoint::HeadOutput => {
                vec![self.heads, self.head_dim]
            }
            HookPoint::Key | HookPoint::Value | HookPoint::KeyRotated => vec![self.kv_heads, self.head_dim],
            HookPoint::AttnScores | HookPoint::AttnPattern => vec![self.heads, 0],
            HookPoint::MlpPre | HookPoint::MlpPreLinear | HookPoint::MlpPost => vec![self.intermediate_size],
            HookPoint::Router => vec![self.experts.map_or(0, |experts| experts.count)],
            HookPoint::RouterWeights | HookPoint::RouterExperts => {
                vec![self.experts.map_or(0, |experts| experts.used)]
            }
            HookPoint::Logits => vec![self.vocabulary_size],
            _ => vec![self.hidden_size],
        }
    }

    /// Returns whether the rows of queries and keys are in the order of GGUF's converter, rotated pairs side by side,
    /// where the published weights have each head in halves. Hooks show heads as they were published.
    pub fn permutes_heads(&self) -> bool {
        let published = match self.family.positions {
            Positions::Rotary(rotary) => Some(rotary.layout),
            Positions::Learned => None,
        };
        let layout = self.ropes.first().map(|rope| rope.layout);
        layout == Some(RopeLayout::Interleaved) && published == Some(RopeLayout::Half)
    }

    /// Checks that the model has a hook.
    ///
    /// # Errors
    /// [`UnknownHook`] for a point or a layer that the model does not have.
    pub fn require_hook(&self, hook: Hook) -> Result<(), UnknownHook> {
        let Hook { point, layer } = hook;
        let Some(layer) = layer else {
            if point.is_per_layer() {
                let why = "it needs a layer, in its name or as a list of layers";
                return Err(UnknownHook::new(&hook.name(), why, [Hook::at(point, 0).name()]));
            }
            return Ok(());
        };
        if !point.is_per_layer() {
            let why = "it belongs to the whole model, not to a layer";
            return Err(UnknownHook::new(&hook.name(), why, [point.name()]));
        }
        if layer >= self.layers {
            let last = Hook::at(point, self.layers.max(1) - 1).name();
            return Err(UnknownHook::new(&hook.name(), missing_layer(layer, self.layers), [last]));
        }
        let Some(absence) = self.absence(point, layer) else { return Ok(()) };
        let nearest = absence.nearest.iter().filter(|point| self.absence(**point, layer).is_none());
        let nearest = nearest.map(|point| Hook::at(*point, layer).name());
        Err(UnknownHook::new(&hook.name(), absence.why, nearest))
    }

    /// Returns the hooks that names and a list of layers mean, each once, in the order in which they are computed. The
    /// list (`all`, `0,5-10`) is for the names without a layer of their own; it may be empty if there are none.
    ///
    /// # Errors
    /// [`UnknownHook`] for the first name, layer or point that the model does not have.
    pub fn resolve_hooks(&self, names: &[String], layers: &str) -> Result<Vec<Hook>, UnknownHook> {
        let listed = match layers.trim() {
            "" => None,
            text => {
                let whole = || format!("0-{}", self.layers.max(1) - 1);
                let parsed = parse_layers(text, self.layers);
                Some(parsed.map_err(|why| UnknownHook::new(&format!("layers {text}"), why, [whole()]))?)
            }
        };
        // Names are many in hostile requests, points are few.
        let mut without_layer = BTreeSet::new();
        let mut hooks = BTreeSet::new();
        for name in names {
            let HookName { point, layer } = name.parse()?;
            if layer.is_none() && point.is_per_layer() && listed.is_some() {
                without_layer.insert(point);
                continue;
            }
            let hook = Hook { point, layer };
            if hooks.insert(hook) {
                self.require_hook(hook)?;
            }
        }
        for layer in listed.unwrap_or_default() {
            for point in &without_layer {
                let hook = Hook::at(*point, layer);
                self.require_hook(hook)?;
                hooks.insert(hook);
            }
        }
        Ok(hooks.into_iter().collect())
    }

    /// Returns why a layer does not have a point; `None` if it does.
    fn absence(&self, point: HookPoint, layer: usize) -> Option<Absence> {
        use HookPoint as P;
        let experts = self.layer_specs.get(layer).is_some_and(|layer| layer.experts);
        let normed_before = self.norm.place.before();
        let (why, nearest): (String, &'static [HookPoint]) = match point {
            P::ResidMid if self.parallel_residual => {
                ("attention and MLP run in parallel".to_owned(), &[P::ResidPre, P::ResidPost])
            }
            P::AttnNorm if !normed_before => {
                ("attention's input is not normed".to_owned(), &[P::AttnIn, P::ResidPre])
            }
            P::MlpNorm if !normed_before => {
                ("the MLP's input is not normed".to_owned(), &[P::MlpIn, P::ResidMid])
            }
            P::MlpPre | P::MlpPreLinear | P::MlpPost if experts => {
                let why = format!("the MLP of layer {layer} is a mixture of experts");
                (why, &[P::MlpIn, P::Router, P::Mlp])
            }
            P::MlpPreLinear if self.mlp == MlpKind::Plain => {
                ("the MLP has no gate".to_owned(), &[P::MlpPre, P::MlpPost])
            }
            P::Router | P::RouterWeights | P::RouterExperts if !experts => {
                (format!("layer {layer} has no experts"), &[P::MlpIn, P::Mlp])
            }
            _ => return None,
        };
        Some(Absence { why, nearest })
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::arch::spec::LayerSpec;
    use crate::checkpoint::Checkpoint;

    fn spec(family: &str) -> ModelSpec {
        let folder = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/fixtures/families"));
        Checkpoint::open(&folder.join(family)).expect("fixtures are in tests/fixtures").spec().clone()
    }

    fn names(points: &[HookPoint]) -> Vec<&'static str> {
        points.iter().map(|point| point.name()).collect()
    }

    #[test]
    fn each_architecture_has_its_points() {
        let check = |family: &str, absent: &[&str]| {
            let points = names(&spec(family).hook_points(1));
            let all = HookPoint::ALL.iter().filter(|point| point.is_per_layer());
            let missing: Vec<_> =
                all.map(|point| point.name()).filter(|name| !points.contains(name)).collect();
            assert_eq!(missing, absent, "{family}");
        };
        let router = ["router", "router_weights", "router_experts"];
        let plain = ["mlp_pre_linear", "router", "router_weights", "router_experts"];
        let neurons = ["mlp_pre", "mlp_pre_linear", "mlp_post"];
        for family in ["llama", "qwen3", "gemma2", "gemma3", "smollm3", "granite"] {
            check(family, &router);
        }
        for family in ["gpt2", "starcoder2"] {
            check(family, &plain);
        }
        check("gpt_neox", &[&["resid_mid"][..], &plain].concat());
        check("phi", &[&["resid_mid"][..], &plain].concat());
        check("cohere", &[&["resid_mid"][..], &router].concat());
        check("olmo2", &[&["attn_norm", "mlp_norm"][..], &router].concat());
        for family in ["mixtral", "qwen3_moe", "gpt_oss"] {
            check(family, &neurons);
        }
        assert_eq!(names(&spec("llama").global_hook_points()), ["embed", "final_norm", "logits"]);
        assert!(spec("llama").hook_points(3).is_empty());
    }

    #[test]
    fn shapes_are_those_of_one_token() {
        let check = |family: &str, hook: Hook, expected: &[usize]| {
            assert_eq!(spec(family).hook_shape(hook), expected, "{family}: {hook}");
        };
        check("qwen3", Hook::at(HookPoint::Query, 0), &[4, 32]);
        check("qwen3", Hook::at(HookPoint::KeyRotated, 0), &[2, 32]);
        check("qwen3", Hook::at(HookPoint::HeadOutput, 0), &[4, 32]);
        check("qwen3", Hook::at(HookPoint::AttnPattern, 0), &[4, 0]);
        check("qwen3", Hook::at(HookPoint::MlpPost, 2), &[128]);
        check("qwen3", Hook::at(HookPoint::ResidPost, 2), &[64]);
        check("mixtral", Hook::at(HookPoint::Router, 0), &[4]);
        check("mixtral", Hook::at(HookPoint::RouterExperts, 0), &[2]);
        check("qwen3", Hook::global(HookPoint::Logits), &[128]);
    }

    #[test]
    fn a_missing_point_is_refused_with_the_nearest() {
        let check = |family: &str, hook: Hook, why: &str, nearest: &[&str]| {
            let error = spec(family).require_hook(hook).unwrap_err();
            assert_eq!(error.name, hook.name());
            assert!(error.why.contains(why), "{error}");
            assert_eq!(error.nearest, nearest, "{error}");
        };
        check("phi", Hook::at(HookPoint::ResidMid, 1), "parallel", &["resid_pre.1", "resid_post.1"]);
        check("olmo2", Hook::at(HookPoint::AttnNorm, 0), "not normed", &["attn_in.0", "resid_pre.0"]);
        let nearest = ["mlp_in.2", "router.2", "mlp.2"];
        check("mixtral", Hook::at(HookPoint::MlpPreLinear, 2), "experts", &nearest);
        check("gpt2", Hook::at(HookPoint::MlpPreLinear, 0), "gate", &["mlp_pre.0", "mlp_post.0"]);
        check("llama", Hook::at(HookPoint::Router, 0), "no experts", &["mlp_in.0", "mlp.0"]);
        check("llama", Hook::at(HookPoint::Mlp, 40), "layer 40", &["mlp.2"]);
        check("llama", Hook::at(HookPoint::Logits, 1), "whole model", &["logits"]);
        check("llama", Hook::global(HookPoint::Mlp), "needs a layer", &["mlp.0"]);
        assert_eq!(spec("llama").require_hook(Hook::at(HookPoint::ResidMid, 2)), Ok(()));
    }

    fn resolved(spec: &ModelSpec, names: &[&str], layers: &str) -> Result<Vec<String>, UnknownHook> {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        Ok(spec.resolve_hooks(&names, layers)?.into_iter().map(Hook::name).collect())
    }

    #[test]
    fn names_and_layers_become_hooks_in_the_order_of_computing() {
        let spec = spec("llama");
        let check = |names: &[&str], layers: &str, expected: &[&str]| {
            assert_eq!(resolved(&spec, names, layers).unwrap(), expected);
        };
        check(
            &["logits", "residual", "mlp", "blocks.1.hook_resid_post", "embed", "mlp"],
            "0,1-2",
            &["embed", "mlp.0", "resid_post.0", "mlp.1", "resid_post.1", "mlp.2", "resid_post.2", "logits"],
        );
        check(&["attention.2"], "", &["attn.2"]);
        check(&["q"], "all", &["q.0", "q.1", "q.2"]);
        check(&[], "all", &[]);
    }

    #[test]
    fn wrong_names_and_layers_are_refused() {
        let llama = spec("llama");
        let check = |spec: &ModelSpec, names: &[&str], layers: &str, name: &str, why: &str| {
            let error = resolved(spec, names, layers).unwrap_err();
            assert_eq!(error.name, name, "{error}");
            assert!(error.why.contains(why), "{error}");
        };
        check(&llama, &["residual"], "", "resid_post", "needs a layer");
        check(&llama, &["residual"], "0,7", "layers 0,7", "layer 7 does not exist, the model has 3 layers");
        check(&llama, &["mlp.3"], "0", "mlp.3", "3 layers");
        check(&llama, &["resid"], "0", "resid", "no model");
        check(&spec("phi"), &["mlp", "resid_mid"], "all", "resid_mid.0", "parallel");
        // Experts in some layers only.
        let mixtral = spec("mixtral");
        let mut some = mixtral.layer_specs.clone();
        some[0] = LayerSpec { experts: false, ..some[0] };
        let some = ModelSpec { layer_specs: some, ..mixtral };
        assert_eq!(resolved(&some, &["router"], "1-2").unwrap(), ["router.1", "router.2"]);
        check(&some, &["router"], "all", "router.0", "no experts");
        check(&some, &["mlp_post"], "all", "mlp_post.1", "experts");
    }
}
