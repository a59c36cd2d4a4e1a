#!/usr/bin/env bash
# Builds the release program for aarch64 Linux on an x86-64 machine, in target/aarch64-unknown-linux-gnu/release, and with
# "examples" also the engine's `logits`. Uses rustup's target where it is installed, else Debian's rustc-web with
# libstd-rust-web-dev:arm64. Both need Debian's gcc-aarch64-linux-gnu and g++-aarch64-linux-gnu.
set -euo pipefail
cd "$(dirname "$0")/.."

target=aarch64-unknown-linux-gnu
command -v aarch64-linux-gnu-g++ >/dev/null ||
  { echo "missing: aarch64-linux-gnu-g++ (Debian: apt-get install g++-aarch64-linux-gnu)" >&2; exit 1; }
if [ ! -d "$(rustc --print sysroot)/lib/rustlib/$target/lib" ]; then
  if [ -d "$(/usr/bin/rustc --print sysroot 2>/dev/null)/lib/rustlib/$target/lib" ]; then
    export RUSTC=/usr/bin/rustc
  else
    echo "missing: Rust's $target (rustup target add $target, or Debian: dpkg --add-architecture arm64;" \
      "apt-get install rustc-web libstd-rust-web-dev:arm64)" >&2
    exit 1
  fi
fi
unset RUSTC_WRAPPER
export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER=aarch64-linux-gnu-gcc
export CC_aarch64_unknown_linux_gnu=aarch64-linux-gnu-gcc CXX_aarch64_unknown_linux_gnu=aarch64-linux-gnu-g++
cargo build --release --locked --target "$target" -p millm
if [ "${1:-}" = examples ]; then
  cargo build --release --locked --target "$target" -p millm-engine --example logits
fi
