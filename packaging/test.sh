#!/usr/bin/env bash
# Installs a program and unpacks its archive in a folder of its own, and uses what came of it. $1: the program.
set -euo pipefail
cd "$(dirname "$0")/.."

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
fail() {
  echo "package-test: $*" >&2
  exit 1
}
version=$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -1)

# Completes "millm pu" as bash does after a press of the tab key. $1: the script.
completed() {
  bash -c 'source "$1"; COMP_WORDS=(millm pu); COMP_CWORD=1; _millm millm pu millm; echo "${COMPREPLY[*]}"' _ "$1"
}

check() { # program, bash, zsh, fish, man pages
  [ "$("$1" --version)" = "millm $version" ] || fail "$1 says $("$1" --version), Cargo.toml $version"
  [ "$(completed "$2")" = pull ] || fail "$2 completes 'millm pu' to '$(completed "$2")'"
  head -1 "$3" | grep -qx '#compdef millm' || fail "$3 is no completion for zsh"
  grep -q 'complete -c millm' "$4" || fail "$4 is no completion for fish"
  for page in millm millm-pull millm-serve; do
    grep -q '^\.SH NAME' "$5/$page.1" || fail "$5/$page.1 is no man page"
  done
}

make --no-print-directory install-files PROGRAM="$1" DESTDIR="$work/root" PREFIX=/opt/millm
share=$work/root/opt/millm/share
check "$work/root/opt/millm/bin/millm" "$share/bash-completion/completions/millm" "$share/zsh/site-functions/_millm" \
  "$share/fish/vendor_completions.d/millm.fish" "$share/man/man1"

archive=$(SOURCE_DATE_EPOCH=1 packaging/archive.sh "$1" "$work/dist")
(cd "$work/dist" && sha256sum --quiet -c ./*.sha256) || fail "the checksum of $archive is wrong"
mkdir "$work/unpacked"
tar -C "$work/unpacked" -xzf "$archive"
folder=$work/unpacked/$(basename "$archive" .tar.gz)
check "$folder/millm" "$folder/completions/bash/millm" "$folder/completions/zsh/_millm" \
  "$folder/completions/fish/millm.fish" "$folder/man/man1"
for document in README.md CHANGELOG.md LICENSE-APACHE LICENSE-MIT; do
  cmp "$document" "$folder/$document"
done
echo "package-test: installed and unpacked millm $version"
