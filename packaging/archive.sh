#!/usr/bin/env bash
# Packs the program with its documents, licences, completions and man pages: $2/millm-VERSION-TARGET.tar.gz and its
# checksum. Nothing is fetched. $1: the program; $2: where to. SOURCE_DATE_EPOCH sets the files' times.
set -euo pipefail
cd "$(dirname "$0")/.."

version=$("$1" --version | cut -d' ' -f2)
target=${TARGET:-$(rustc -vV | sed -n 's/^host: //p')}
name=millm-$version-$target
folder=$2/$name

rm -rf "$folder"
mkdir -p "$folder"
install -m 755 "$1" "$folder/millm"
for document in README.md CHANGELOG.md LICENSE-APACHE LICENSE-MIT; do
  install -m 644 "$document" "$folder"
done
packaging/shell_files.sh "$1" "$folder/completions/bash" "$folder/completions/zsh" "$folder/completions/fish" \
  "$folder/man/man1"
tar -C "$2" --sort=name --owner=0 --group=0 --numeric-owner --mtime="@${SOURCE_DATE_EPOCH:-$(date +%s)}" \
  -czf "$2/$name.tar.gz" "$name"
rm -rf "$folder"
(cd "$2" && sha256sum "$name.tar.gz" >"$name.tar.gz.sha256")
echo "$2/$name.tar.gz"
