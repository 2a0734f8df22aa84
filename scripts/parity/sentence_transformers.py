"""Makes small folders of sentence-transformers with random weights, and what they give, for the tests of realm:

    pip install sentence-transformers==6.2.0
    python scripts/parity/sentence_transformers.py make test/fixtures/sentence-transformers
    python scripts/parity/sentence_transformers.py vectors FOLDER TEXTS.jsonl OUT.json   # of any folder

and loads folders that realm has exported, with the vectors that realm computes in expected.json:

    npx tsx scripts/parity/sentence_transformers.ts DIR
    python scripts/parity/sentence_transformers.py check DIR

`make` writes one folder for each layout and head, with expected.json in it: texts, their word pieces and their vectors.
Each line of TEXTS is {"query": ...} or {"document": ...}; a document is a text or [title, text].
"""

import json
import os
import pathlib
import shutil
import sys

# The script has the name of the package that it imports.
sys.path = [entry for entry in sys.path if pathlib.Path(entry or ".").resolve() != pathlib.Path(__file__).resolve().parent]

import torch
from safetensors.torch import load_file, save_file
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Dense, Normalize, Transformer
from sentence_transformers.sentence_transformer.modules import Pooling
from transformers import BertConfig, BertModel, BertTokenizerFast

WORDS = "the a an of river town built in was who when where which old bridge stone north 19 ##th ##s , . ? : query passage"
SPECIAL = "[PAD] [unused0] [UNK] [CLS] [SEP] [MASK]"
TEXTS = [
    {"query": "Who built the old bridge?"},
    {"query": "When was the town built in the north of which river, and where?"},
    {"document": "The town. The bridge was built of stone in the 19th century."},
    {"document": "River"},
    {"document": "The rivers of the north, old towns and bridges. " * 3},
    {"document": "Étienne built [MASK] bridges"},
]


def encoder(folder, cased=False, seed=1):
    """A BERT of two layers and its tokenizer, as transformers saves them."""
    torch.manual_seed(seed)
    folder.mkdir(parents=True)
    words = WORDS.split() + (["The", "River", "Who", "When"] if cased else [])
    letters = sorted(set("abcdefghijklmnopqrstuvwxyz" + ("RTWE" if cased else "")))
    pieces = list(dict.fromkeys(SPECIAL.split() + words + letters + [f"##{letter}" for letter in letters]))
    (folder / "vocab.txt").write_text("".join(f"{piece}\n" for piece in pieces))
    model = BertModel(
        BertConfig(
            vocab_size=len(pieces),
            hidden_size=16,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=32,
            max_position_embeddings=40,
        )
    )
    with torch.no_grad():
        for name, p in sorted(dict(model.named_parameters()).items()):
            p.add_(torch.randn(p.shape) * 0.3)  # gains and biases as initialised hide errors
    model.save_pretrained(folder)
    BertTokenizerFast(str(folder / "vocab.txt"), do_lower_case=not cased).save_pretrained(folder)
    (folder / "vocab.txt").unlink(missing_ok=True)


def build(folder, pooling, dense=(), normalize=False, prompts=None, cased=False, longest=None, similarity=None):
    parts = folder.parent / f"{folder.name}-parts"
    shutil.rmtree(parts, ignore_errors=True)
    shutil.rmtree(folder, ignore_errors=True)
    encoder(parts, cased)
    transformer = Transformer(str(parts))
    if longest:
        transformer.max_seq_length = longest
    modules = [transformer, Pooling(16, pooling)]
    width = 16
    for size, activation, bias in dense:
        torch.manual_seed(size)
        modules.append(Dense(width, size, bias=bias, activation_function=activation))
        width = size
    if normalize:
        modules.append(Normalize())
    model = SentenceTransformer(modules=modules, prompts=prompts, similarity_fn_name=similarity, device="cpu")
    model.save(str(folder), create_model_card=False)
    shutil.rmtree(parts)


def rewrite(folder, file, change):
    path = folder / file
    value = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps(change(value), indent=2) + "\n")


def as_version_2(folder):
    """The layout of sentence-transformers 2 to 5, which the library still reads: other type names and fields."""

    def modules(list_):
        return [{**m, "type": f"sentence_transformers.models.{m['type'].rsplit('.', 1)[1]}"} for m in list_]

    def pooling(config):
        modes = {"cls": "cls_token", "mean": "mean_tokens", "max": "max_tokens"}
        return {
            "word_embedding_dimension": 16,
            **{f"pooling_mode_{long}": config["pooling_mode"] == short for short, long in modes.items()},
            "pooling_mode_mean_sqrt_len_tokens": False,
        }

    rewrite(folder, "modules.json", modules)
    rewrite(folder, "1_Pooling/config.json", pooling)
    rewrite(folder, "config_sentence_transformers.json", lambda _: {"__version__": {"sentence_transformers": "2.0.0"}})


def as_version_0(folder):
    """The oldest layout: the encoder in 0_Transformer, its weights under `bert.` in pytorch_model.bin, with a vocab.txt."""
    as_version_2(folder)
    inner = folder / "0_Transformer"
    inner.mkdir()
    for name in ("config.json", "tokenizer_config.json", "tokenizer.json", "sentence_bert_config.json", "model.safetensors"):
        if (folder / name).exists():
            (folder / name).rename(inner / name)
    longest = json.loads((inner / "sentence_bert_config.json").read_text()).get("max_seq_length")
    longest = longest or json.loads((inner / "tokenizer_config.json").read_text())["model_max_length"]
    (inner / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": min(longest, 40), "do_lower_case": False}))
    torch.save({f"bert.{k}": v for k, v in load_file(inner / "model.safetensors").items()}, inner / "pytorch_model.bin")
    (inner / "model.safetensors").unlink()
    vocab = json.loads((inner / "tokenizer.json").read_text())["model"]["vocab"]
    (inner / "vocab.txt").write_text("".join(f"{piece}\n" for piece in sorted(vocab, key=vocab.get)))
    (inner / "tokenizer.json").unlink()
    (inner / "tokenizer_config.json").write_text(json.dumps({"do_lower_case": True, "model_max_length": 40}))
    rewrite(folder, "modules.json", lambda list_: [{**m, "path": m["path"] or "0_Transformer"} for m in list_])
    for path in folder.glob("*_Dense"):
        torch.save(load_file(path / "model.safetensors"), path / "pytorch_model.bin")
        (path / "model.safetensors").unlink()


def vectors(folder, texts):
    """Word pieces and vectors of texts, each embedded alone as a query or a document."""
    model = SentenceTransformer(str(folder), device="cpu")
    result = []
    for text in texts:
        kind, value = next(iter(text.items()))
        encode = model.encode_query if kind == "query" else model.encode_document
        normalize = model.similarity_fn_name == "cosine"  # what its similarity does with vectors of any length
        vector = encode([value], normalize_embeddings=normalize)[0]
        ids = model.tokenizer(value, add_special_tokens=False)["input_ids"]
        result.append({**text, "ids": ids, "vector": [float(x) for x in vector]})
    return result


def make(root):
    tanh, identity = torch.nn.Tanh(), torch.nn.Identity()
    prompts = {"query": "query: ", "document": "passage: "}
    build(root / "mean-normalize", "mean", normalize=True, longest=24)
    build(root / "cls-dense-prompts", "cls", [(20, tanh, True), (12, identity, False)], True, prompts, similarity="cosine")
    build(root / "mean-dot-cased", "mean", cased=True, similarity="dot")
    build(root / "version-2", "cls", normalize=True)
    as_version_2(root / "version-2")
    build(root / "version-0", "mean", [(10, tanh, True)])
    as_version_0(root / "version-0")
    for folder in sorted(root.iterdir()):
        if not folder.is_dir():
            continue
        for name in ("README.md", "special_tokens_map.json", ".gitattributes"):
            (folder / name).unlink(missing_ok=True)
        (folder / "expected.json").write_text(json.dumps(vectors(folder, TEXTS)) + "\n")


def check(root):
    """Whether each folder gives the vectors in its expected.json, to 1e-5."""
    for path in sorted(root.rglob("expected.json")):
        expected = json.loads(path.read_text())
        model = SentenceTransformer(str(path.parent), device="cpu")
        worst = 0
        for text in expected:
            encode = model.encode_query if "query" in text else model.encode_document
            value = text.get("query") or text["document"]
            vector = encode([tuple(value) if isinstance(value, list) else value])[0]
            worst = max(worst, max(abs(float(a) - b) for a, b in zip(vector, text["vector"], strict=True)))
        print(f"{path.parent.name:24} {len(expected)} texts, largest difference {worst:.1e}")
        if not worst < 1e-5:
            sys.exit(f"{path.parent}: the vectors differ")


if __name__ == "__main__":
    if sys.argv[1] == "make":
        make(pathlib.Path(sys.argv[2]))
    elif sys.argv[1] == "check":
        check(pathlib.Path(sys.argv[2]))
    else:
        texts = [json.loads(line) for line in open(sys.argv[3])]
        pathlib.Path(sys.argv[4]).write_text(json.dumps(vectors(pathlib.Path(sys.argv[2]), texts)))
