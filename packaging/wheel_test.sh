#!/usr/bin/env bash
# Installs a wheel into an empty virtual environment and runs the tests of its client there. $1: the wheel. FAKE_HUB_BIN
# is the fake hub that the tests download from.
set -euo pipefail
cd "$(dirname "$0")/.."

venv=target/wheel-test
rm -rf "$venv"
python3 -m venv "$venv"
"$venv/bin/python" -m pip install -q --disable-pip-version-check "$1"
"$venv/bin/python" -m pip install -q --disable-pip-version-check -r tests/wheel/requirements.txt
MILLM_BIN=$venv/bin/millm "$venv/bin/python" -m pytest -q tests/wheel
