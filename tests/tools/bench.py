"""`make bench`: how fast the server starts and how much it holds, what quantizing needs, what batching gains.

Each figure comes from the real binary. Times are medians; machines differ, so ratios say more than seconds.
"""

import concurrent.futures
import json
import os
import pathlib
import re
import shutil
import socket
import statistics
import struct
import subprocess
import tempfile
import time
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parents[2]
BIN = pathlib.Path(os.environ.get("MILLM_BIN", ROOT / "target/release/millm"))


class Server:
    """`millm serve` on an empty folder, nothing configured but where things lie."""

    def __init__(self, folder, **env):
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.folder = pathlib.Path(folder)
        keep = {k: v for k, v in os.environ.items() if k in ("PATH", "HOME")}
        self.env = keep | {
            "PORT": str(self.port),
            "MILLM_SERVER": self.url,
            "DATABASE_URL": f"sqlite://{self.folder}/millm.db",
            "MODEL_CACHE_DIR": str(self.folder / "models"),
            "LOG_LEVEL": "warn",
        } | env
        started = time.perf_counter()
        self.process = subprocess.Popen([BIN, "serve"], env=self.env, cwd=self.folder)
        while True:
            try:
                urllib.request.urlopen(self.url + "/readyz", timeout=1).read()
                break
            except OSError:
                if self.process.poll() is not None:
                    raise SystemExit("the server ended") from None
                time.sleep(0.002)
        self.ready_seconds = time.perf_counter() - started

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait()

    def cli(self, *args):
        done = subprocess.run([BIN, *args], env=self.env, cwd=self.folder, capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(f"millm {' '.join(map(str, args))}: {done.stderr}")
        return done.stdout

    def memory(self, key="VmRSS"):
        status = pathlib.Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.search(rf"{key}:\s+(\d+) kB", status)[1]) * 1024

    def anonymous(self):
        """What the heap holds: mapped model files are the kernel's to drop."""
        return self.memory("RssAnon")

    def complete(self, model, prompt, tokens):
        body = {"model": model, "prompt": prompt, "max_tokens": tokens, "temperature": 0, "ignore_eos": True}
        request = urllib.request.Request(
            self.url + "/v1/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request) as answer:
            return json.load(answer)["usage"]["completion_tokens"]


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def synthetic(folder, layers=4, hidden=2048, intermediate=5632, vocabulary=2048, kv_heads=8):
    """A Llama of a real shape with seeded bf16 weights and the tiny model's tokenizer."""
    import numpy as np

    folder.mkdir(parents=True)
    tiny = ROOT / "tests/fixtures/tiny-millm"
    for name in ("tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        shutil.copy(tiny / name, folder)
    config = json.loads((tiny / "config.json").read_text()) | {
        "num_hidden_layers": layers,
        "hidden_size": hidden,
        "intermediate_size": intermediate,
        "num_attention_heads": hidden // 64,
        "num_key_value_heads": kv_heads,
        "head_dim": 64,
        "vocab_size": vocabulary,
        "tie_word_embeddings": False,
    }
    (folder / "config.json").write_text(json.dumps(config))
    kv = 64 * kv_heads
    shapes = {"model.embed_tokens.weight": (vocabulary, hidden), "model.norm.weight": (hidden,)}
    shapes["lm_head.weight"] = (vocabulary, hidden)
    for i in range(layers):
        block = f"model.layers.{i}."
        shapes |= {
            block + "input_layernorm.weight": (hidden,),
            block + "post_attention_layernorm.weight": (hidden,),
            block + "self_attn.q_proj.weight": (hidden, hidden),
            block + "self_attn.k_proj.weight": (kv, hidden),
            block + "self_attn.v_proj.weight": (kv, hidden),
            block + "self_attn.o_proj.weight": (hidden, hidden),
            block + "mlp.gate_proj.weight": (intermediate, hidden),
            block + "mlp.up_proj.weight": (intermediate, hidden),
            block + "mlp.down_proj.weight": (hidden, intermediate),
        }
    header, offset = {}, 0
    for name, shape in shapes.items():
        size = 2 * int(np.prod(shape))
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    random = np.random.default_rng(7)
    with open(folder / "model.safetensors", "wb") as out:
        out.write(struct.pack("<Q", len(text)) + text)
        for name, shape in shapes.items():
            scale = 0.02 if len(shape) > 1 else 0.0
            values = random.standard_normal(shape, dtype=np.float32) * scale + (scale == 0.0)
            out.write((values.view(np.uint32) >> 16).astype(np.uint16).tobytes())
    return 2 * vocabulary * hidden if vocabulary > intermediate else 2 * intermediate * hidden


def megabytes(n):
    return f"{n / 1e6:.0f} MB"


def start(work):
    times, memory = [], 0
    for i in range(5):
        folder = work / f"start{i}"
        folder.mkdir()
        with Server(folder) as server:
            times.append(server.ready_seconds)
            memory = max(memory, server.memory())
    print(f"ready, nothing configured   {statistics.median(times):.2f} s (must: < 1 s)")
    print(f"resident when idle          {megabytes(memory)} (must: < 60 MB)")


def quantize(work):
    largest = synthetic(work / "synthetic")
    for scheme in ("Q2", "Q4", "Q8"):
        folder = work / f"quantize-{scheme}"
        folder.mkdir()
        with Server(folder) as server:
            idle = server.anonymous()
            started = time.perf_counter()
            job = subprocess.Popen(
                [BIN, "add", work / "synthetic", "--name", "synthetic", "-q", scheme],
                env=server.env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            )
            peak = idle
            while job.poll() is None:
                peak = max(peak, server.anonymous())
                time.sleep(0.002)
            assert job.returncode == 0, "quantizing failed"
            seconds = time.perf_counter() - started
            ratio = (peak - idle) / largest
            print(
                f"quantize to {scheme}              {seconds:.1f} s, heap {megabytes(peak - idle)}: "
                f"{ratio:.1f} times the largest tensor of {megabytes(largest)} (must: < 4)"
            )


def batching(work):
    folder = work / "batching"
    folder.mkdir()
    with Server(folder) as server:
        server.cli("add", work / "synthetic", "--name", "synthetic", "-q", "Q4")
        server.cli("load", "synthetic")
        rates = {}
        for streams in (1, 8):
            samples = []
            for _ in range(3):
                with concurrent.futures.ThreadPoolExecutor(streams) as pool:
                    started = time.perf_counter()
                    done = pool.map(lambda i: server.complete("synthetic", f"stream {i}:", 64), range(streams))
                    samples.append(sum(done) / (time.perf_counter() - started))
            rates[streams] = statistics.median(samples)
        print(
            f"8 streams against 1         {rates[8]:.0f} against {rates[1]:.0f} tokens/s: "
            f"{rates[8] / rates[1]:.1f} times (synthetic Llama, 4 layers of 2048, Q4)"
        )


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as name:
        work = pathlib.Path(name)
        start(work)
        quantize(work)
        batching(work)
