#!/usr/bin/env bash
# The page in Chromium against a fresh server and a fake hub that holds the tiny model.
# With a folder as argument it takes the pictures of every screen instead: tests/browser/run.sh docs/screens
set -euo pipefail
screens=${1:+$(realpath -m "$1")}
cd "$(dirname "$0")/../.."
bin=${MILLM_BIN_DIR:-$PWD/target/debug}
work=$(mktemp -d)
pids=()
finish() {
  status=$?
  for pid in "${pids[@]}"; do kill "$pid" 2>/dev/null || true; done
  wait 2>/dev/null || true
  [ "$status" = 0 ] || tail -n 40 "$work/serve.log" >&2 2>/dev/null || true
  rm -rf "$work"
}
trap finish EXIT
wait_for() { # file-or-url, log
  for _ in $(seq 200); do
    if [[ $1 == http* ]]; then curl -sf -m 2 -o /dev/null "$1" && return; else [ -s "$1" ] && return; fi
    sleep 0.05
  done
  echo "did not start:" >&2
  cat "$2" >&2
  exit 1
}

export MILLM_CHROMIUM=${MILLM_CHROMIUM:-/usr/bin/chromium}
[ -x "$MILLM_CHROMIUM" ] || { echo "$MILLM_CHROMIUM is missing: apt-get install chromium" >&2; exit 1; }
(cd tests/browser && { [ node_modules/.package-lock.json -nt package-lock.json ] || npm ci --no-fund --no-audit; })

mkdir -p "$work/hub/millm"
cp -r tests/fixtures/tiny-millm "$work/hub/millm/tiny-millm"
"$bin/fake-hub" --models "$work/hub" --port-file "$work/port" >"$work/hub.log" 2>&1 &
pids+=($!)
wait_for "$work/port" "$work/hub.log"

port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
export HOST=127.0.0.1 PORT=$port HF_TOKEN=
HF_ENDPOINT=http://127.0.0.1:$(cat "$work/port")
export HF_ENDPOINT DATABASE_URL=sqlite://$work/data/millm.db MODEL_CACHE_DIR=$work/data/models
unset AUTO_LOAD_MODEL MILLM_CATALOG_URL MILLM_DOWNLOADER_URL MILLM_RUNTIME_URL
"$bin/millm" serve >"$work/serve.log" 2>&1 &
pids+=($!)

export MILLM_URL=http://127.0.0.1:$port MILLM_REPO=millm/tiny-millm
wait_for "$MILLM_URL/readyz" "$work/serve.log"
cd tests/browser
if [ -n "$screens" ]; then
  MILLM_SCREENS=$screens npm run --silent screens
else
  npm test --silent
fi
