#!/usr/bin/env bash
# Training on one GPU, right and then fast, in under 8 minutes: benchmarks/gpu.sh [options of gpu.py]
#
# For a machine with Python 3.12 and a PyTorch of its own (2.11 or later, with CUDA) and no network. What that
# lacks comes from wheelhouse/, which `make wheelhouse` fills on a machine that has one. OUT is where the
# JSON goes (docs/results), PYTHON the interpreter that has PyTorch.
set -euo pipefail
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-python3}
OUT=${OUT:-docs/results}

"$PYTHON" -c 'import torch' || { echo "error: $PYTHON has no PyTorch; set PYTHON=/path/to/python" >&2; exit 2; }
if compgen -G "wheelhouse/*.whl" > /dev/null; then
  scratch=$(mktemp -d)
  trap 'rm -rf "$scratch"' EXIT
  # Into a folder, not an environment: a system's Python may come without venv, and nothing of it is changed.
  "$PYTHON" -m pip install --quiet --disable-pip-version-check --no-index --no-deps --target "$scratch/site" \
    wheelhouse/*.whl
  export PYTHONPATH="$scratch/site:$PWD${PYTHONPATH:+:$PYTHONPATH}"
else
  export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}"
fi
"$PYTHON" -c 'import publius.training, transformers' || {
  echo "error: something is missing; run 'make wheelhouse' where there is a network, and bring wheelhouse/" >&2
  exit 2
}
"$PYTHON" benchmarks/gpu.py --out "$OUT" "$@"
