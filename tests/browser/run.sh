#!/usr/bin/env bash
# The page in Chromium against a fresh server and a fake hub that holds the tiny model.
# With a folder as argument it takes the pictures of every screen instead: tests/browser/run.sh docs/screens
set -euo pipefail
screens=${1:+$(realpath -m "$1")}
cd "$(dirname "$0")/../.."
source tests/tools/started.sh

export MILLM_CHROMIUM=${MILLM_CHROMIUM:-/usr/bin/chromium}
[ -x "$MILLM_CHROMIUM" ] || { echo "$MILLM_CHROMIUM is missing: apt-get install chromium" >&2; exit 1; }
(cd tests/browser && { [ node_modules/.package-lock.json -nt package-lock.json ] || npm ci --no-fund --no-audit; })

start_hub
start_server
export MILLM_URL=$MILLM_SERVER MILLM_REPO=millm/tiny-millm
cd tests/browser
if [ -n "$screens" ]; then
  MILLM_SCREENS=$screens npm run --silent screens
else
  npm test --silent
fi
