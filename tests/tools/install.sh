#!/usr/bin/env bash
# Installs what `make test` needs, or says exactly what is missing. Running it again costs nothing.
set -euo pipefail
cd "$(dirname "$0")/../.."

missing=()
need() { command -v "$1" >/dev/null 2>&1; }

packages=()
need chromium || packages+=(chromium)
need curl || packages+=(curl)
need sccache || packages+=(sccache)
if ((${#packages[@]})); then
  if need apt-get && [ "$(id -u)" = 0 ]; then
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${packages[@]}" >/dev/null
  else
    for package in "${packages[@]}"; do
      # sccache only saves time.
      [ "$package" = sccache ] || missing+=("$package (Debian: apt-get install $package)")
    done
  fi
fi

need cargo || missing+=("Rust 1.95 or newer (rustup.rs)")
need npm || missing+=("Node.js 20 or newer")
need python3 || missing+=("Python 3.11 or newer")
if ((${#missing[@]})); then
  printf 'missing: %s\n' "${missing[@]}" >&2
  exit 1
fi

need cargo-nextest || cargo install --locked cargo-nextest
# Unoptimized: it runs for a second, and builds in a third of the time.
need cargo-deny || CARGO_PROFILE_RELEASE_OPT_LEVEL=0 CARGO_PROFILE_RELEASE_LTO=off CARGO_PROFILE_RELEASE_DEBUG=0 \
  CARGO_PROFILE_RELEASE_CODEGEN_UNITS=16 cargo install --locked cargo-deny

if [ ! -e .venv/ready ] || [ tests/clients/requirements.txt -nt .venv/ready ]; then
  [ -x .venv/bin/python ] || python3 -m venv .venv
  .venv/bin/python -m pip install -q --disable-pip-version-check -r tests/clients/requirements.txt
  touch .venv/ready
fi

# The store is tested on PostgreSQL too.
url="${MILLM_TEST_POSTGRES:-postgres://postgres@127.0.0.1:5432/test}"
address=$(sed -E 's#^[a-z]+://([^@/]*@)?([^/?]+).*#\2#' <<<"$url")
host=${address%%:*} port=${address##*:}
[ "$port" = "$address" ] && port=5432
if ! (exec 3<>"/dev/tcp/$host/$port") 2>/dev/null; then
  echo "missing: PostgreSQL at $address (start one, or set MILLM_TEST_POSTGRES to its URL)" >&2
  exit 1
fi
