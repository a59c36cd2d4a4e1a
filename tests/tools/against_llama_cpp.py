"""Our GGUF files in llama.cpp: the same logits?

    pip install numpy llama-cpp-python
    make build && cargo build --workspace --examples
    python tests/tools/against_llama_cpp.py

Quantizes the tiny model with our own quantizer, loads each file in llama.cpp (through llama-cpp-python, another project's
binding) and in our engine, feeds both the same tokens (the reference prompts with their answers), and compares the
logits of every position: the largest difference for F32; for the others the mean of KL(llama.cpp || ours), and how often
both put the same token first. Exits with 1 when a bound is broken.
"""

import json
import os
import pathlib
import subprocess
import sys
import tempfile

import numpy as np

ROOT = pathlib.Path(__file__).resolve().parents[2]
TARGET = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "debug"
TINY = ROOT / "tests/fixtures/tiny-millm"
SCHEMES = ("FP32", "FP16", "Q8", "Q4", "Q2")


def sequences():
    """The ids of each reference prompt and its greedy answer."""
    reference = json.loads((TINY / "reference_greedy.json").read_text())
    cases = reference["cases"] if isinstance(reference, dict) else reference
    return [case["prompt_ids"] + case["greedy_ids"] for case in cases]


def theirs(path, tokens):
    import llama_cpp

    # Its cache in F32, like ours here: half-width keys and values would be most of the difference.
    kv = llama_cpp.GGML_TYPE_F32
    model = llama_cpp.Llama(
        str(path), n_ctx=512, n_batch=512, logits_all=True, n_threads=2, type_k=kv, type_v=kv, verbose=False
    )
    rows = []
    for ids in tokens:
        model.reset()
        model.eval(ids)
        rows.append(np.array(model.scores[: len(ids)], dtype=np.float32))
    return np.concatenate(rows)


def ours(path, tokens, work, *extra):
    text = "\n".join(" ".join(map(str, ids)) for ids in tokens)
    out = work / "logits.f32"
    subprocess.run([TARGET / "examples/logits", path, out, *extra], input=text, text=True, check=True)
    return np.fromfile(out, np.float32).reshape(sum(map(len, tokens)), -1)


def log_softmax(x):
    x = x.astype(np.float64)
    x -= x.max(-1, keepdims=True)
    return x - np.log(np.exp(x).sum(-1, keepdims=True))


def main():
    tokens, failed = sequences(), False
    with tempfile.TemporaryDirectory() as name:
        work = pathlib.Path(name)
        for scheme in SCHEMES:
            path = work / f"{scheme}.gguf"
            subprocess.run([TARGET / "examples/convert", TINY, path, scheme], check=True)
            other = theirs(path, tokens)
            q = log_softmax(other)
            for kernels in ((), ("decode",)):
                own = ours(path, tokens, work, *kernels)
                p = log_softmax(own)
                worst = np.abs(own - other).max()
                divergence = (np.exp(q) * (q - p)).sum(-1).mean()
                same = (own.argmax(-1) == other.argmax(-1)).mean()
                fine = worst < 1e-3 if scheme == "FP32" else divergence <= 0.01 and same >= 0.95
                failed |= not fine
                print(
                    f"{scheme:5}{'decode' if kernels else 'prefill':8} largest difference {worst:.2e}, mean KL {divergence:.2e}, "
                    f"same top token {same:.2%} of {len(own)}{'' if fine else '  <- broken'}",
                    flush=True,
                )
    sys.exit(failed)


if __name__ == "__main__":
    main()
