#!/usr/bin/env python3
"""What rounding costs: the divergence of SmolLM2-135M-Instruct from f32 when only activations and the KV cache are rounded.

Simulates in PyTorch what kernels do, and prints the last table of docs/quantization.md. Run by hand, in a virtual
environment:

    pip install torch transformers==5.24.0 accelerate gguf
    tests/tools/smollm2_rounding.py
"""

import json
from collections.abc import Callable
from statistics import fmean

import torch
import transformers
from smollm2 import divergences, fetch
from smollm2_reference import OUT
from transformers.models.llama import modeling_llama

CASES = json.loads(OUT.read_text(encoding="utf-8"))["cases"]
# The relative change of activations that gives another draw of the same rounding.
PERTURBATION = 1e-6
DRAWS = 6
# For rows that are not whole blocks of 256 columns.
SHORTER_BLOCK = 192
OUTPUT = "lm_head"


def perturbed(x: torch.Tensor) -> torch.Tensor:
    return x * (1 + PERTURBATION * torch.randn_like(x))


def to_bytes(x: torch.Tensor, columns: int) -> torch.Tensor:
    """Rounds to signed bytes with a scale for each block of columns."""
    blocks = x.reshape(-1, columns if x.shape[-1] % columns == 0 else SHORTER_BLOCK)
    scale = blocks.abs().amax(-1, keepdim=True).clamp(min=1e-30) / 127
    return ((blocks / scale).round() * scale).reshape(x.shape)


def to_two_bytes(x: torch.Tensor) -> torch.Tensor:
    high = to_bytes(x, 32)
    return high + to_bytes(x - high, 32)


class Rounded(torch.nn.Module):
    """A linear layer whose input is rounded first."""

    def __init__(self, linear: torch.nn.Linear, rounding: Callable):
        super().__init__()
        self.linear, self.rounding = linear, rounding

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(self.rounding(perturbed(x)))


def measure(model, layers: Callable | None, output: Callable | None) -> tuple[float, int]:
    """Returns the mean divergence, and how many answers are equal. A rounding of None leaves the values as they are."""
    plain = {name: module for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)}
    for name, linear in plain.items():
        rounding = output if name == OUTPUT else layers
        if rounding is not None:
            model.set_submodule(name, Rounded(linear, rounding))
    found, equal = [], 0
    for case in CASES:
        ids = case["prompt_ids"] + case["answer_ids"]
        with torch.no_grad():
            logits = model(torch.tensor([ids]), use_cache=False).logits[0, len(case["prompt_ids"]) - 1 : -1]
        logprobs = torch.log_softmax(logits.double(), -1)
        rows = [{token: float(row[token]) for token in top} for row, top in zip(logprobs, case["top_ids"], strict=True)]
        found += divergences(case, rows)
        equal += logprobs.argmax(-1).tolist() == case["answer_ids"]
    for name, linear in plain.items():
        model.set_submodule(name, linear)
    return fmean(found), equal


def with_f16_cache(attention: Callable) -> Callable:
    def attend(module, query, key, value, *rest, **more):
        return attention(module, query, key.half().float(), value.half().float(), *rest, **more)

    return attend


def main() -> None:
    modeling_llama.eager_attention_forward = with_f16_cache(modeling_llama.eager_attention_forward)
    path = fetch()
    model = transformers.AutoModelForCausalLM.from_pretrained(
        path.parent, gguf_file=path.name, dtype=torch.float32, attn_implementation="eager"
    ).eval()
    torch.manual_seed(0)

    def show(name: str, layers: Callable | None, output: Callable | None) -> None:
        divergence, equal = measure(model, layers, output)
        print(f"{name:32} divergence {divergence:.2e}, {equal} of {len(CASES)} answers equal", flush=True)

    def blocks(columns: int) -> Callable:
        return lambda x: to_bytes(x, columns)

    show("nothing but the KV cache", None, None)
    show("the input of the output matrix", None, blocks(32))
    show("the inputs of the layers", blocks(32), None)
    for draw in range(DRAWS):
        show(f"all inputs, draw {draw + 1}", blocks(32), blocks(32))
    for columns in (256, 16, 8):
        show(f"all inputs, {columns} columns a scale", blocks(columns), blocks(columns))
    show("all inputs, to two bytes", to_two_bytes, to_two_bytes)


if __name__ == "__main__":
    main()
