#!/usr/bin/env bash
# Writes what belongs beside the program: completions and man pages. $1: the program; $2, $3, $4: the folders for bash,
# zsh and fish; $5: the folder for man pages.
set -euo pipefail

mkdir -p "${@:2}"
"$1" completions bash >"$2/millm"
"$1" completions zsh >"$3/_millm"
"$1" completions fish >"$4/millm.fish"
"$1" man --dir "$5"
