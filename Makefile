# miLLM: `make demo` shows it, `make test` checks it, `make run` serves it, `make bench` measures it.
# Everything is built once, in one profile (Cargo.toml): tests, demo and benches use the same binaries.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

# Compiled dependencies are kept between checkouts where sccache is installed.
export RUSTC_WRAPPER ?= $(shell command -v sccache 2>/dev/null)
export PATH := $(HOME)/.cargo/bin:$(PATH)

VENV := .venv
PY := $(VENV)/bin/python
BIN := target/debug
FUZZ_SECONDS ?= 3600

.PHONY: cuda cuda-test release-check help demo test run bench bench-download bench-quantize soak build web tools fmt clippy buf deny typos unit fuzz fuzz-short clients browser clean

help: ## What can be made
	@grep -hE '^[a-z-]+:.*## ' Makefile | sed -E 's/:.*## /\t/' | expand -t 12

demo: build ## Pull, quantize, load and ask the tiny model, from a fake hub
	@tests/tools/demo.sh

test: tools fmt typos buf deny clippy build unit fuzz-short web-test clients browser ## Every check
	@echo "make test: everything passed"

run: build ## Serve on http://127.0.0.1:8000
	@$(BIN)/millm serve

bench: build tools ## The figures: start time, memory, quantizing, batching
	@$(PY) tests/tools/bench.py

soak: build ## Downloads under faults and kill -9, for longer than `make test` has time
	MILLM_KILLS=50 MILLM_ROUNDS=300 MILLM_CROWD=1000 \
	  cargo nextest run --workspace --no-capture -E 'test(/faults::(kills|mixed)::|hostile::crowd::/)'

bench-download: build tools ## 2 GiB from the fake hub, beside curl and the Python client
	@$(PY) tests/tools/bench_download.py

bench-quantize: build tools ## Quantizing 1.1 B parameters; LLAMA_CPP_BIN=folder puts llama-quantize beside it
	@$(PY) tests/tools/bench_quantize.py

build: web/dist/index.html ## The binaries
	cargo build --workspace --all-targets

web/dist/index.html: $(shell find web/src web/public web/index.html web/package-lock.json web/vite.config.ts proto -type f -not -path '*/gen/*' 2>/dev/null)
	@command -v npm >/dev/null || { echo "npm is missing: install Node.js 20 or newer"; exit 1; }
	cd web && { [ -e node_modules/.package-lock.json ] && [ node_modules/.package-lock.json -nt package-lock.json ] || npm ci; } && npm run build
	@touch $@

web: web/dist/index.html ## The web app

tools: ## What the checks need, installed where that is possible
	@tests/tools/install.sh

fmt: ## Formatting
	cargo fmt --all --check

typos: tools
	$(VENV)/bin/typos

buf: tools web/dist/index.html ## The contracts: lint, and nothing broken
	cd proto && ../web/node_modules/.bin/buf lint && ../web/node_modules/.bin/buf breaking --against contracts.binpb

deny: tools ## Licences, sources, banned crates; advisories where their database can be reached
	cargo deny --all-features check bans licenses sources
	@if [ -d $${CARGO_HOME:-$$HOME/.cargo}/advisory-dbs ] || curl -sfI -m 5 https://github.com >/dev/null; \
	 then cargo deny check advisories; else echo "advisories: their database cannot be reached from here, not checked"; fi

clippy: ## Lints
	cargo clippy --workspace --all-targets -- -D warnings

unit: build ## Rust tests: crates, store on both databases, black-box
	cargo nextest run --workspace --no-fail-fast -E 'not binary(fuzz) & not test(/hostile::crowd::/)'

fuzz-short: build ## Every fuzz target for half a minute, all at once, through the real server
	MILLM_FUZZ_SECONDS=30 cargo nextest run --workspace -E 'binary(fuzz)' --test-threads 12 --no-fail-fast

cuda: web/dist/index.html ## The program for NVIDIA's GPUs, in target/cuda; CUDA_COMPUTE_CAP=90 says for which
	tests/tools/cuda.sh cargo build --features cuda

cuda-test: ## The device's numbers, on the first GPU
	MILLM_DEVICE=cuda tests/tools/cuda.sh cargo nextest run -p millm-engine --features cuda -E 'test(/^device::/)'

release-check: test ## Every check, and that the build for GPUs compiles: what a release must pass
	tests/tools/cuda.sh cargo check --features cuda --all-targets

fuzz: build ## Every parser, and every fuzz target through the real server, for FUZZ_SECONDS (an hour); the corpus grows
	MILLM_FUZZ_UNTIL=$$(( $$(date +%s) + $(FUZZ_SECONDS) )) MILLM_FUZZ_SECONDS=$(FUZZ_SECONDS) MILLM_FUZZ_SAVE=1 \
	  cargo nextest run --workspace -E 'binary(hostile) + binary(fuzz)' --test-threads 28 --no-fail-fast

web-test: web/dist/index.html ## The web app's types, lints and tests
	cd web && npm run lint && npm test

clients: build tools ## The official clients against the real server
	$(PY) -m pytest -q tests/clients

browser: build tools ## The page in Chromium
	@tests/browser/run.sh

clean: ## Remove what was built
	cargo clean; rm -rf web/dist web/node_modules web/src/gen $(VENV)
