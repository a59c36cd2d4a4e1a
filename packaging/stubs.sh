#!/usr/bin/env bash
# Generates the Python messages and stubs of the contracts into python/millm. $1: a Python that has grpcio-tools.
set -euo pipefail
cd "$(dirname "$0")/.."

# The contracts lie in the package `millm.*`, so the generated modules find their place in the client's package.
# google.rpc comes from googleapis-common-protos.
"$1" -m grpc_tools.protoc -I proto --python_out=python --pyi_out=python --grpc_python_out=python \
  proto/millm/{catalog,downloader,inspection,runtime}/v1/*.proto
