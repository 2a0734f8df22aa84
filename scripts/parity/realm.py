"""Compares realm with Hugging Face's REALM classes, both ways. Where a Python has transformers 4.57:

    python scripts/parity/realm.py make DIR tiny|base   # random models, saved in every format, and their outputs
    npx tsx scripts/parity/realm.ts DIR                 # our outputs for them, and our models in DIR/ours
    python scripts/parity/realm.py check DIR            # transformers' outputs for ours
    python scripts/parity/realm.py answers DIR          # the answers of the whole class in DIR/openqa-parts, and their texts

The same weights in TensorFlow's formats come from scripts/parity/realm_tensorflow.py, which reads DIR/ours. The folders in
test/fixtures/realm are those of `tiny`, without `ours` and without the one large file of `openqa`; openqa-answers.json
there is what `answers` prints.
"""

import json
import os
import pathlib
import sys
import tempfile

import numpy as np
import torch
from transformers.models.deprecated.realm.configuration_realm import RealmConfig
from transformers.models.deprecated.realm.modeling_realm import (
    RealmEmbedder,
    RealmForOpenQA,
    RealmKnowledgeAugEncoder,
    RealmReader,
    RealmScorer,
)
from transformers.models.deprecated.realm.retrieval_realm import RealmRetriever
from transformers.models.deprecated.realm.tokenization_realm import RealmTokenizer

TINY = dict(
    vocab_size=50,
    hidden_size=16,
    num_hidden_layers=1,
    num_attention_heads=2,
    intermediate_size=24,
    max_position_embeddings=32,
    retriever_proj_size=6,
    span_hidden_size=8,
    max_span_width=4,
)
BASE = {}  # transformers' defaults: BERT-base
K, BLOCKS, BEAM = 3, 7, 2
KINDS = ("embedder", "scorer", "shared-scorer", "encoder", "reader", "openqa")


def config(sizes):
    return RealmConfig(
        **sizes, pad_token_id=0, num_candidates=K, num_block_records=BLOCKS, reader_beam_size=BEAM, searcher_beam_size=BEAM
    )


def randomise(model, seed):
    """Freshly initialised biases and gains hide errors, so all get noise."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in sorted(dict(model.named_parameters()).items()):
            scale = 0.3 if p.shape[-1] <= 64 else 0.05
            noise = torch.randn(p.shape, generator=generator)
            gain = "norm" in name.lower() and name.endswith("weight")
            p.copy_(1 + 0.2 * noise if gain else scale * noise)
    return model.eval()


def build(kind, sizes):
    c = config(sizes)
    seed = KINDS.index(kind)
    if kind == "embedder":
        return randomise(RealmEmbedder(c), seed)
    if kind == "scorer":
        return randomise(RealmScorer(c, query_embedder=RealmEmbedder(c)), seed)
    if kind == "shared-scorer":
        return randomise(RealmScorer(c), seed)
    if kind == "encoder":
        return randomise(RealmKnowledgeAugEncoder(c), seed)
    if kind == "reader":
        return randomise(RealmReader(c), seed)
    model = randomise(RealmForOpenQA(c), seed)
    model.block_emb = torch.randn(model.block_emb.shape, generator=torch.Generator().manual_seed(seed))
    return model


def ragged(seed, vocabulary, lengths, first):
    """Random ids, padded with 0: row r has lengths[r] tokens, of which first[r] belong to segment 0."""
    generator = torch.Generator().manual_seed(seed)
    place = torch.arange(max(lengths))
    mask = (place < torch.tensor(lengths)[:, None]).long()
    ids = torch.randint(5, vocabulary, mask.shape, generator=generator) * mask
    segments = (place >= torch.tensor(first)[:, None]).long() * mask
    return {"input_ids": ids, "attention_mask": mask, "token_type_ids": segments}


def rows(inputs):
    lengths = inputs["attention_mask"].sum(-1).tolist()
    return {
        "ids": [row[:n] for row, n in zip(inputs["input_ids"].tolist(), lengths)],
        "firstSegment": (inputs["attention_mask"] - inputs["token_type_ids"]).sum(-1).tolist(),
    }


def numbers(tensor):
    return [float(f"{x:.9g}") for x in tensor.detach().flatten().tolist()]


def spans(reader, relevance, T, lengths, first, inputs):
    """Scores of all spans within the blocks, [block, start, end, score], and the best with its block's score added."""
    place = torch.arange(T)
    block = (place >= torch.tensor(first)[:, None]) & (place < torch.tensor(lengths)[:, None] - 1)
    out = reader(**inputs, relevance_score=relevance, block_mask=block, return_dict=True)
    logits, starts, ends = reader.qa_outputs(reader.realm(**inputs)[0], block)
    valid = block[:, starts] & block[:, ends]
    return {
        "lengths": lengths,
        "blockStarts": first,
        "spans": [
            [r, int(starts[i]), int(ends[i]), float(f"{logits[r, i]:.9g}")]
            for r in range(len(lengths))
            for i in range(len(starts))
            if valid[r, i]
        ],
        "predicted": [int(out.block_idx), int(out.start_pos), int(out.end_pos)],
    }


@torch.no_grad()
def outputs(kind, model):
    V = model.config.vocab_size
    queries = ragged(1, V, [9, 5], [9, 5])
    blocks = ragged(2, V, [12, 3, 8, 7, 11, 12], [5, 2, 4, 3, 6, 7])
    if kind == "embedder":
        vectors = model(**blocks).projected_score
        return {"blocks": rows(blocks), "vectors": numbers(vectors)}
    if kind.endswith("scorer"):
        candidates = {f"candidate_{k}": v.view(2, K, -1) for k, v in blocks.items()}
        out = model(**queries, **candidates)
        return {
            "queries": rows(queries),
            "blocks": rows(blocks),
            "queryVectors": numbers(out.query_score),
            "vectors": numbers(out.candidate_score),
            "scores": numbers(out.relevance_score),
        }
    if kind == "encoder":
        positions = [3, 1, 2, 4, 5, 6]
        logits = model(**{k: v.view(2, K, -1) for k, v in blocks.items()}).logits
        logits = logits.view(2 * K, -1, V)[torch.arange(2 * K), torch.tensor(positions)]
        return {"blocks": rows(blocks), "positions": positions, "logits": numbers(logits)}
    lengths, first = [14, 10], [5, 4]
    joint = ragged(3, V, lengths, first)
    if kind == "reader":
        relevance = torch.tensor([0.7, 0.4])
        read = spans(model, relevance, 14, lengths, first, joint)
        return {"joint": rows(joint), "relevance": numbers(relevance)} | read
    query = ragged(1, V, [9], [9])
    vector = model.embedder(**query).projected_score
    scores = model.block_emb @ vector[0]
    best = scores.topk(BEAM)
    read = spans(model.reader, best.values, 14, lengths, first, joint)
    return {
        "queries": rows(query),
        "queryVectors": numbers(vector),
        "retrieved": best.indices.tolist(),
        "scores": numbers(best.values),
        "joint": rows(joint),
        "relevance": numbers(best.values),
        "blockVectors": numbers(model.block_emb),
    } | read


def make(out, size):
    sizes = TINY if size == "tiny" else BASE
    for kind in KINDS:
        model = build(kind, sizes)
        folder = out / kind
        # As published in 2022; transformers cannot save the class for questions in any other format.
        model.save_pretrained(folder, safe_serialization=False)
        parts = "12KB" if size == "tiny" else "300MB"
        if kind == "openqa":
            model.save_pretrained(out / "openqa-parts", safe_serialization=False, max_shard_size=parts)
        if kind == "encoder":
            model.save_pretrained(out / "encoder-parts", max_shard_size=parts)
        write(folder / "expected.json", outputs(kind, model))
        print(kind, sum(p.numel() for p in model.parameters()), "parameters", flush=True)


def write(path, values):
    path.write_text("{\n" + ",\n".join(f"{json.dumps(k)}: {json.dumps(v)}" for k, v in values.items()) + "\n}\n")


def load(kind, folder):
    more = {}
    classes = {"embedder": RealmEmbedder, "encoder": RealmKnowledgeAugEncoder, "reader": RealmReader, "openqa": RealmForOpenQA}
    if kind == "scorer":
        more = {"query_embedder": RealmEmbedder(RealmConfig.from_pretrained(folder))}
    model, report = classes.get(kind, RealmScorer).from_pretrained(folder, output_loading_info=True, **more)
    # The one class that has no key for the second use of a shared tower.
    missing = [k for k in report["missing_keys"] if not (kind == "shared-scorer" and k.startswith("query_embedder."))]
    problems = missing, report["unexpected_keys"], report["mismatched_keys"]
    assert not any(problems), (kind, problems)
    return model.eval()


def difference(a, b):
    a, b = np.array(a, float).ravel(), np.array(b, float).ravel()
    assert a.shape == b.shape, (a.shape, b.shape)
    return float(np.abs(a - b).max() / max(1e-2, np.abs(b).max()))


def check(out):
    for kind in KINDS:
        theirs = json.loads((out / kind / "expected.json").read_text())
        model = load(kind, out / "ours" / kind)
        ours = outputs(kind, model)
        report = {}
        for key, value in theirs.items():
            if key in ("queryVectors", "vectors", "scores", "logits", "blockVectors", "spans"):
                report[key] = f"{difference(ours[key], value):.1e}"
                assert difference(ours[key], value) <= 1e-4, (kind, key)
            else:
                assert key == "relevance" or ours[key] == value, (kind, key)
        print(f"{kind:14}", *(f"{k} {v}" for k, v in report.items()))
    answer(out / "ours" / "openqa")


def answer(folder):
    """Asks the whole class a question, with the records and the vocabulary that we wrote."""
    os.environ["TRUST_REMOTE_CODE"] = "True"
    retriever = RealmRetriever.from_pretrained(folder)
    assert isinstance(retriever.tokenizer.vocab_size, int) and len(retriever.block_records) == BLOCKS
    model = RealmForOpenQA.from_pretrained(folder, retriever=retriever).eval()
    question = retriever.tokenizer([" ".join(f"word{i}" for i in range(9))], return_tensors="pt")
    with torch.no_grad():
        out = model(**question)
    print("openqa answers", retriever.tokenizer.decode(out.predicted_answer_ids), "from", retriever.block_records[0])


@torch.no_grad()
def answers(out):
    """The whole class, from question to answer, over texts of ten to sixteen random words."""
    os.environ["TRUST_REMOTE_CODE"] = "True"
    model = RealmForOpenQA.from_pretrained(out / "openqa-parts").eval()
    words = [f"word{i}" for i in range(model.config.vocab_size - 5)]
    random = np.random.default_rng(0)
    text = lambda n: " ".join(random.choice(words, n))
    records = [text(10 + i) for i in range(BLOCKS)]
    questions = [text(4) for _ in range(12)]
    with tempfile.TemporaryDirectory() as folder:
        vocabulary = pathlib.Path(folder) / "vocab.txt"
        vocabulary.write_text("".join(f"{p}\n" for p in ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words]))
        tokenizer = RealmTokenizer(str(vocabulary))
    model.retriever = RealmRetriever(np.array([r.encode() for r in records], dtype=object), tokenizer)
    predicted = [tokenizer.decode(model(**tokenizer([q], return_tensors="pt")).predicted_answer_ids) for q in questions]
    print(json.dumps({"records": records, "questions": questions, "answers": predicted}, indent=1))


if __name__ == "__main__":
    command, out = sys.argv[1], pathlib.Path(sys.argv[2])
    if command == "make":
        make(out, sys.argv[3])
    elif command == "answers":
        answers(out)
    else:
        check(out)
