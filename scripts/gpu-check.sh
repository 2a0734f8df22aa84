#!/usr/bin/env bash
# bash scripts/gpu-check.sh [--sizes tiny,mini,small] [--steps 5]: does this machine's GPU compute what the processor computes, and
# how fast? Needs no network: the repository with node_modules, and Node in PATH, in $NODE, or as ./node. See docs/engines.md.
# bash scripts/gpu-check.sh --pack FILE.tar.xz: all that it needs on another Linux machine of this kind, Node too, without the native engine.
set -euo pipefail
cd "$(dirname "$0")/.."
if [ "${1:-}" = --pack ]; then
  file=${2:?gpu-check: --pack needs the name of a file to write}
  node=$(node -p process.execPath)
  other=linux-x64
  if [ "$(node -p process.arch)" = x64 ]; then other=linux-arm64; fi
  skipped=()
  for pattern in '*.map' '*.d.ts' '*.min.js' '*.es2017*' '*.fesm*' '*_test.js' 'darwin*' 'win32*' "$other" .realm-engine \
    @biomejs typescript @typescript playwright-core 'onnxruntime*' axe-core tfjs-node-gpu; do
    skipped+=("--exclude=$pattern")
  done
  tar "${skipped[@]}" -cf "$file.part" package.json bin src bench scripts configs assets node_modules
  tar -rf "$file.part" --transform 's,.*,node,' -P "$node"
  xz -T0 -3 <"$file.part" >"$file"
  rm "$file.part"
  echo "$file: $(($(stat -c %s "$file") >> 20)) MiB; there: tar -xJf $(basename "$file") && bash scripts/gpu-check.sh"
  exit
fi
node=${NODE:-node}
if [ -z "${NODE:-}" ] && [ -x ./node ]; then node=./node; fi
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
