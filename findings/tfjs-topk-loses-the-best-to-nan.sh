#!/usr/bin/env bash
# @tensorflow/tfjs 4.22.0 (backend cpu), 2026-11-29: one NaN makes topk leave out the largest number.
#
# Expected: tf.topk puts NaN first or last, or returns NaN; the numbers beside it keep their order.
# Happens:  comparisons with NaN are false, so the selection goes wrong: of [1, 5, NaN, 3, 4] the best two are given as
#           [4, 3], without the 5 and without the NaN, which shows only from k = 3 on. argMax passes over the NaN (index 1)
#           and max returns it. A ranking with one bad score looks healthy and is wrong.
# Seen:     topk 2: 4 3 | topk 3: 5 4 NaN | argMax 1 | max NaN
set -euo pipefail
dir=$(mktemp -d); trap 'rm -rf "$dir"' EXIT
cd "$dir"
npm init -y >/dev/null
npm install --silent --no-audit --no-fund --ignore-scripts @tensorflow/tfjs@4.22.0 >/dev/null
cat > topk.cjs <<'JS'
console.warn = () => {};
const tf = require('@tensorflow/tfjs');
tf.setBackend('cpu').then(() => {
  const x = tf.tensor1d([1, 5, NaN, 3, 4]);
  const top = (k) => [...tf.topk(x, k).values.dataSync()].join(' ');
  const seen = `topk 2: ${top(2)} | topk 3: ${top(3)} | argMax ${tf.argMax(x).dataSync()[0]} | max ${tf.max(x).dataSync()[0]}`;
  console.log(seen);
  process.exit(seen === 'topk 2: 4 3 | topk 3: 5 4 NaN | argMax 1 | max NaN' ? 0 : 1);
});
JS
node topk.cjs
