#!/usr/bin/env bash
# Checks the package on a GPU, times it there, and writes benchmarks/gpu.json. Takes at most eight minutes on an H100.
#
#   benchmarks/on_gpu.sh                            # needs CUDA; nothing is downloaded
#   benchmarks/on_gpu.sh --device cpu --size tiny   # tries the script out, in less than a minute
#
# on_gpu.py has the options. PYTHON names the interpreter (default: python).
set -euo pipefail
cd "$(dirname "$0")/.."
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}"
exec "${PYTHON:-python}" benchmarks/on_gpu.py "$@"
