//! Makes the outline of a model. It needs names, types and shapes only, so it can be made from a checkpoint as well as
//! from the headers of files that are not here yet.

use super::expert_groups::{ExpertGroups, ExpertTensor};
use super::hook::Hook;
use super::outline::{HookOutline, LayerOutline, ModelOutline, ModuleOutline, TensorOutline, sum};
use crate::arch::kinds::MlpKind;
use crate::arch::spec::ModelSpec;
use crate::tensor::TensorInfo;

/// The modules of a layer in the order in which they are computed, and the tensors that each has (`blk.{}.` before and
/// `.weight` after them).
const LAYER_MODULES: [(&str, &[&str]); 8] = [
    ("attn_norm", &["attn_norm"]),
    ("attn", &["attn_q", "attn_k", "attn_v", "attn_q_norm", "attn_k_norm", "attn_sinks", "attn_output"]),
    ("attn_post_norm", &["post_attention_norm"]),
    ("mlp_norm", &["ffn_norm"]),
    ("mlp", &["ffn_gate", "ffn_up", "ffn_down"]),
    ("router", &["ffn_gate_inp"]),
    ("experts", &[]),
    ("mlp_post_norm", &["post_ffw_norm"]),
];

/// The modules that belong to no layer.
const GLOBAL_MODULES: [(&str, &[&str]); 4] = [
    ("embed", &["token_embd"]),
    ("pos_embed", &["position_embd"]),
    ("final_norm", &["output_norm"]),
    ("output", &["output"]),
];

/// Returns the outline of a model with these tensors, which have canonical names. Tensors that no model has are left
/// out.
pub fn describe<'a>(spec: &ModelSpec, tensors: impl Iterator<Item = &'a TensorInfo>) -> ModelOutline {
    let mut layers: Vec<_> = (0..spec.layers).map(|_| Modules::new(&LAYER_MODULES)).collect();
    let mut global = Modules::new(&GLOBAL_MODULES);
    for tensor in tensors {
        if let Some((layer, part)) = layer_of(&tensor.name) {
            if let Some(modules) = layers.get_mut(layer) {
                modules.add(part, tensor);
            }
        } else {
            global.add(&tensor.name, tensor);
        }
    }
    let layers: Vec<LayerOutline> =
        layers.into_iter().enumerate().map(|(layer, modules)| layer_outline(spec, layer, modules)).collect();
    let modules = global.into_outlines();
    let parts = layers.iter().map(|layer| (layer.parameters, layer.bytes));
    let (parameters, bytes) =
        sum(parts.chain(modules.iter().map(|module| (module.parameters, module.bytes))));
    let hook_points = spec.global_hook_points().into_iter().map(|point| outline(spec, Hook::global(point)));
    ModelOutline { parameters, bytes, hook_points: hook_points.collect(), layers, modules }
}

fn layer_outline(spec: &ModelSpec, layer: usize, modules: Modules) -> LayerOutline {
    let modules = modules.into_outlines();
    let (parameters, bytes) = sum(modules.iter().map(|module| (module.parameters, module.bytes)));
    let hook_points = spec.hook_points(layer).into_iter().map(|point| outline(spec, Hook::at(point, layer)));
    LayerOutline {
        layer,
        attention: attention_line(spec, layer),
        mlp: mlp_line(spec, layer),
        hook_points: hook_points.collect(),
        modules,
        parameters,
        bytes,
    }
}

fn outline(spec: &ModelSpec, hook: Hook) -> HookOutline {
    let point = hook.point;
    HookOutline { hook, shape: spec.hook_shape(hook), writable: point.is_writable(), about: point.about() }
}

/// Returns "attention" or "sliding attention (window 512)", and says where a layer of a rotary model does not rotate.
fn attention_line(spec: &ModelSpec, layer: usize) -> String {
    let Some(layer) = spec.layer_specs.get(layer) else { return "attention".to_owned() };
    let not_rotated = (layer.rope.is_none() && !spec.ropes.is_empty()).then_some("no rotation");
    let window = layer.window.map(|window| format!("window {window}"));
    let notes: Vec<String> = window.into_iter().chain(not_rotated.map(str::to_owned)).collect();
    let kind = if layer.window.is_some() { "sliding attention" } else { "attention" };
    if notes.is_empty() { kind.to_owned() } else { format!("{kind} ({})", notes.join(", ")) }
}

fn mlp_line(spec: &ModelSpec, layer: usize) -> String {
    let has_experts = spec.layer_specs.get(layer).is_some_and(|layer| layer.experts);
    match (spec.experts.filter(|_| has_experts), spec.mlp) {
        (Some(experts), _) => format!("{} experts, {} used", experts.count, experts.used),
        (None, MlpKind::Gated) => "gated MLP".to_owned(),
        (None, MlpKind::Plain) => "MLP".to_owned(),
    }
}

/// Splits `blk.3.attn_q.weight` into 3 and `attn_q.weight`.
fn layer_of(name: &str) -> Option<(usize, &str)> {
    let (layer, part) = name.strip_prefix("blk.")?.split_once('.')?;
    Some((layer.parse().ok()?, part))
}

/// The modules of a layer, or of the whole model, while tensors are added.
struct Modules {
    table: &'static [(&'static str, &'static [&'static str])],
    /// Of each module of the table.
    tensors: Vec<Vec<TensorOutline>>,
    experts: ExpertGroups,
}

impl Modules {
    fn new(table: &'static [(&'static str, &'static [&'static str])]) -> Self {
        Self { table, tensors: vec![Vec::new(); table.len()], experts: ExpertGroups::default() }
    }

    /// Adds a tensor by its name within the layer.
    fn add(&mut self, part: &str, tensor: &TensorInfo) {
        if let Some(expert) = ExpertTensor::parse(&tensor.name) {
            self.experts.add(&expert, tensor);
            return;
        }
        let part = part.split_once('.').map_or(part, |(part, _)| part);
        if let Some(index) = self.table.iter().position(|(_, parts)| parts.contains(&part)) {
            self.tensors[index].push(TensorOutline::of(tensor));
        }
    }

    /// Returns the modules that have tensors.
    fn into_outlines(self) -> Vec<ModuleOutline> {
        let Self { table, mut tensors, experts } = self;
        if let Some(index) = table.iter().position(|(name, _)| *name == "experts") {
            tensors[index].extend(experts.into_outlines());
        }
        let named = table.iter().zip(tensors).filter(|(_, tensors)| !tensors.is_empty());
        named.map(|((name, _), tensors)| ModuleOutline::new(name, tensors)).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::checkpoint::Checkpoint;

    fn checkpoint(family: &str) -> Checkpoint {
        let folder = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/fixtures/families"));
        Checkpoint::open(&folder.join(family)).expect("fixtures are in tests/fixtures")
    }

    fn outline_of(family: &str) -> ModelOutline {
        let checkpoint = checkpoint(family);
        let outline = describe(checkpoint.spec(), checkpoint.tensors());
        assert_eq!(outline.parameters, checkpoint.parameter_count(), "{family}");
        assert_eq!(outline.bytes, checkpoint.weights_bytes(), "{family}");
        outline
    }

    fn modules(of: &[ModuleOutline]) -> Vec<&str> {
        of.iter().map(|module| module.name.as_str()).collect()
    }

    #[test]
    fn no_tensor_of_any_family_is_left_out() {
        for family in ["llama", "gpt2", "gpt_neox", "olmo2", "cohere", "phi", "glm4", "gpt_oss", "qwen3_moe"]
        {
            outline_of(family);
        }
    }

    #[test]
    fn layers_have_modules_in_the_order_of_computing() {
        let llama = outline_of("llama");
        assert_eq!(modules(&llama.modules), ["embed", "final_norm", "output"]);
        assert_eq!(modules(&llama.layers[0].modules), ["attn_norm", "attn", "mlp_norm", "mlp"]);
        let names: Vec<_> =
            llama.layers[2].modules[1].tensors.iter().map(|tensor| tensor.name.as_str()).collect();
        let expected =
            ["blk.2.attn_q.weight", "blk.2.attn_k.weight", "blk.2.attn_v.weight", "blk.2.attn_output.weight"];
        assert_eq!(names, expected);
        let gemma = outline_of("gemma2");
        let expected = ["attn_norm", "attn", "attn_post_norm", "mlp_norm", "mlp", "mlp_post_norm"];
        assert_eq!(modules(&gemma.layers[0].modules), expected);
        assert_eq!(modules(&outline_of("gpt2").modules), ["embed", "pos_embed", "final_norm"]);
    }

    #[test]
    fn attention_and_mlp_are_described() {
        let check = |family: &str, layer: usize, attention: &str, mlp: &str| {
            let outline = outline_of(family);
            let layer = &outline.layers[layer];
            assert_eq!((layer.attention.as_str(), layer.mlp.as_str()), (attention, mlp), "{family}");
        };
        check("llama", 0, "attention", "gated MLP");
        check("gemma2", 0, "sliding attention (window 8)", "gated MLP");
        check("gemma2", 1, "attention", "gated MLP");
        check("gpt2", 0, "attention", "MLP");
        check("mixtral", 0, "attention", "4 experts, 2 used");
        check("smollm3", 3, "sliding attention (window 8, no rotation)", "gated MLP");
    }

    #[test]
    fn experts_are_one_entry_for_each_kind() {
        let mixtral = outline_of("mixtral");
        assert_eq!(
            modules(&mixtral.layers[1].modules),
            ["attn_norm", "attn", "mlp_norm", "router", "experts"]
        );
        let experts = &mixtral.layers[1].modules[4];
        let names: Vec<_> = experts.tensors.iter().map(|tensor| tensor.name.as_str()).collect();
        let expected =
            ["blk.1.ffn_gate.{0..3}.weight", "blk.1.ffn_up.{0..3}.weight", "blk.1.ffn_down.{0..3}.weight"];
        assert_eq!(names, expected);
        assert_eq!(experts.tensors[0].shape, [4, 128, 64]);
        assert_eq!(experts.parameters, 3 * 4 * 128 * 64);
    }

    #[test]
    fn hook_points_have_shapes_and_texts() {
        let outline = outline_of("gpt_neox");
        let names: Vec<String> =
            outline.layers[1].hook_points.iter().map(|outline| outline.hook.name()).collect();
        assert!(!names.contains(&"resid_mid.1".to_owned()));
        assert_eq!((names[0].as_str(), names.len()), ("resid_pre.1", 20));
        assert!(outline.layers[1].hook_points.iter().all(|outline| !outline.about.is_empty()));
        let global: Vec<_> =
            outline.hook_points.iter().map(|outline| (&outline.shape, outline.writable)).collect();
        assert_eq!(global, [(&vec![64], true), (&vec![64], true), (&vec![128], true)]);
    }
}
