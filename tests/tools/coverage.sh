#!/usr/bin/env bash
# Runs the Rust tests with coverage and prints the lines covered by crate, for `make coverage`.
#
# Only this workspace's crates are instrumented, so dependencies are not built again. Counters are mapped into memory and
# written as they change: processes that are killed, and forks of the sandbox, count too.
set -euo pipefail
cd "$(dirname "$0")/../.."

# Prints the path of one of LLVM's programs, of the same major version as rustc's own LLVM.
llvm() {
  local major toolchain
  major=$(rustc -vV | sed -n 's/^LLVM version: \([0-9]*\).*/\1/p')
  toolchain=$(rustc --print sysroot)/lib/rustlib/$(rustc -vV | sed -n 's/^host: //p')/bin/$1
  if [ -x "$toolchain" ]; then
    echo "$toolchain"
  elif command -v "$1-$major"; then
    :
  else
    echo "missing: $1 of LLVM $major (rustup component add llvm-tools, or Debian: apt-get install llvm-$major)" >&2
    return 1
  fi
}
profdata=$(llvm llvm-profdata)
cov=$(llvm llvm-cov)

out=$PWD/target/coverage
rm -rf "$out"
mkdir -p "$out"
export RUSTC_WORKSPACE_WRAPPER=$PWD/tests/tools/instrument.sh
# %m: one file for each program, which its processes share; %c: mapped.
export LLVM_PROFILE_FILE="$out/%m%c.profraw"

cargo build --workspace --all-targets
failed=0
cargo nextest run --workspace --no-fail-fast -E 'not binary(fuzz) & not test(/hostile::crowd::/)' || failed=$?
MILLM_FUZZ_SECONDS=10 cargo nextest run --workspace -E 'binary(fuzz)' --test-threads 4 || failed=$?

"$profdata" merge -sparse "$out"/*.profraw -o "$out/all.profdata"
programs=()
while read -r program; do programs+=(-object "$program"); done < <(
  cargo build --workspace --all-targets --message-format=json 2>/dev/null |
    python3 -c 'import json, sys
for line in sys.stdin:
    message = json.loads(line)
    if message.get("executable"): print(message["executable"])'
)
"$cov" export -summary-only -instr-profile "$out/all.profdata" "${programs[@]}" \
  -ignore-filename-regex '(/\.cargo/|/rustc/|/target/|/tests?/|/examples/|tests?\.rs$)' >"$out/summary.json"
python3 tests/tools/coverage_by_crate.py "$out/summary.json"
exit "$failed"
