#!/usr/bin/env bash
# Both REST APIs against their OpenAPI documents, with made-up requests for SECONDS_EACH seconds each: no 500, no status
# and no body that is not described. The server has a hub and a loaded model of its own.
set -euo pipefail
cd "$(dirname "$0")/../.."
source tests/tools/started.sh
seconds=${SECONDS_EACH:-30}

start_hub
start_server
"$bin/millm" pull millm/tiny-millm -q Q4
"$bin/millm" load tiny-millm

status=0
for document in v1/openapi.json api/openapi.json; do
  .venv/bin/st --config-file tests/tools/schemathesis.toml --no-color \
    run "$MILLM_SERVER/$document" --max-time "$seconds" --request-timeout 30 --warnings off || status=1
done
# The server has survived it.
curl -sf -o /dev/null "$MILLM_SERVER/readyz"
exit $status
