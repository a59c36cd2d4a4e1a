"""`make bench-quantize`: quantizing a synthetic 1.1 B Llama, beside llama.cpp's llama-quantize.

LLAMA_CPP_BIN names the folder of llama.cpp's binaries; without it our own figures are printed alone. Both start from
the same bf16 weights (theirs from the GGUF that we write of them) and write to the same disk; ours is also synced,
registered and listed when its time ends. Rounds alternate; times are medians.
"""

import os
import pathlib
import statistics
import subprocess
import tempfile
import time

from bench import BIN, Server, megabytes, synthetic

ROUNDS = int(os.environ.get("ROUNDS", "3"))
THREADS = str(os.cpu_count())
SCHEMES = {"Q4": "Q4_K_M", "Q8": "Q8_0"}


def ours(server, source, scheme, name):
    """Seconds, and the heap's peak above what it was, in bytes."""
    idle = peak = server.anonymous()
    started = time.perf_counter()
    job = subprocess.Popen(
        [BIN, "add", source, "--name", name, "-q", scheme],
        env=server.env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
    )
    while job.poll() is None:
        peak = max(peak, server.anonymous())
        time.sleep(0.005)
    if job.returncode:
        raise SystemExit(f"quantizing failed: {job.stderr.read().decode()}")
    return time.perf_counter() - started, peak - idle


def theirs(binary, source, destination, scheme):
    started = time.perf_counter()
    subprocess.run([binary, source, destination, SCHEMES[scheme], THREADS], check=True, capture_output=True)
    seconds = time.perf_counter() - started
    destination.unlink()
    return seconds


def main():
    folder = os.environ.get("LLAMA_CPP_BIN")
    peer = pathlib.Path(folder) / "llama-quantize" if folder else None
    with tempfile.TemporaryDirectory() as name:
        work = pathlib.Path(name)
        synthetic(work / "source", layers=22, vocabulary=32000, kv_heads=4)
        with Server(work) as server:
            server.cli("add", work / "source", "--name", "wide", "-q", "FP16")
            wide = work / "wide.gguf"
            (made,) = (work / "models").rglob("model.gguf")
            # One folder is one model: this one makes room, its file stays.
            wide.hardlink_to(made)
            server.cli("rm", "wide", "--yes")
            for scheme in SCHEMES:
                own, other, memory = [], [], 0
                for _ in range(ROUNDS):
                    seconds, peak = ours(server, work / "source", scheme, "quantized")
                    server.cli("rm", "quantized", "--yes")
                    own.append(seconds)
                    memory = max(memory, peak)
                    if peer:
                        other.append(theirs(peer, wide, work / "peer.gguf", scheme))
                line = f"1.1 B to {scheme}: {statistics.median(own):.1f} s, {megabytes(memory)} above idle (must: < 1 GB)"
                if peer:
                    ratio = statistics.median(other) / statistics.median(own)
                    line += f"; llama-quantize {SCHEMES[scheme]}: {statistics.median(other):.1f} s, {ratio:.1f} times ours"
                print(line, flush=True)


if __name__ == "__main__":
    main()
