#!/usr/bin/env bash
# bash scripts/gpu-check.sh [--sizes tiny,mini,small] [--steps 5]: does this machine's GPU compute what the processor computes, and
# how fast? Needs no network: the repository with node_modules, and Node in PATH or in $NODE. See docs/engines.md.
set -euo pipefail
cd "$(dirname "$0")/.."
node=${NODE:-node}
if ! "$node" --version >/dev/null 2>&1; then
  echo "gpu-check: $node cannot be run; copy Node here and name it, as in NODE=./node bash scripts/gpu-check.sh" >&2
  exit 2
fi
if [ ! -d node_modules/tsx ]; then
  echo "gpu-check: $PWD/node_modules is missing; run npm ci where there is a network, and copy the folder here" >&2
  exit 2
fi
# NVIDIA's driver without the file that tells Vulkan of it, as in many containers.
if [ -z "${VK_DRIVER_FILES:-}" ] && ! ls /usr/share/vulkan/icd.d/nvidia*.json /etc/vulkan/icd.d/nvidia*.json >/dev/null 2>&1 &&
  ldconfig -p 2>/dev/null | grep -q libGLX_nvidia.so.0; then
  file=$(mktemp --suffix=.json)
  trap 'rm -f "$file"' EXIT
  echo '{"file_format_version": "1.0.0", "ICD": {"library_path": "libGLX_nvidia.so.0", "api_version": "1.3"}}' >"$file"
  export VK_DRIVER_FILES=$file
fi
"$node" --import tsx bench/gpu-check.ts "$@"
