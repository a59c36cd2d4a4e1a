#!/usr/bin/env bash
# Compiles one of this workspace's crates with coverage counters; cargo calls it in place of rustc.
exec "$@" -C instrument-coverage -C llvm-args=-runtime-counter-relocation --cfg coverage
