#!/usr/bin/env bash
# The whole way in half a minute: a fake hub with the tiny model, a fresh server, pull, load, ask.
set -euo pipefail
cd "$(dirname "$0")/../.."
source tests/tools/started.sh
say() { if [ -t 1 ]; then printf '\n\033[1m%s\033[0m\n' "$*"; else printf '\n%s\n' "$*"; fi; }

start_hub
say "\$ millm serve"
start_server
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
# A demo whose answer is wrong has failed.
[ "$answer" = "The capital of Japan is Tokyo." ]
