#!/usr/bin/env bash
# @foxglove/wasm-bz2 0.3.0 (npm), 2026-11-29: of a file of several bzip2 streams it returns the first one, without an error.
#
# Expected: like bunzip2, Python's bz2 and libbz2's BZ2_bzRead users, it goes on with the next stream; or, as the caller gives
#           the size of the whole text, it fails when less comes out. Wikimedia's "multistream" dumps and the output of pbzip2 are
#           such files.
# Happens:  decompress(bytes, 7) of "one " and "two" returns 4 bytes. Of a multistream dump it returns the head of the XML.
#           unbzip2-stream 1.4.3 and seek-bzip 2.0.0 (decode with a third argument of true) return all 7.
# Seen:     wasm-bz2 "one " | unbzip2-stream "one two" | seek-bzip "one two" | seek-bzip without the argument "one "
set -euo pipefail
dir=$(mktemp -d); trap 'rm -rf "$dir"' EXIT
cd "$dir"
npm init -y >/dev/null
npm install --silent --no-audit --no-fund --ignore-scripts unbzip2-stream@1.4.3 @foxglove/wasm-bz2@0.3.0 seek-bzip@2.0.0 >/dev/null
# Two streams, made by Python: bz2.compress(b"one ") + bz2.compress(b"two").
cat > read.cjs <<'JS'
const { Readable } = require('node:stream');
const unbzip2 = require('unbzip2-stream');
const Bunzip = require('seek-bzip');
const bytes = Buffer.from('QlpoOTFBWSZTWc+6oLQAAAGRAEAAAgGgACGaaDNNDLxdyRThQkM+6oLQQlpoOTFBWSZTWc3cjZoAAACBgAAAhIAgACGYGYRhdyRThQkM3cjZoA==', 'base64');
(async () => {
  const wasm = await require('@foxglove/wasm-bz2').init();
  let text = '';
  await new Promise((end) => Readable.from([bytes]).pipe(unbzip2()).on('data', (piece) => (text += piece)).on('end', end));
  const seen = [
    `wasm-bz2 ${JSON.stringify(Buffer.from(wasm.decompress(bytes, 7)).toString())}`,
    `unbzip2-stream ${JSON.stringify(text)}`,
    `seek-bzip ${JSON.stringify(String(Bunzip.decode(bytes, undefined, true)))}`,
    `seek-bzip without the argument ${JSON.stringify(String(Bunzip.decode(bytes)))}`,
  ].join(' | ');
  console.log(seen);
  process.exit(seen.startsWith('wasm-bz2 "one " | unbzip2-stream "one two" | seek-bzip "one two"') ? 0 : 1);
})();
JS
node read.cjs
