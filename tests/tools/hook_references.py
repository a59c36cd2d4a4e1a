#!/usr/bin/env python3
"""Computes the values at every hook point with transformers, for the tests of the engine's hooks.

For each family: the fixture model in tests/fixtures/families/<family> is run (eager attention, float32) on the first row of
its reference's `input_ids`. The values at the hook points of all layers go into tests/fixtures/hooks/<family>.safetensors,
those of a few tokens (`positions`) to keep the files small: [positions, width], attention's scores and weights
[positions, heads, tokens]. Names are miLLM's: `resid_pre.0`, `q_rot.1`, `final_norm`.

    pip install torch transformers==5.24.0 safetensors
    tests/tools/hook_references.py [family ...]
"""

import copy
import sys
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch.nn import functional
from transformers import AutoModelForCausalLM
from transformers.utils import logging

FIXTURES = Path(__file__).parent.parent / "fixtures"
# Beyond the windows of the fixtures (8 tokens), and in three chunks of 7 tokens.
POSITIONS = [1, 12, 23]
MASKED = -1e30

LLAMA = {
    "layers": "model.layers",
    "final_norm": "model.norm",
    "attn": "self_attn",
    "mlp": "mlp",
    "attn_norm": "input_layernorm",
    "mlp_norm": "post_attention_layernorm",
    "gate": "mlp.gate_proj",
    "up": "mlp.up_proj",
    "down": "mlp.down_proj",
}
UNGATED = {"gate": None}
EXPERTS = {"gate": None, "up": None, "down": None, "router": "mlp.gate"}
SANDWICH = {
    "mlp_norm": "pre_feedforward_layernorm",
    "attn_post_norm": "post_attention_layernorm",
    "mlp_post_norm": "post_feedforward_layernorm",
}
# Where transformers keeps the modules of each family.
FAMILIES = {
    "llama": LLAMA,
    "qwen3": LLAMA,
    "gemma2": LLAMA | SANDWICH,
    "gemma3": LLAMA | SANDWICH,
    "gpt2": LLAMA | UNGATED | {
        "layers": "transformer.h",
        "final_norm": "transformer.ln_f",
        "embed": "transformer.wte",
        "attn": "attn",
        "attn_norm": "ln_1",
        "mlp_norm": "ln_2",
        "up": "mlp.c_fc",
        "down": "mlp.c_proj",
        "qkv": "attn.c_attn",
    },
    "gpt_neox": LLAMA | UNGATED | {
        "layers": "gpt_neox.layers",
        "final_norm": "gpt_neox.final_layer_norm",
        "attn": "attention",
        "up": "mlp.dense_h_to_4h",
        "down": "mlp.dense_4h_to_h",
        "qkv_by_head": "attention.query_key_value",
        "parallel": True,
    },
    "phi": LLAMA | UNGATED | {
        "final_norm": "model.final_layernorm",
        "mlp_norm": "input_layernorm",
        "up": "mlp.fc1",
        "down": "mlp.fc2",
        "parallel": True,
    },
    "mixtral": LLAMA | EXPERTS,
    # What the families above do not have: norms after the modules, heads normed together, a residual multiplier, layers
    # without rotation, interleaved pairs, sinks.
    "olmo2": LLAMA | {
        "attn_norm": None,
        "mlp_norm": None,
        "attn_post_norm": "post_attention_layernorm",
        "mlp_post_norm": "post_feedforward_layernorm",
    },
    "granite": LLAMA,
    "smollm3": LLAMA,
    "cohere": LLAMA | {"mlp_norm": "input_layernorm", "parallel": True},
    "gpt_oss": LLAMA | EXPERTS | {"router": "mlp.router"},
}


def first(output):
    return output[0] if isinstance(output, tuple) else output


class Recorder:
    """Keeps what modules are given and what they return, by the module's name."""

    def __init__(self, model):
        self.inputs, self.outputs, self.attention, self.softmax = {}, {}, {}, None
        for name, module in model.named_modules():
            module.register_forward_pre_hook(self.keep_input(name), with_kwargs=True)
            module.register_forward_hook(self.keep_output(name))

    def keep_input(self, name):
        def keep(module, args, kwargs):
            value = args[0] if args else kwargs.get("hidden_states")
            if torch.is_tensor(value):
                self.inputs[name] = value.detach().clone()

        return keep

    def keep_output(self, name):
        def keep(module, inputs, output):
            values = output if isinstance(output, tuple) else (output,)
            self.outputs[name] = [value.detach().clone() for value in values if torch.is_tensor(value)]

        return keep

    def watch_attention(self, layers):
        """Keeps what each layer's attention is given, its softmax's input and its results."""
        numbers = {id(module): index for index, module in enumerate(layers)}
        implementation = sys.modules[type(layers[0]).__module__]
        eager, softmax = implementation.eager_attention_forward, functional.softmax

        def keep_scores(scores, *args, **kwargs):
            self.softmax = scores.detach().clone()
            return softmax(scores, *args, **kwargs)

        def watched(module, query, key, value, *args, **kwargs):
            functional.softmax = keep_scores
            try:
                heads, weights = eager(module, query, key, value, *args, **kwargs)
            finally:
                functional.softmax = softmax
            tensors = {"q_rot": query, "k_rot": key, "v": value, "pattern": weights, "scores": self.softmax, "z": heads}
            kept = {name: tensor.detach().clone() for name, tensor in tensors.items()}
            self.attention[numbers[id(module)]] = kept
            return heads, weights

        implementation.eager_attention_forward = watched
        return lambda: setattr(implementation, "eager_attention_forward", eager)


def without_gain(norm):
    """A norm with a gain of 1 and no bias. Gemma's weights are added to 1."""
    plain = copy.deepcopy(norm)
    plain._forward_hooks.clear()
    plain._forward_pre_hooks.clear()
    plain.weight.data.fill_(0.0 if "Gemma" in type(norm).__name__ else 1.0)
    if getattr(plain, "bias", None) is not None:
        plain.bias.data.zero_()
    return plain


def heads_first(states):
    """[1, heads, tokens, width] to [tokens, heads, width]."""
    return states[0].transpose(0, 1)


def projections(recorder, names, layer, heads, head_dim):
    """Queries, keys and values as projected, [tokens, heads, head_dim] each."""
    if "qkv" in names:
        parts = recorder.outputs[f"{layer}.{names['qkv']}"][0][0].chunk(3, -1)
    elif "qkv_by_head" in names:
        fused = recorder.outputs[f"{layer}.{names['qkv_by_head']}"][0][0]
        parts = fused.unflatten(-1, (heads, 3 * head_dim)).chunk(3, -1)
    else:
        attention = f"{layer}.{names['attn']}"
        parts = [recorder.outputs[f"{attention}.{part}_proj"][0][0] for part in "qkv"]
    return [part.reshape(part.shape[0], -1, head_dim) for part in parts]


def attention_points(recorder, names, index):
    kept = recorder.attention[index]
    layer, tokens = f"{names['layers']}.{index}", kept["q_rot"].shape[2]
    heads, head_dim = kept["q_rot"].shape[1], kept["q_rot"].shape[3]
    queries, keys, values = projections(recorder, names, layer, heads, head_dim)
    assert torch.equal(values, heads_first(kept["v"]))
    points = {
        "q": queries,
        "k": keys,
        "v": values,
        "q_rot": heads_first(kept["q_rot"]),
        "k_rot": heads_first(kept["k_rot"]),
        "attn_pattern": heads_first(kept["pattern"]),
        "z": kept["z"][0],
        "attn": recorder.outputs[f"{layer}.{names['attn']}"][0][0],
    }
    # With sinks the softmax has one more column, and its input has been shifted.
    if kept["scores"].shape[-1] == tokens:
        scores = heads_first(kept["scores"])
        points["attn_scores"] = scores.masked_fill(scores < MASKED, float("-inf"))
    return points


def mlp_points(recorder, names, layer):
    points = {"mlp": recorder.outputs[f"{layer}.{names['mlp']}"][0][0]}
    if names["up"]:
        up = recorder.outputs[f"{layer}.{names['up']}"][0][0]
        points["mlp_pre"] = recorder.outputs[f"{layer}.{names['gate']}"][0][0] if names["gate"] else up
        points["mlp_post"] = recorder.inputs[f"{layer}.{names['down']}"][0]
        if names["gate"]:
            points["mlp_pre_linear"] = up
    if "router" in names:
        logits, weights, chosen = recorder.outputs[f"{layer}.{names['router']}"]
        points |= {"router": logits, "router_weights": weights, "router_experts": chosen.float()}
    return points


def layer_points(model, recorder, names, index):
    layer = f"{names['layers']}.{index}"
    multiplier = getattr(model.config, "residual_multiplier", 1.0)
    points = attention_points(recorder, names, index) | mlp_points(recorder, names, layer)
    points["resid_pre"] = recorder.inputs[layer][0]
    points["resid_post"] = recorder.outputs[layer][0][0]
    for side in ["attn", "mlp"]:
        points[f"{side}_in"] = recorder.inputs[f"{layer}.{names[side]}"][0]
        if norm := names[f"{side}_norm"]:
            plain = without_gain(model.get_submodule(f"{layer}.{norm}"))
            points[f"{side}_norm"] = plain(recorder.inputs[f"{layer}.{norm}"])[0]
        post_norm = names.get(f"{side}_post_norm")
        added = recorder.outputs[f"{layer}.{post_norm}"][0][0] if post_norm else points[side]
        points[f"{side}_out"] = added * multiplier
    if "parallel" not in names:
        before_mlp = names["mlp_norm"] or names["mlp"]
        points["resid_mid"] = recorder.inputs[f"{layer}.{before_mlp}"][0]
    check(points)
    return points


def check(points):
    """The parts of the residual stream add up."""
    middle = points["resid_pre"] + points["attn_out"]
    if "resid_mid" in points:
        assert torch.allclose(points["resid_mid"], middle, atol=1e-5)
    assert torch.allclose(points["resid_post"], middle + points["mlp_out"], atol=1e-5)


def make(family):
    names, folder = FAMILIES[family], FIXTURES / "families" / family
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
    with safe_open(folder / "reference.safetensors", "pt") as reference:
        tokens = reference.get_tensor("input_ids")[:1]
        expected = reference.get_tensor("logits")[:1]
    recorder = Recorder(model)
    layers = model.get_submodule(names["layers"])
    restore = recorder.watch_attention([layer.get_submodule(names["attn"]) for layer in layers])
    with torch.no_grad():
        logits = model(tokens, use_cache=False).logits
        restore()
        assert torch.allclose(logits, expected, atol=1e-5), family
        points = {"final_norm": recorder.outputs[names["final_norm"]][0][0], "logits": logits[0]}
        first_layer = recorder.inputs[f"{names['layers']}.0"][0]
        points["embed"] = recorder.outputs[names["embed"]][0][0] if "embed" in names else first_layer
        for index in range(len(layers)):
            for name, values in layer_points(model, recorder, names, index).items():
                points[f"{name}.{index}"] = values
    kept = {name: values[POSITIONS].float().contiguous() for name, values in points.items()}
    folder = FIXTURES / "hooks"
    folder.mkdir(exist_ok=True)
    path = folder / f"{family}.safetensors"
    save_file(kept | {"positions": torch.tensor(POSITIONS)}, path)
    print(family, len(kept), "tensors,", path.stat().st_size, "bytes")


if __name__ == "__main__":
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    for family in sys.argv[1:] or FAMILIES:
        make(family)
