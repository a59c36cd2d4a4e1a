#!/usr/bin/env bash
# Builds the wheel into target/wheels and prints its path. $1: a Python with packaging/requirements.txt; the other
# arguments are maturin's: --release, --locked.
set -euo pipefail
cd "$(dirname "$0")/.."

rm -rf python/millm/*/v1 target/wheels
packaging/stubs.sh "$1" >&2
"$1" -m maturin build --out target/wheels "${@:2}" >&2
echo target/wheels/*.whl
