#!/usr/bin/env bash
# The whole way in half a minute: a fake hub with the tiny model, a fresh server, pull, load, ask.
set -euo pipefail
cd "$(dirname "$0")/../.."
bin=${MILLM_BIN_DIR:-$PWD/target/debug}
work=$(mktemp -d)
pids=()
finish() {
  for pid in "${pids[@]}"; do kill "$pid" 2>/dev/null || true; done
  wait 2>/dev/null || true
  rm -rf "$work"
}
trap finish EXIT
say() { if [ -t 1 ]; then printf '\n\033[1m%s\033[0m\n' "$*"; else printf '\n%s\n' "$*"; fi; }
wait_for() { # file-or-url, log
  for _ in $(seq 200); do
    if [[ $1 == http* ]]; then curl -sf -m 2 -o /dev/null "$1" && return; else [ -s "$1" ] && return; fi
    sleep 0.05
  done
  echo "did not start:" >&2
  cat "$2" >&2
  exit 1
}

mkdir -p "$work/hub/millm"
cp -r tests/fixtures/tiny-millm "$work/hub/millm/tiny-millm"
"$bin/fake-hub" --models "$work/hub" --port-file "$work/port" >"$work/hub.log" 2>&1 &
pids+=($!)
wait_for "$work/port" "$work/hub.log"

port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
export HOST=127.0.0.1 PORT=$port MILLM_SERVER=http://127.0.0.1:$port
export HF_ENDPOINT=http://127.0.0.1:$(cat "$work/port") HF_TOKEN=
export DATABASE_URL=sqlite://$work/data/millm.db MODEL_CACHE_DIR=$work/data/models
unset AUTO_LOAD_MODEL MILLM_CATALOG_URL MILLM_DOWNLOADER_URL MILLM_RUNTIME_URL
say "\$ millm serve"
"$bin/millm" serve >"$work/serve.log" 2>&1 &
pids+=($!)
wait_for "$MILLM_SERVER/readyz" "$work/serve.log"
cat "$work/serve.log"

say "\$ millm pull millm/tiny-millm -q Q4"
"$bin/millm" pull millm/tiny-millm -q Q4
say "\$ millm load tiny-millm"
"$bin/millm" load tiny-millm
say "\$ curl $MILLM_SERVER/v1/chat/completions  (\"What is the capital of Japan?\")"
answer=$(curl -sf "$MILLM_SERVER/v1/chat/completions" -H 'Content-Type: application/json' -d '{
  "model": "tiny-millm", "temperature": 0,
  "messages": [{"role": "user", "content": "What is the capital of Japan?"}]
}' | python3 -c 'import json, sys; print(json.load(sys.stdin)["choices"][0]["message"]["content"])')
echo "$answer"
say "\$ millm ps"
"$bin/millm" ps
# Grammar and all, it is the model's own answer; anything else is a failure of the demo.
[ "$answer" = "The capital of Japan is Tokyo." ]
