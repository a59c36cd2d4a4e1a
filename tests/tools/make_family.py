#!/usr/bin/env python3
"""Makes the fixture of a family: a tiny model of random weights and what transformers computes with it.

Into tests/fixtures/families/<name> go config.json, model.safetensors, the fixtures' tokenizer, and reference.safetensors with
`input_ids` [2, 24], `logits`, `residual.i` (output of block i), `attention.i` and `mlp.i` (what those modules give, before
any norm or factor), and `greedy_ids` [2, 16], whose smallest margin is large enough that rounding does not decide it.
A name that ends in `-mxfp4` is a family's as it is published packed: experts in blocks of four bits, the rest in bf16, and
the config in the older style; the reference is of the same values in float32, and transformers must read them so.

    pip install torch transformers==5.23.0 safetensors accelerate
    tests/tools/make_family.py [family ...]
"""

import json
import shutil
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.integrations.mxfp4 import FP4_VALUES, convert_moe_packed_tensors
from transformers.utils import logging

FAMILIES = Path(__file__).parent.parent / "fixtures" / "families"
TOKENIZER = ["generation_config.json", "tokenizer.json", "tokenizer_config.json"]
MARGIN = 0.01

USUAL = {
    "vocab_size": 128,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
OWN = {
    "olmo2": {},
    "starcoder2": {"sliding_window": 8},
    "smollm3": {"num_hidden_layers": 4, "use_sliding_window": True, "sliding_window": 8},
    "granite": {
        "attention_multiplier": 0.3,
        "embedding_multiplier": 3.0,
        "residual_multiplier": 0.7,
        "logits_scaling": 2.0,
    },
    "stablelm": {"use_qkv_bias": True},
    "cohere": {"logit_scale": 0.5, "use_qk_norm": True},
    "cohere2": {"logit_scale": 0.5, "num_hidden_layers": 4, "sliding_window": 8},
    "glm4": {"head_dim": 16},
    "gpt_oss": {
        "intermediate_size": 96,
        "head_dim": 32,
        "num_local_experts": 4,
        "num_experts_per_tok": 2,
        "sliding_window": 8,
        "rope_parameters": {
            "rope_type": "yarn",
            "rope_theta": 10000.0,
            "factor": 4.0,
            "beta_fast": 32.0,
            "beta_slow": 1.0,
            "original_max_position_embeddings": 128,
            "truncate": False,
        },
    },
}
OWN["gpt_oss-mxfp4"] = OWN["gpt_oss"]
PACKED = "-mxfp4"
BLOCK = 32


def fill(model, generator):
    """Weights large enough that everything that a model does shows."""
    for name, weight in model.named_parameters():
        noise = torch.randn(weight.shape, generator=generator)
        if "norm" in name and name.endswith("weight"):
            weight.data = 1 + 0.2 * noise
        elif name.endswith("sinks"):
            weight.data = noise
        elif ".experts." in name and not name.endswith("bias"):
            # Stored [in, out]; wide enough that what gate and up give is cut off here and there.
            weight.data = (3.0 if "gate_up" in name else 0.3) * noise / weight.shape[-2] ** 0.5
        elif weight.dim() == 1 or name.endswith("bias"):
            weight.data = 0.1 * noise
        elif "embed" in name:
            weight.data = 0.3 * noise
        else:
            weight.data = 1.2 * noise / weight.shape[-1] ** 0.5


def packed(weight):
    """Blocks and scales of matrices [out, in], as the OCP's microscaling formats (MX, version 1.0) have them."""
    blocks = weight.unflatten(-1, (-1, BLOCK))
    exponents = blocks.abs().amax(-1).log2().floor() - 2
    scaled = blocks / 2 ** exponents[..., None]
    codes = (scaled[..., None] - torch.tensor(FP4_VALUES)).abs().argmin(-1).to(torch.uint8)
    return codes[..., ::2] | codes[..., 1::2] << 4, (exponents + 127).to(torch.uint8)


def pack(model):
    """Rounds a model's weights to what a packed file holds; gives its tensors."""
    tensors = {}
    for name, weight in model.named_parameters():
        if ".experts." in name and not name.endswith("bias"):
            blocks, scales = packed(weight.data.transpose(-1, -2))
            weight.data = convert_moe_packed_tensors(blocks, scales, dtype=torch.float32)
            tensors |= {f"{name}_blocks": blocks.contiguous(), f"{name}_scales": scales.contiguous()}
        else:
            tensors[name] = weight.data.bfloat16()
            weight.data = tensors[name].float()
    return tensors


def save_packed(tensors, folder):
    """Over what was saved unpacked, as gpt-oss is published."""
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    config["rope_scaling"] = config.pop("rope_parameters")
    config["rope_theta"] = config["rope_scaling"].pop("rope_theta")
    kept = ["model.layers.*.self_attn", "model.layers.*.mlp.router", "model.embed_tokens", "lm_head"]
    config["quantization_config"] = {"modules_to_not_convert": kept, "quant_method": "mxfp4"}
    (folder / "config.json").write_text(json.dumps(config | {"dtype": "bfloat16"}, indent=2) + "\n")


def first(output):
    return output[0] if isinstance(output, tuple) else output


def reference(model, generator):
    ids = torch.randint(3, model.config.vocab_size, (2, 24), generator=generator)
    found = {}

    def keep(name):
        return lambda module, inputs, output: found.__setitem__(name, first(output).detach().clone())

    hooks = []
    for index, layer in enumerate(model.model.layers):
        hooks.append(layer.register_forward_hook(keep(f"residual.{index}")))
        hooks.append(layer.self_attn.register_forward_hook(keep(f"attention.{index}")))
        hooks.append(layer.mlp.register_forward_hook(keep(f"mlp.{index}")))
    found["logits"] = model(ids, use_cache=False).logits
    for hook in hooks:
        hook.remove()
    tokens, margin = ids, float("inf")
    for _ in range(16):
        best = model(tokens, use_cache=False).logits[:, -1].topk(2)
        margin = min(margin, (best.values[:, 0] - best.values[:, 1]).min().item())
        tokens = torch.cat([tokens, best.indices[:, :1]], 1)
    found |= {"input_ids": ids, "greedy_ids": tokens[:, 24:]}
    return {name: tensor.contiguous() for name, tensor in found.items()}, margin


def make(name):
    folder = FAMILIES / name
    folder.mkdir(exist_ok=True)
    config = AutoConfig.for_model(name.removesuffix(PACKED), **USUAL | OWN[name])
    for seed in range(100):
        generator = torch.Generator().manual_seed(seed)
        model = AutoModelForCausalLM.from_config(config, attn_implementation="eager").float().eval()
        fill(model, generator)
        model.tie_weights()
        parts = pack(model) if name.endswith(PACKED) else None
        with torch.no_grad():
            tensors, margin = reference(model, generator)
        if margin > MARGIN:
            break
    model.save_pretrained(folder)
    if parts:
        save_packed(parts, folder)
        read = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
        with torch.no_grad():
            logits = read(tensors["input_ids"], use_cache=False).logits
        assert torch.allclose(logits, tensors["logits"], atol=1e-5), "what was packed is not what is read"
    save_file(tensors, folder / "reference.safetensors")
    for file in TOKENIZER:
        shutil.copy(FAMILIES / "llama" / file, folder / file)
    print(name, "seed", seed, "margin", margin, "logits to", tensors["logits"].abs().max().item())


if __name__ == "__main__":
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    for name in sys.argv[1:] or OWN:
        make(name)
