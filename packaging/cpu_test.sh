#!/usr/bin/env bash
# Runs release programs on emulated processors and compares the logits of a small model with this processor's.
# Needs Debian's qemu-user, the release build with the engine's example `logits`, and for aarch64 `packaging/aarch64.sh`.
set -euo pipefail
cd "$(dirname "$0")/.."

model=tests/fixtures/tiny-millm
tokens="1 5 9 13 20 40 80 3 7 11 15 19 23 60 61 62 63 64"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
command -v qemu-x86_64 >/dev/null || { echo "missing: qemu-user (Debian: apt-get install qemu-user)" >&2; exit 1; }

target/release/examples/logits "$model" "$work/here" <<<"$tokens"

check() { # name, folder of the programs, emulator…
  # The program starts itself as its sandbox, by its absolute path.
  local name=$1 programs=$PWD/$2
  shift 2
  "$@" "$programs/millm" --version >/dev/null
  "$@" "$programs/examples/logits" "$model" "$work/there" <<<"$tokens"
  python3 - "$name" "$work/here" "$work/there" <<'PYTHON'
import sys
from array import array

name, *paths = sys.argv[1:]
here, there = (array("f", open(path, "rb").read()) for path in paths)
assert len(here) == len(there) > 0, f"{len(here)} and {len(there)} logits"
worst = max(abs(a - b) for a, b in zip(here, there))
largest = max(map(abs, here))
print(f"{name}: {len(here)} logits, off by at most {worst:.2g} of {largest:.3g}")
sys.exit(not worst < 2e-2 * largest)
PYTHON
}

check "x86-64-v2 (Nehalem)" target/release qemu-x86_64 -cpu Nehalem
if [ -x target/aarch64-unknown-linux-gnu/release/millm ]; then
  check aarch64 target/aarch64-unknown-linux-gnu/release qemu-aarch64 -L /usr/aarch64-linux-gnu
else
  echo "aarch64: not built (make release-aarch64)"
fi
