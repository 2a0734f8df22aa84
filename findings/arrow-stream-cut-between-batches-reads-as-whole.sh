#!/usr/bin/env bash
# pyarrow 26.0.1, datasets 5.2.0 (Python), apache-arrow 21.2.0 (npm), 2026-11-29: half an Arrow stream is read as a whole one.
#
# Expected: a file that was cut off, by a full disk or a broken download, is refused. Its writer ends a stream with a mark
#           (FF FF FF FF 00 00 00 00), which is missing then.
# Happens:  the mark is optional in the format, and the readers take the end of the file for the end of the stream. Cut between
#           two record batches, a stream loses its last rows without an error; cut elsewhere it is refused. datasets' save_to_disk
#           writes streams of 1,000 rows a batch, and keeps no number of rows: load_from_disk gives fewer rows, and no warning.
#           The file format of Arrow (Feather) has a footer, and is refused wherever it is cut.
# Seen:     of 3000 rows: pyarrow 2000, datasets 2000, apache-arrow 2000
set -euo pipefail
dir=$(mktemp -d); trap 'rm -rf "$dir"' EXIT
cd "$dir"
python3 -m venv venv
venv/bin/pip --quiet --disable-pip-version-check install pyarrow==26.0.1 datasets==5.2.0
npm init -y >/dev/null
npm install --silent --no-audit --no-fund --ignore-scripts apache-arrow@21.2.0 >/dev/null
venv/bin/python - <<'PY' >rows.txt
import datasets, pyarrow as pa
datasets.disable_progress_bars()
datasets.Dataset.from_dict({"n": list(range(3000))}).save_to_disk("saved")
path = "saved/data-00000-of-00001.arrow"
whole = open(path, "rb").read()
# Messages start at multiples of 8 bytes. The longest cut that is read without an error and lacks rows:
cut = len(whole) - 8
rows = 3000
while rows == 3000:
    cut -= 8
    try:
        rows = pa.ipc.open_stream(whole[:cut]).read_all().num_rows
    except (pa.ArrowInvalid, OSError):
        pass
open(path, "wb").write(whole[:cut])
print(f"pyarrow {rows}, datasets {len(datasets.load_from_disk('saved'))}", end="")
PY
node --input-type=module <<'JS' >>rows.txt
import { readFileSync } from 'node:fs';
import { tableFromIPC } from 'apache-arrow';
process.stdout.write(`, apache-arrow ${tableFromIPC(readFileSync('saved/data-00000-of-00001.arrow')).numRows}`);
JS
seen="of 3000 rows: $(cat rows.txt)"
echo "$seen"
[ "$seen" = 'of 3000 rows: pyarrow 2000, datasets 2000, apache-arrow 2000' ]
