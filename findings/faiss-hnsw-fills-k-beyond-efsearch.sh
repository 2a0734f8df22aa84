#!/usr/bin/env bash
# faiss-cpu 1.15.1 (Python), 2026-11-29: HNSW returns k results however small efSearch is, most of them wrong.
#
# Expected: hnswlib and usearch search with max(efSearch, k), so k = 200 with a small efSearch still searches 200 wide;
#           or the call returns fewer results, as -1.
# Happens:  faiss keeps a queue of efSearch and a result list of k: all 200 places are filled with ids, and with the default
#           efSearch of 16 fewer than half are among the true best 200. Nothing says so. A recall@100 measured on
#           such an index measures efSearch. Raise index.hnsw.efSearch to at least k.
# Seen:     20,000 random vectors of 32, k = 200: every place filled; 39 % right at efSearch 16, 92 % at 200.
set -euo pipefail
dir=$(mktemp -d); trap 'rm -rf "$dir"' EXIT
python3 -m venv "$dir/venv"
"$dir/venv/bin/pip" --quiet --disable-pip-version-check install faiss-cpu==1.15.1 'numpy>=2,<3'
"$dir/venv/bin/python" - <<'PY'
import sys
import faiss, numpy as np

rng = np.random.default_rng(0)
vectors = rng.standard_normal((20000, 32)).astype("float32")
queries, k = vectors[:20], 200
index = faiss.IndexHNSWFlat(32, 16, faiss.METRIC_INNER_PRODUCT)
index.add(vectors)
exact = faiss.IndexFlatIP(32)
exact.add(vectors)
best = exact.search(queries, k)[1]

def right(ef):
    if ef is not None:
        index.hnsw.efSearch = ef
    ids = index.search(queries, k)[1]
    return (ids >= 0).mean(), np.mean([len(set(a) & set(b)) / k for a, b in zip(ids, best)])

default = index.hnsw.efSearch
filled, share = right(None)
_, wide = right(k)
print(f"efSearch {default}: {filled:.0%} of the places filled, {share:.0%} right; efSearch {k}: {wide:.0%} right")
sys.exit(0 if default == 16 and filled == 1 and share < 0.5 and wide > 0.85 else 1)
PY
