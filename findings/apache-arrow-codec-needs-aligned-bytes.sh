#!/usr/bin/env bash
# apache-arrow 21.2.0 (npm), fzstd 0.1.1, 2026-11-29: a decompressor that returns the right bytes breaks columns of numbers.
#
# Expected: compressionRegistry.set(ZSTD, { decode }) takes any function that returns the bytes of a buffer.
# Happens:  the library makes a typed array over the memory of what it gets. If the bytes do not start at a multiple of 8 in their
#           ArrayBuffer, a column of 64-bit integers fails with "start offset of BigInt64Array should be a multiple of 8", while a
#           table of texts alone is read. fzstd returns such views, and so does anything that makes small Buffers of Node's pool.
#           A copy (slice() of a Uint8Array, not of a Buffer, whose slice is a view) is enough.
# Seen:     text: 1 rows | numbers: start offset of BigInt64Array should be a multiple of 8 | numbers with a copy: 300 rows
set -euo pipefail
dir=$(mktemp -d); trap 'rm -rf "$dir"' EXIT
cd "$dir"
python3 -m venv venv
venv/bin/pip --quiet --disable-pip-version-check install pyarrow==26.0.1
npm init -y >/dev/null
npm install --silent --no-audit --no-fund --ignore-scripts apache-arrow@21.2.0 fzstd@0.1.1 >/dev/null
venv/bin/python - <<'PY'
import pyarrow as pa, pyarrow.feather as feather
text = "The river is long. " * 9
feather.write_feather(pa.table({"text": [text]}), "text.feather", compression="zstd")
feather.write_feather(pa.table({"n": list(range(300)), "text": [text] * 300}), "numbers.feather", compression="zstd")
PY
cat > read.mjs <<'JS'
import { readFileSync } from 'node:fs';
import { CompressionType, compressionRegistry, tableFromIPC } from 'apache-arrow';
import { decompress } from 'fzstd';
const rows = (file, decode) => {
  compressionRegistry.set(CompressionType.ZSTD, { decode });
  try {
    return `${tableFromIPC(readFileSync(file)).numRows} rows`;
  } catch (error) {
    return error.message;
  }
};
const seen = [
  `text: ${rows('text.feather', (bytes) => decompress(bytes))}`,
  `numbers: ${rows('numbers.feather', (bytes) => decompress(bytes))}`,
  `numbers with a copy: ${rows('numbers.feather', (bytes) => decompress(bytes).slice())}`,
].join(' | ');
console.log(seen);
const wrong = 'start offset of BigInt64Array should be a multiple of 8';
process.exit(seen === `text: 1 rows | numbers: ${wrong} | numbers with a copy: 300 rows` ? 0 : 1);
JS
node read.mjs
