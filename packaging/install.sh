#!/usr/bin/env bash
# Installs the program with its completions and man pages. $1: the program; $2: where to, such as /usr/local.
set -euo pipefail
cd "$(dirname "$0")/.."

install -D -m 755 "$1" "$2/bin/millm"
share=$2/share
packaging/shell_files.sh "$1" "$share/bash-completion/completions" "$share/zsh/site-functions" \
  "$share/fish/vendor_completions.d" "$share/man/man1"
