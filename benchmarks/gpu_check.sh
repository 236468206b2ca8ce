#!/usr/bin/env bash
# Check the GPU profile and measure it, in at most 8 minutes, on a machine with an NVIDIA driver and Python 3.11.
#
#   benchmarks/gpu_check.sh --collect-wheels DIR                      with a network: download what the other one installs
#   benchmarks/gpu_check.sh --wheels DIR --repository DIR [--out FILE]   on the machine with the GPU, without a network
#   benchmarks/gpu_check.sh --dry-run --repository DIR                everything but the GPU
#
# See docs/how-to/gpu.md. PYTHON names the interpreter (python3.11, or else python3). Relative paths start at the root of
# the checkout.
set -euo pipefail
cd "$(dirname "$0")/.."
exec "${PYTHON:-$(command -v python3.11 || echo python3)}" -m benchmarks.gpu_check "$@"
