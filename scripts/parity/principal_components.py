"""Principal components by numpy: the numbers that test/model/components.test.ts compares, and what an index narrower
than the encoder loses (docs/encoders.md).

  python scripts/parity/principal_components.py fixture > test/fixtures/principal-components.json
  python scripts/parity/principal_components.py measure RUN DOCUMENTS.jsonl QUESTIONS.jsonl ENCODER

measure needs sentence-transformers, and a run whose index was made by the encoder as it was published. A question counts
as found at k if a block of the document in its passage_id is among the k best. Vectors are compared by their cosines.
"""

import json
import sys

import numpy as np

SAMPLES = (1000, 4000, 20_000)
WIDTHS = (128, 64)
KS = (1, 5, 20)


def components(rows, width):
    """[H, width]: eigenvectors of the largest eigenvalues of the rows' products, the largest first."""
    rows = rows.astype(np.float64)
    return np.linalg.eigh(rows.T @ rows)[1][:, ::-1][:, :width]


def orthonormal(size, width, seed):
    return np.linalg.qr(np.random.default_rng(seed).standard_normal((size, width)))[0]


def evenly(count, most):
    n = min(count, most)
    return np.arange(n) * count // n


def fixture():
    random = np.random.default_rng(17)
    rows = random.standard_normal((40, 6)) * [3, 2, 1.5, 1, 0.5, 0.25] @ orthonormal(6, 6, 18) + 0.5
    rows = rows.astype(np.float32)
    found = components(rows, 4)
    print(json.dumps({"numpy": np.__version__, "rows": rows.tolist(), "components": found.tolist()}))


def measure(run, documents, questions, encoder):
    sys.path.pop(0)  # a script beside this one has the library's name
    from sentence_transformers import SentenceTransformer

    with open(f"{run}/index/current") as file:
        folder = f"{run}/index/{file.read().strip()}"
    with open(f"{folder}/manifest.json") as file:
        size = json.load(file)["dimensions"]
    vectors = np.memmap(f"{folder}/embeddings.f32", np.float32, "r").reshape(-1, size)
    # src/corpus/store/layout.ts: a record of 40 bytes a block, the document's number at 32.
    records = np.fromfile(f"{run}/corpus/blocks.idx", np.uint8)[: 40 * len(vectors)].reshape(-1, 40)
    document = records[:, 32:36].copy().view("<u4")[:, 0]
    with open(documents) as file:
        number = {json.loads(line)["id"]: i for i, line in enumerate(file)}
    assert len(number) == document[-1] + 1, "the run has other documents"
    with open(questions) as file:
        asked = [json.loads(line) for line in file]
    gold = np.array([number[question["passage_id"]] for question in asked])
    queries = SentenceTransformer(encoder, device="cpu").encode_query([q["question"] for q in asked])

    def recall(matrix):
        z, q = (vectors, queries) if matrix is None else (vectors @ matrix, queries @ matrix)
        z, q = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (z, q))
        found = []
        for at in range(0, len(q), 64):
            scores = q[at : at + 64] @ z.T
            best = np.argpartition(-scores, max(KS), axis=1)[:, : max(KS)]
            order = np.argsort(-np.take_along_axis(scores, best, 1), axis=1)
            found.append(document[np.take_along_axis(best, order, 1)])
        hits = np.concatenate(found) == gold[:, None]
        return "/".join(f"{100 * hits[:, :k].any(1).mean():.1f}" for k in KS)

    print(f"{len(vectors)} blocks, {len(asked)} questions, recall@{'/'.join(map(str, KS))}", flush=True)
    print(f"{size}: {recall(None)}", flush=True)
    for width in WIDTHS:
        for most in SAMPLES if width == 128 else SAMPLES[-1:]:
            rows = vectors[evenly(len(vectors), most)]
            print(f"{width}, components of {most}: {recall(components(rows, width).astype(np.float32))}", flush=True)
        for seed in (1, 2, 3):
            print(f"{width}, random {seed}: {recall(orthonormal(size, width, seed).astype(np.float32))}", flush=True)


if __name__ == "__main__":
    if sys.argv[1:] == ["fixture"]:
        fixture()
    elif len(sys.argv) == 6 and sys.argv[1] == "measure":
        measure(*sys.argv[2:])
    else:
        sys.exit(__doc__)
