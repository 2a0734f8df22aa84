#!/usr/bin/env bash
# usearch 2.26.2 (npm), 2026-11-29: an inner-product index with i8 vectors ranks by cosine.
#
# Expected: `metric: 'ip'` ranks by the inner product whatever the precision; i8 only rounds.
# Happens:  each vector is scaled to its own largest length before rounding, so its length is lost. A long vector with a
#           large inner product comes last where f32 puts it first, and the distances are on another scale.
# Seen:     f32 ranks 1 3 2 (inner products 10, 3, 1); i8 ranks 2 3 1 (cosines 1, 0.99, 0.71).
set -euo pipefail
dir=$(mktemp -d); trap 'rm -rf "$dir"' EXIT
cd "$dir"
npm init -y >/dev/null
npm install --silent --no-audit --no-fund usearch@2.26.2 >/dev/null
cat > ranks.mjs <<'JS'
import { Index } from 'usearch';
const ranks = (quantization) => {
  const index = new Index({ metric: 'ip', dimensions: 2, quantization });
  index.add([1n, 2n, 3n], new Float32Array([10, 10, 1, 0, 3, 0.5]));
  return [...index.search(new Float32Array([1, 0]), 3, 1).keys].join(' ');
};
const [f32, i8] = ['f32', 'i8'].map(ranks);
console.log(`f32 ranks ${f32}; i8 ranks ${i8}`);
process.exit(f32 === '1 3 2' && i8 === '2 3 1' ? 0 : 1);
JS
node ranks.mjs
