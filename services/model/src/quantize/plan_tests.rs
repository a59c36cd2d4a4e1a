//! The type of each tensor, compared with tables.

use super::*;
use crate::arch::spec::ModelSpec;
use TensorType::{BF16, F16, F32, Q2K, Q3K, Q4_0, Q4K, Q5_0, Q5K, Q6K, Q8_0};

fn spec(layers: usize, hidden: usize, heads: usize, kv_heads: usize, tied: bool) -> ModelSpec {
    let config = format!(
        r#"{{"architectures": ["LlamaForCausalLM"], "model_type": "llama", "num_hidden_layers": {layers},
        "hidden_size": {hidden}, "num_attention_heads": {heads}, "num_key_value_heads": {kv_heads},
        "intermediate_size": {}, "vocab_size": 512, "tie_word_embeddings": {tied}}}"#,
        3 * hidden
    );
    ModelSpec::from_config_json(&config, None).unwrap()
}

fn tensors(spec: &ModelSpec, ty: TensorType) -> Vec<TensorInfo> {
    spec.expected_tensors()
        .into_iter()
        .map(|t| TensorInfo { bytes: ty.bytes_for(&t.shape).unwrap(), name: t.name, ty, shape: t.shape })
        .collect()
}

fn types(scheme: Scheme, spec: &ModelSpec, part: &str) -> Vec<TensorType> {
    let plan = plan(scheme, &tensors(spec, BF16), spec);
    let of_part = |name: &str| {
        name == part || name.ends_with(&format!(".{part}")) || part == "norm" && name.contains("norm")
    };
    plan.tensors.iter().filter(|t| of_part(&t.info.name)).map(|t| t.info.ty).collect()
}

/// The types that llama-quantize gave a model of these dimensions (tests/fixtures/tiny-millm-gguf).
#[test]
fn mixes_are_llama_cpps() {
    let tiny = spec(4, 256, 8, 4, true);
    let check =
        |scheme, part, expected: &[TensorType]| assert_eq!(types(scheme, &tiny, part), expected, "{part}");
    check(Scheme::Q4, "token_embd.weight", &[Q6K]);
    check(Scheme::Q4, "attn_v.weight", &[Q4K, Q4K, Q6K, Q6K]);
    check(Scheme::Q4, "ffn_down.weight", &[Q4K, Q4K, Q6K, Q6K]);
    check(Scheme::Q4, "attn_output.weight", &[Q4K; 4]);
    check(Scheme::Q4, "ffn_up.weight", &[Q4K; 4]);
    check(Scheme::Q4, "norm", &[F32; 9]);
    check(Scheme::Q2, "token_embd.weight", &[Q6K]);
    check(Scheme::Q2, "attn_v.weight", &[Q3K; 4]);
    check(Scheme::Q2, "attn_output.weight", &[Q3K; 4]);
    check(Scheme::Q2, "ffn_down.weight", &[Q3K; 4]);
    check(Scheme::Q2, "attn_k.weight", &[Q2K; 4]);
    check(Scheme::Q8, "ffn_down.weight", &[Q8_0; 4]);
    check(Scheme::Q8, "token_embd.weight", &[Q8_0]);
    check(Scheme::Fp16, "attn_q.weight", &[BF16; 4]);
    check(Scheme::Fp16, "norm", &[F32; 9]);
}

#[test]
fn untied_embeddings_and_shared_values() {
    let wide = spec(24, 512, 8, 2, false);
    assert_eq!(types(Scheme::Q2, &wide, "token_embd.weight"), [Q2K]);
    assert_eq!(types(Scheme::Q2, &wide, "output.weight"), [Q6K]);
    assert_eq!(types(Scheme::Q4, &wide, "token_embd.weight"), [Q4K]);
    assert_eq!(types(Scheme::Q2, &wide, "attn_v.weight"), [Q4K; 24]);
    let more: Vec<usize> = types(Scheme::Q4, &wide, "ffn_down.weight")
        .into_iter()
        .enumerate()
        .filter_map(|(layer, ty)| (ty == Q6K).then_some(layer))
        .collect();
    assert_eq!(more, [0, 1, 2, 5, 8, 11, 14, 17, 20, 21, 22, 23]);
    let seventy = spec(80, 512, 64, 8, false);
    assert_eq!(types(Scheme::Q4, &seventy, "attn_v.weight")[20], Q5K);
}

#[test]
fn odd_rows_get_a_stand_in_and_say_why() {
    // Rows of 896 (3.5 super-blocks), as in Qwen2 0.5B; the down projection's rows have 2688, which is no multiple either.
    let odd = spec(24, 896, 14, 2, true);
    let planned = plan(Scheme::Q4, &tensors(&odd, BF16), &odd);
    assert_eq!((planned.scheme, planned.reason.as_deref()), (Scheme::Q4, None));
    let of = |name: &str| planned.tensors.iter().find(|t| t.info.name == name).unwrap();
    assert_eq!(of("blk.0.attn_q.weight").info.ty, Q5_0);
    assert_eq!(of("token_embd.weight").info.ty, Q8_0);
    assert_eq!(
        of("blk.0.attn_q.weight").reason.as_deref(),
        Some("Q4_K needs rows of whole 256s, these have 896")
    );
    assert_eq!(of("blk.0.attn_norm.weight").reason, None);
}

#[test]
fn schemes_that_fit_nothing_give_way_to_higher_ones() {
    let check = |hidden: usize, heads: usize, asked: Scheme, actual: Scheme, ty: TensorType| {
        let spec = spec(2, hidden, heads, heads, false);
        let planned = plan(asked, &tensors(&spec, F32), &spec);
        assert_eq!(planned.scheme, actual, "{asked} of {hidden}");
        assert_eq!(planned.reason.is_some(), actual != asked);
        assert_eq!(planned.tensors[3].info.ty, ty, "{}", planned.tensors[3].info.name);
    };
    check(64, 4, Scheme::Q2, Scheme::Q4, Q5_0);
    check(64, 4, Scheme::Q8, Scheme::Q8, Q8_0);
    check(48, 4, Scheme::Q2, Scheme::Fp16, F16);
    check(48, 4, Scheme::Fp16, Scheme::Fp16, F16);
    check(256, 4, Scheme::Q2, Scheme::Q2, Q2K);
}

#[test]
fn sizes_are_those_of_the_plan() {
    let tiny = spec(4, 256, 8, 4, true);
    let infos = tensors(&tiny, BF16);
    assert_eq!(planned_bytes(Scheme::Fp16, &infos, &tiny), {
        let norms = 9 * 256;
        2 * tiny.parameter_count() + 2 * norms
    });
    let sizes = [Scheme::Q2, Scheme::Q4, Scheme::Q8, Scheme::Fp16].map(|s| planned_bytes(s, &infos, &tiny));
    assert!(sizes.is_sorted());
    assert_eq!(tensor_type_for(Scheme::Q8, &infos[0], &tiny), Q8_0);
    assert_eq!(replacement(Q3K), Q4_0);
}
