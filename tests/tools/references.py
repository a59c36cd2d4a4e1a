#!/usr/bin/env python3
"""What transformers computes when one key of a fixture's config.json is changed.

For each family in tests/fixtures/families: every key of its config.json, and keys of other families that it has not, are set
to other values, one at a time; the model is run with transformers (eager attention, float32) on the first reference row, and
what came out is written to `perturbed.json` beside the config, a line for each change:

    {"set": {key: value}, "gives": "same" | "error" | [every 8th logit of the last token]}

The engine's test walks these lines: each change must give the same numbers or be refused by name. Packed models are left
out: the engine rounds what packed weights are met with.

    pip install torch transformers==5.23.0 safetensors
    tests/tools/references.py [family ...]
"""

import json
import sys
import tempfile
from pathlib import Path

import torch
from safetensors import safe_open
from transformers import AutoModelForCausalLM
from transformers.utils import logging

FAMILIES = Path(__file__).parent.parent / "fixtures" / "families"
EVERY = 8

# Names, bookkeeping, and what only generation, training or saving read.
PASSED_OVER = {
    "architectures", "model_type", "transformers_version", "_name_or_path", "bos_token_id", "eos_token_id",
    "torch_dtype", "dtype",
}
ACTIVATIONS = ["silu", "gelu", "gelu_new", "relu", "quick_gelu"]
ACTIVATION_KEYS = {"hidden_act", "hidden_activation", "activation_function"}
FACTORS = {"short_factor": [1.0 + i / 8 for i in range(64)], "long_factor": [2.0 + i / 4 for i in range(64)]}
SCALINGS = [
    {"rope_type": "linear", "factor": 4.0},
    {"type": "linear", "factor": 2},
    {"rope_type": "dynamic", "factor": 4.0},
    {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
     "original_max_position_embeddings": 32},
    {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32},
    {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32, "beta_fast": 8, "beta_slow": 2,
     "attention_factor": 1.3},
    {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32, "truncate": False, "mscale": 0.7,
     "mscale_all_dim": 0.3},
    {"rope_type": "longrope", "original_max_position_embeddings": 64},
    {"rope_type": "longrope", "original_max_position_embeddings": 16},
    {"rope_type": "longrope", "factor": 8.0, "original_max_position_embeddings": 16, "attention_factor": 1.2},
    {"rope_type": "proportional", "factor": 2.0},
]
# Keys that some family reads. Those that a config has not are added to it.
FOREIGN = {
    "attention_bias": [True],
    "attention_multiplier": [0.5],
    "attn_logit_softcapping": [5.0],
    "decoder_sparse_step": [2],
    "embedding_multiplier": [2.0],
    "final_logit_softcapping": [5.0],
    "head_dim": [8, 32],
    "hidden_act": ["relu"],
    "hidden_activation": ["relu"],
    "intermediate_size": [64],
    "is_causal": [False],
    "layer_types": ["sliding_attention"],
    "logit_scale": [0.5],
    "logits_scaling": [2.0],
    "max_window_layers": [1],
    "mlp_bias": [True],
    "mlp_only_layers": [[0]],
    "no_rope_layer_interval": [2],
    "no_rope_layers": [[1, 0, 1]],
    "norm_topk_prob": [False],
    "num_experts": [4, 8],
    "num_key_value_heads": [1],
    "num_local_experts": [4, 8],
    "original_max_position_embeddings": [16],
    "partial_rotary_factor": [0.5],
    "per_layer_config": [{"0": {"sliding_window": 4}}],
    "qk_layernorm": [True],
    "quantization_config": [{"quant_method": "bitsandbytes", "load_in_8bit": True}],
    "query_pre_attn_scalar": [100],
    "residual_multiplier": [0.5],
    "rope_interleaved": [True],
    "rope_local_base_freq": [500.0],
    "rope_theta": [500.0],
    "rotary_emb_base": [500.0],
    "rotary_pct": [0.5],
    "scale_attn_by_inverse_layer_idx": [True],
    "scale_attn_weights": [False],
    "sliding_window": [4],
    "sliding_window_pattern": [3],
    "tie_word_embeddings": [True, False],
    "use_bidirectional_attention": [True],
    "use_parallel_residual": [True, False],
    "use_qk_norm": [True],
    "use_sliding_window": [True],
}


def others(key, value, config):
    """Other values for a key."""
    if key in PASSED_OVER:
        return []
    if key in ACTIVATION_KEYS:
        return [name for name in ACTIVATIONS if name != value]
    if key == "layer_types":
        return [["full_attention"] * len(value), ["sliding_attention"] * len(value), value[:-1]]
    if isinstance(value, bool):
        return [not value]
    if isinstance(value, int):
        return [number for number in (value // 2, value * 2) if number > 0]
    if isinstance(value, float):
        return [value * 3, value / 3] if value else [0.1]
    if isinstance(value, dict):
        return []
    return FOREIGN.get(key, [])


def changes(config):
    """Sets of keys to be changed together, most of them one."""
    layers = config.get("num_hidden_layers", config.get("n_layer"))
    for key, value in config.items():
        for other in others(key, value, config):
            yield {key: other}
    for key, values in FOREIGN.items():
        if config.get(key) is None:
            for value in values:
                if key == "layer_types":
                    value = [value] * layers
                yield {key: value}
    yield {"use_sliding_window": True, "sliding_window": 4}
    yield {"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 1}
    yield {"sliding_window": 4, "layer_types": None}
    if types := config.get("layer_types"):
        yield {"num_hidden_layers": layers - 1, "layer_types": types[:-1]}
    yield from rope_changes(config)


def rope_changes(config):
    old = "rope_scaling" in config or "rope_parameters" not in config
    current = config.get("rope_scaling" if old else "rope_parameters") or {}
    for key, value in current.items():
        if isinstance(value, float | int):
            yield {"rope_scaling" if old else "rope_parameters": current | {key: value * 2}}
        if isinstance(value, dict):
            for inner, number in value.items():
                if isinstance(number, float | int):
                    changed = current | {key: value | {inner: number / 10}}
                    yield {"rope_scaling" if old else "rope_parameters": changed}
    width = config.get("hidden_size", config.get("n_embd"))
    head = config.get("head_dim") or width // config.get("num_attention_heads", config.get("n_head"))
    if not old:
        yield {"rope_parameters": None}
    flat = {key: value for key, value in current.items() if key in ("rope_theta", "partial_rotary_factor")}
    for scaling in SCALINGS:
        scaling = dict(scaling)
        if scaling.get("rope_type") == "longrope":
            share = flat.get("partial_rotary_factor", config.get("partial_rotary_factor", config.get("rotary_pct", 1.0)))
            pairs = int(head * share) // 2
            scaling |= {name: list_[:pairs] for name, list_ in FACTORS.items()}
        sets = [{"rope_scaling": scaling}] if old else [{"rope_parameters": flat | scaling}]
        if "full_attention" in current:
            sets = [{"rope_parameters": current | {"full_attention": current["full_attention"] | scaling}}]
            sets.append({"rope_parameters": None, "rope_scaling": scaling, "rope_theta": 5e5, "rope_local_base_freq": 2e3})
        for change in sets:
            if config.get("head_dim", 0) is None:
                # transformers stumbles over the null with some scalings.
                change = change | {"head_dim": head}
            yield change
            if scaling.get("rope_type") == "dynamic":
                yield change | {"max_position_embeddings": 16}
            if scaling.get("rope_type") == "longrope":
                yield change | {"original_max_position_embeddings": 20}


def run(config, weights, tokens):
    """The last token's logits."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "config.json").write_text(json.dumps(config))
        (Path(folder) / "model.safetensors").symlink_to(weights)
        model, info = AutoModelForCausalLM.from_pretrained(
            folder, dtype=torch.float32, attn_implementation="eager", output_loading_info=True
        )
    if info["missing_keys"] or info["mismatched_keys"]:
        raise ValueError("the weights are of another model")
    with torch.no_grad():
        return model.eval()(tokens, use_cache=False).logits[0, -1]


def family(folder):
    config = json.loads((folder / "config.json").read_text())
    weights = (folder / "model.safetensors").resolve()
    with safe_open(folder / "reference.safetensors", "pt") as reference:
        tokens = reference.get_tensor("input_ids")[:1]
        expected = reference.get_tensor("logits")[0, -1]
    usual = run(config, weights, tokens)
    assert torch.allclose(usual, expected, atol=1e-5), folder
    lines, seen = [], set()
    for change in changes(config):
        text = json.dumps(change)
        if text in seen or all(config.get(key) == value for key, value in change.items()):
            continue
        seen.add(text)
        try:
            logits = run(config | change, weights, tokens)
        except Exception as error:
            print(f"{folder.name} {text}: {type(error).__name__}", file=sys.stderr)
            gives = "error"
        else:
            same = torch.allclose(logits, usual, atol=1e-6)
            gives = "same" if same else [round(x, 5) for x in logits[::EVERY].tolist()]
        lines.append(json.dumps({"set": change, "gives": gives}))
    (folder / "perturbed.json").write_text("[\n" + ",\n".join(lines) + "\n]\n")
    kinds = [json.loads(line)["gives"] for line in lines]
    print(folder.name, len(lines), "same", kinds.count("same"), "error", kinds.count("error"))


if __name__ == "__main__":
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    torch.manual_seed(0)
    names = sys.argv[1:] or sorted(folder.name for folder in FAMILIES.iterdir() if not folder.name.endswith("-mxfp4"))
    for name in names:
        family(FAMILIES / name)
