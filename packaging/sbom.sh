#!/usr/bin/env bash
# Writes the software bill of materials of the program, CycloneDX in JSON: $1/millm-VERSION.cdx.json.
set -euo pipefail
cd "$(dirname "$0")/.."

version=$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -1)
name=sbom-of-millm.cdx
# cargo-cyclonedx writes one file beside each Cargo.toml of the workspace.
clean() { find . -name "$name.json" -not -path './target/*' -not -path '*/node_modules/*' -delete; }
trap clean EXIT
cargo cyclonedx --manifest-path Cargo.toml --format json --override-filename "$name" -q
mkdir -p "$1"
mv "services/millm/$name.json" "$1/millm-$version.cdx.json"
echo "$1/millm-$version.cdx.json"
