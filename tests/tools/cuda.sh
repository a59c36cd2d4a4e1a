#!/usr/bin/env bash
# Runs a command with CUDA's compiler and libraries at hand, building into target/cuda: the toolkit that is installed, or
# else the one that PyPI's wheels make. Neither a GPU nor a driver is needed to build.
set -euo pipefail
cd "$(dirname "$0")/../.."
into=$PWD/target/cuda
mkdir -p "$into"

if ! command -v nvcc >/dev/null; then
  venv=$into/venv wanted=tests/tools/cuda.txt
  if [ ! -e "$venv/ready" ] || [ "$wanted" -nt "$venv/ready" ]; then
    [ -x "$venv/bin/python" ] || python3 -m venv "$venv"
    "$venv/bin/python" -m pip install -q --disable-pip-version-check --no-deps -r "$wanted"
    kit=$(echo "$venv"/lib/python3*/site-packages/nvidia/cu13)
    chmod +x "$kit"/bin/* "$kit"/nvvm/bin/*
    # Linkers look for names without versions.
    for library in "$kit"/lib/lib*.so.*; do
      ln -sf "${library##*/}" "${library%%.so.*}.so"
    done
    touch "$venv/ready"
  fi
  CUDA_HOME=$(echo "$venv"/lib/python3*/site-packages/nvidia/cu13)
  export CUDA_HOME CUDA_PATH=$CUDA_HOME CUDA_ROOT=$CUDA_HOME PATH=$CUDA_HOME/bin:$PATH
  libraries=$CUDA_HOME/lib
  # Where the program finds them when it runs.
  target=$(rustc -vV | sed -n 's/^host: //p' | tr a-z- A-Z_)
  export "CARGO_TARGET_${target}_RUSTFLAGS=-C link-arg=-Wl,-rpath,$libraries"
else
  home=$(dirname "$(dirname "$(readlink -f "$(command -v nvcc)")")")
  export CUDA_HOME=${CUDA_HOME:-$home}
  libraries=$CUDA_HOME/lib64
fi

# To link, a driver's library with every name in the header will do; the real one comes with the GPU.
# Not -q: who stops listening makes the pipe fail.
if ! ldconfig -p | grep 'libcuda\.so ' >/dev/null; then
  stub=$into/driver
  if [ ! -e "$stub/libcuda.so" ]; then
    mkdir -p "$stub"
    grep -hoE '\bcu[A-Z][A-Za-z0-9_]*' "$CUDA_HOME"/include/cuda*.h | sort -u |
      sed 's/.*/int &(void) { return 34; }/' | # CUDA_ERROR_STUB_LIBRARY
      cc -w -shared -fPIC -Wl,-soname,libcuda.so.1 -x c -o "$stub/libcuda.so" -
  fi
  libraries=$libraries:$stub
fi
export LIBRARY_PATH=$libraries${LIBRARY_PATH:+:$LIBRARY_PATH}

# Kernels are compiled for one kind of GPU: this machine's, or else Ampere.
if [ -z "${CUDA_COMPUTE_CAP:-}" ]; then
  CUDA_COMPUTE_CAP=$(nvidia-smi --query-gpu=compute_cap --format=csv,noheader 2>/dev/null | head -1 | tr -d .) || true
fi
export CUDA_COMPUTE_CAP=${CUDA_COMPUTE_CAP:-80} CARGO_TARGET_DIR=$into
exec "$@"
