"""`make bench-download`: a large file from the fake hub on loopback, by us and by what people use otherwise, each to the
point where it is on the disk and verified as far as that tool does; our memory; and how little a bad line costs.

    bench_download.py [MIB of the large file] [MIB of the one over the bad line]

Ratios are of one run, on one machine: seconds differ elsewhere.
"""

import contextlib
import hashlib
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request

from bench import BIN, ROOT, Server, megabytes

HUB = pathlib.Path(os.environ.get("FAKE_HUB_BIN", ROOT / "target/debug/fake-hub"))
HF = pathlib.Path(os.environ.get("MILLM_HF", ROOT / ".venv/bin/hf"))
RUNS = int(os.environ.get("RUNS", "3"))
RATE = 50_000_000
LATENCY_MS = 40
CUT = 0.01


class FakeHub:
    """The fake hub with models of these sizes in MiB: `bench/m-SIZE`."""

    def __init__(self, work, *sizes):
        port = work / "hub.port"
        repos = [f"--synthetic=bench/m-{size}={size}" for size in sizes]
        self.process = subprocess.Popen(
            [HUB, *repos, "--tokenizer", ROOT / "tests/fixtures/tiny-millm", "--send-buffer", str(4 << 20),
             "--port-file", port],
            stdout=subprocess.DEVNULL,
        )
        while not port.exists():
            if self.process.poll() is not None:
                raise SystemExit("the fake hub ended")
            time.sleep(0.01)
        self.url = f"http://127.0.0.1:{port.read_text()}"

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()

    def control(self, method, what, body=None):
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"{self.url}/_hub/{what}", data, method=method)
        with urllib.request.urlopen(request) as answer:
            return json.load(answer)

    def bad_line(self, cuts):
        faults = [
            {"kind": "total_rate", "bytes_per_second": RATE},
            {"kind": "latency", "ms": LATENCY_MS},
        ]
        if cuts:
            faults.append({"kind": "random_cut", "probability": CUT, "seed": 4})
        self.control("POST", "faults", [fault | {"path": "*/model.safetensors"} for fault in faults])


@contextlib.contextmanager
def settled_folder():
    """A folder whose bytes are off the disk again before the next one is measured."""
    with tempfile.TemporaryDirectory() as name:
        yield pathlib.Path(name)
    os.sync()


def timed(command, **kwargs):
    started = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, **kwargs)
    return time.perf_counter() - started


def sha256(path):
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def by_curl(hub, size):
    url = f"{hub.url}/bench/m-{size}/resolve/main/model.safetensors"
    with settled_folder() as folder:
        return timed(["bash", "-ec", 'curl -sSfL -o F "$0" && sync F && sha256sum F', url], cwd=folder)


def by_hf(hub, size):
    with settled_folder() as folder:
        env = {"PATH": os.environ["PATH"], "HOME": str(folder), "HF_HOME": str(folder), "HF_ENDPOINT": hub.url}
        return timed([HF, "download", f"bench/m-{size}"], env=env)


class Peak:
    """The most that a server holds while the block runs, above what it held before."""

    def __init__(self, server):
        self.server, self.idle, self.most, self.over = server, server.memory(), 0, threading.Event()

    def __enter__(self):
        self.thread = threading.Thread(target=self.watch)
        self.thread.start()
        return self

    def watch(self):
        while not self.over.wait(0.01):
            self.most = max(self.most, self.server.memory() - self.idle)

    def __exit__(self, *_):
        self.over.set()
        self.thread.join()


def by_us(hub, size, expected=None):
    """Seconds and memory above idle."""
    with settled_folder() as folder, Server(folder, HF_ENDPOINT=hub.url) as server:
        with Peak(server) as peak:
            seconds = timed([BIN, "pull", f"bench/m-{size}", "-q", "native"], env=server.env, cwd=folder)
        [weights] = folder.glob("models/huggingface/*/model.safetensors")
        assert expected is None or sha256(weights) == expected, "wrong bytes"
        return seconds, peak.most


def loopback(hub, size):
    tree = urllib.request.urlopen(f"{hub.url}/api/models/bench/m-{size}/tree/main").read()
    expected = next(f["lfs"]["oid"] for f in json.loads(tree) if f["path"] == "model.safetensors")
    times = {"millm": [], "curl": [], "hf": []}
    memory = 0
    for _ in range(RUNS):
        seconds, peak = by_us(hub, size, expected)
        times["millm"].append(seconds)
        memory = max(memory, peak)
        times["curl"].append(by_curl(hub, size))
        times["hf"].append(by_hf(hub, size))
    median = {name: statistics.median(seconds) for name, seconds in times.items()}
    ours = median["millm"]
    print(f"{size} MiB from the fake hub, on the disk, medians of {RUNS}:")
    print(f"  millm pull, synced and verified     {ours:.2f} s")
    print(f"  curl, sync, sha256sum               {median['curl']:.2f} s: {median['curl'] / ours:.1f} times (must: 2)")
    print(f"  hf download, nothing verified       {median['hf']:.2f} s: {median['hf'] / ours:.1f} times (must: 2)")
    print(f"  our memory above idle, at most      {megabytes(memory)} (must: < 64 MB)")


def bad_line(hub, size):
    seconds = {}
    for cuts in (False, True):
        hub.bad_line(cuts)
        hub.control("DELETE", "log")
        seconds[cuts], _ = by_us(hub, size)
        log = [entry for entry in hub.control("GET", "log") if entry["path"].endswith("/model.safetensors")]
        broken = sum(1 for entry in log if entry["status"] == 206 and not entry["complete"])
        hub.control("DELETE", "faults")
    ratio = seconds[True] / seconds[False]
    print(f"{size} MiB at {megabytes(RATE)}/s with {LATENCY_MS} ms:")
    print(f"  clean                               {seconds[False]:.2f} s")
    print(f"  {broken} of {len(log)} requests cut               {seconds[True]:.2f} s: {ratio:.2f} times (must: < 1.5)")


if __name__ == "__main__":
    sizes = [int(argument) for argument in sys.argv[1:]]
    large, slow = (sizes + [2048, 1024][len(sizes):])[:2]
    with tempfile.TemporaryDirectory() as name, FakeHub(pathlib.Path(name), large, slow) as hub:
        loopback(hub, large)
        bad_line(hub, slow)
