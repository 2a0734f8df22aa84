"""Makes test/fixtures/protocols/scores.jsonl.gz: predictions scored by the published scripts themselves.

    git clone https://github.com/google-research/language    && git -C language checkout 208f852
    git clone https://github.com/facebookresearch/DPR        && git -C DPR checkout a31212d
    git clone https://github.com/facebookresearch/DrQA       && git -C DrQA checkout 6d7c1b7
    git clone https://github.com/huggingface/evaluate        && git -C evaluate checkout b6e7c3b
    realm demo --run run1 && realm demo --seed 2 --run run2
    python3 -m venv venv && venv/bin/pip install regex==2026.5.9
    venv/bin/python scripts/protocols/score.py --repositories . --run run1 --run run2

Cases are the predictions of finished runs (each with the passage that contains it and the passage that the question was
made from), the hard cases of hard.jsonl, next to the result, and random strings of awkward characters. --cases FILE
scores other cases instead, in the format of hard.jsonl, --random N makes N random cases, and --out FILE names the result;
REALM_PROTOCOL_SCORES=FILE npx tsx --test test/eval/protocols.test.ts then compares with that file.

Only parts that do not affect the scores are replaced: TensorFlow, spaCy, PyTorch and SciPy are empty modules, and DrQA's
and DPR's packages are imported without their __init__. A script's rule is null if it has none. ORQA judges passages in C++
(language/orqa/ops/orqa_ops.cc: std::string::find), which is bytes.find here.
"""

import argparse
import contextlib
import gzip
import importlib.util
import io
import json
import pathlib
import platform
import random
import sys
import types
import unicodedata
from unittest import mock

import regex

FIXTURES = pathlib.Path(__file__).resolve().parents[2] / "test" / "fixtures" / "protocols"


def module_of(name, path):
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def package(name, folder=None, **members):
    module = types.ModuleType(name)
    module.__path__ = [str(folder)] if folder else []
    module.__dict__.update(members)
    sys.modules[name] = module
    parent, _, child = name.rpartition(".")
    if parent:
        setattr(sys.modules[parent], child, module)
    return module


class Scripts:
    def __init__(self, repositories):
        for name in ("tensorflow", "tensorflow.compat", "tensorflow.compat.v1", "spacy", "numpy", "scipy", "scipy.sparse"):
            package(name)
        package("sklearn")
        package("sklearn.utils", murmurhash3_32=None)

        self.orqa = module_of("orqa_eval", repositories / "language/language/orqa/utils/eval_utils.py")
        self.hf = module_of("hf_squad", repositories / "evaluate/metrics/squad/compute_score.py")

        dpr = repositories / "DPR/dpr"
        package("dpr", dpr)
        package("dpr.data", dpr / "data")
        package("dpr.utils", dpr / "utils")
        package("dpr.data.retriever_data", TableChunk=None)
        self.dpr = importlib.import_module("dpr.data.qa_validation")
        self.dpr_tokenizer = self.dpr.SimpleTokenizer()

        drqa = repositories / "DrQA/drqa"
        package("drqa", drqa)
        package("drqa.reader", drqa / "reader")
        package("drqa.reader.data", Dictionary=None)
        package("drqa.retriever", drqa / "retriever")
        package("drqa.tokenizers", drqa / "tokenizers")
        self.drqa = importlib.import_module("drqa.reader.utils")
        self.drqa_normalize = importlib.import_module("drqa.retriever.utils").normalize
        self.drqa_pipeline = module_of("drqa_pipeline", repositories / "DrQA/scripts/pipeline/eval.py")
        self.drqa_retriever = module_of("drqa_retriever", repositories / "DrQA/scripts/retriever/eval.py")
        # The default tokeniser of scripts/retriever/eval.py.
        self.drqa_retriever.PROCESS_TOK = importlib.import_module("drqa.tokenizers.regexp_tokenizer").RegexpTokenizer()

    def drqa_has_answer(self, answers, text, kind):
        self.drqa_retriever.PROCESS_DB = types.SimpleNamespace(get_doc_text=lambda _: text)
        return self.drqa_retriever.has_answer(answers, 0, kind)

    def drqa_run(self, case, is_regex):
        """The scores of scripts/pipeline/eval.py for one prediction."""
        files = {"d": json.dumps({"answer": case["answers"]}), "p": json.dumps([{"span": case["prediction"]}])}
        self.drqa_pipeline.args = types.SimpleNamespace(dataset="d")
        printed = io.StringIO()
        with mock.patch("builtins.open", lambda name: io.StringIO(files[name])), contextlib.redirect_stdout(printed):
            self.drqa_pipeline.evaluate("d", "p", is_regex)
        return json.loads(printed.getvalue().splitlines()[-1].replace("'", '"'))["exact_match"] == 100

    def hf_run(self, case):
        """compute_score, which the metric calls, for one prediction."""
        answers = [{"text": answer} for answer in case["answers"]]
        data = [{"paragraphs": [{"qas": [{"id": "q", "answers": answers}]}]}]
        return self.hf.compute_score(data, {"q": case["prediction"]})

    def score(self, case):
        prediction, answers, passages = case["prediction"], case["answers"], case["passages"]
        kind = case.get("answerKind", "string")
        is_regex = kind == "regex"
        best = self.hf.metric_max_over_ground_truths
        nfd = self.drqa_normalize
        hf = None if is_regex else self.hf_run(case)
        return {
            "orqa": {
                "correct": self.orqa.evaluate_predictions_impl({"q": answers}, {"q": prediction}, is_regex)["num_correct"] == 1,
                "f1": None,
                "has": None if is_regex else [any(p.encode().find(a.encode()) >= 0 for a in answers) for p in passages],
            },
            "dpr": {
                "correct": any(self.dpr.regex_match(nfd(prediction), nfd(a)) for a in answers)
                if is_regex
                else max(self.dpr.exact_match_score(prediction, a) for a in answers),
                "f1": None,
                "has": [self.dpr.has_answer(answers, p, self.dpr_tokenizer, kind) for p in passages],
            },
            "drqa": {
                "correct": self.drqa_run(case, is_regex),
                "f1": None if is_regex else best(self.drqa.f1_score, nfd(prediction), [nfd(a) for a in answers]),
                "has": [self.drqa_has_answer(answers, p, kind) for p in passages],
            },
            "hf": {
                "correct": None if is_regex else hf["exact_match"] == 100,
                "f1": None if is_regex else best(self.hf.f1_score, prediction, answers),
                "has": None,
            },
        }


def run_cases(run):
    def lines(name):
        return [json.loads(line) for line in (run / name).read_text().splitlines()]

    texts = {document["id"]: document["text"] for document in lines("data/documents.jsonl")}
    passages = {question["question"]: question["passage_id"] for question in lines("data/questions.test.jsonl")}
    for line in lines("predictions.jsonl"):
        documents = dict.fromkeys([line["document"], passages[line["question"]]])
        yield {
            "prediction": line["prediction"],
            "answers": line["answers"],
            "passages": [texts[document] for document in documents if document in texts],
        }


PIECES = (
    ["a", "an", "the", "The", "A", "I", "i", "x", "Y", "don't", "n't", "can", "cannot", "mr.", "St.", "U.S.", "e.g."]
    + ["1", "12", "1,000", "3.14", "²", "Ⅷ", "½", " ", " ", " ", " ", "\t", "\n", "\u00a0", "\u2028", "\x1f", "\ufeff", "\u200b"]
    + [c for c in "!\"#$%&'()*+,-./:;<=>?@[]^_`{|}~"]
    + ["''", "``", "--", "...", "…", "‘", "’", "“", "”", "«", "»", "–", "—", "‐", "€", "°", "\u0094", "\u0300", "\u0301", "\u0345"]
    + ["é", "e\u0301", "É", "ñ", "ß", "ẞ", "İ", "ı", "ſ", "K", "Å", "Σ", "ΟΔΟΣ", "ς", "σ", "ﬁ", "Ⓐ", "中", "国", "東京", "の", "한국", "й", "Ж", "ｱ", "ガ"]
    + ["😀", "👨‍👩‍👧", "𝔸", "ا", "َ", "ไทย", "हिन्दी", "\u202e", "\ue000"]
)


def random_cases(count):
    rng = random.Random(1)

    def text(most):
        return "".join(rng.choice(PIECES) for _ in range(rng.randint(0, most)))

    for _ in range(count):
        answer = text(4)
        prediction = rng.choice([answer.lower(), answer.upper(), f"the {answer}.", unicodedata.normalize("NFD", answer), text(4)])
        around = [answer, answer.upper(), f" {answer} ", unicodedata.normalize("NFC", answer)]
        yield {
            "prediction": prediction,
            "answers": [answer, text(3)][: rng.randint(1, 2)],
            "passages": [text(8) + rng.choice(around) + text(8), text(16)],
        }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repositories", type=pathlib.Path, required=True)
    parser.add_argument("--run", type=pathlib.Path, action="append", default=[])
    parser.add_argument("--cases", type=pathlib.Path, default=FIXTURES / "hard.jsonl")
    parser.add_argument("--random", type=int, default=400)
    parser.add_argument("--out", type=pathlib.Path, default=FIXTURES / "scores.jsonl.gz")
    options = parser.parse_args()

    scripts = Scripts(options.repositories)
    cases = [json.loads(line) for line in options.cases.read_text().splitlines()]
    cases += [case for run in options.run for case in run_cases(run)]
    cases += random_cases(options.random)
    header = {
        "madeBy": "scripts/protocols/score.py",
        "orqa": "google-research/language 208f852",
        "dpr": "facebookresearch/DPR a31212d",
        "drqa": "facebookresearch/DrQA 6d7c1b7",
        "hf": "huggingface/evaluate b6e7c3b",
        "python": platform.python_version(),
        "unicode": unicodedata.unidata_version,
        "regex": regex.__version__,
    }
    lines = [header] + [{**case, "scores": scripts.score(case)} for case in cases]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    options.out.write_bytes(gzip.compress(text.encode(), mtime=0))


if __name__ == "__main__":
    main()
