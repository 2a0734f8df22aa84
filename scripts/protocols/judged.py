"""Makes test/fixtures/judged/runs.json.gz: 20 runs with ties, and what trec_eval and pytrec_eval say of them.

    git clone https://github.com/usnistgov/trec_eval && git -C trec_eval checkout v9.0.8 && make -C trec_eval
    pip install --target py pytrec_eval-terrier==0.5.11 ir_measures==0.4.3
    PYTHONPATH=py python3 scripts/protocols/judged.py trec_eval/trec_eval

Runs have many equal scores, scores that are equal in 32 bits alone, ids whose order by bytes is none by number, by letter
case or by UTF-16 units, ranks and lines in any order, unjudged documents, queries without judgements and judged queries
that the run lacks. Judgements have grades from -1 to 3, and one query has no relevant document.

Of each run: `lines`, the file; `printed`, the output of `trec_eval -q -c`; `values`, pytrec_eval's value of each measure
and query in all digits; `means`, those of ir_measures, which counts a judged query that a run lacks as 0, as `-c` does.
"""

import gzip
import json
import pathlib
import random
import subprocess
import sys
import tempfile

import ir_measures
import pytrec_eval

OUT = pathlib.Path(__file__).resolve().parents[2] / "test" / "fixtures" / "judged" / "runs.json.gz"
CUTOFFS = "1,5,10,20,100"
MEASURES = ["map", "recip_rank", "Rprec", *(f"{name}.{CUTOFFS}" for name in ("P", "recall", "ndcg_cut"))]
IR_MEASURES = ["AP", "RR", "Rprec", "P@5", "P@20", "R@10", "R@100", "nDCG@1", "nDCG@10", "nDCG@20"]

rng = random.Random(1)
POOL = [f"d{n}" for n in range(1, 31)] + [f"D{n}" for n in range(1, 6)] + ["ä1", "é", "z", "～", "😀", "😀2", "文", "a_b", "a-b"]
QUERIES = [f"q{n}" for n in range(1, 11)]


def judgements():
    qrels = {}
    for query in QUERIES:
        judged = rng.sample(POOL, rng.randint(3, 25))
        qrels[query] = {doc: rng.choice([-1, 0, 0, 1, 1, 2, 3]) for doc in judged}
        qrels[query][judged[0]] = 1
    qrels["q4"] = {doc: min(grade, 0) for doc, grade in qrels["q4"].items()}
    return qrels


SCORES = [
    lambda: str(rng.randint(0, 3)),
    lambda: "1.5",
    lambda: f"{rng.uniform(-2, 2):.1f}",
    lambda: f"{1 + rng.randint(0, 5) * 1e-9:.10f}",  # equal in 32 bits
    lambda: f"{rng.randint(1, 9)}e-{rng.randint(1, 3)}",
]


def run(number):
    score = SCORES[number % len(SCORES)]
    lines = []
    for query in [*QUERIES, "unjudged"]:
        if rng.random() < 0.1:
            continue
        for rank, doc in enumerate(rng.sample(POOL, rng.randint(1, len(POOL)))):
            lines.append(f"{query}{rng.choice([' ', chr(9)])}Q0 {doc} {rank} {score()} r{number}")
    if number % 3 == 0:
        rng.shuffle(lines)
    return lines


def main():
    trec_eval = sys.argv[1]
    folder = pathlib.Path(tempfile.mkdtemp())
    qrels = judgements()
    qrels_lines = [f"{query} 0 {doc} {grade}" for query, judged in qrels.items() for doc, grade in judged.items()]
    (folder / "qrels").write_text("\n".join(qrels_lines) + "\n")
    evaluator = pytrec_eval.RelevanceEvaluator(qrels, set(MEASURES))
    runs = []
    for number in range(20):
        lines = run(number)
        (folder / "run").write_text("\n".join(lines) + "\n")
        options = [option for measure in MEASURES for option in ("-m", measure)]
        command = [trec_eval, "-q", "-c", *options, str(folder / "qrels"), str(folder / "run")]
        printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        read = {}
        for line in lines:
            query, _, doc, _, score, _ = line.split()
            read.setdefault(query, {})[doc] = float(score)
        means = ir_measures.calc_aggregate(
            [ir_measures.parse_measure(name) for name in IR_MEASURES],
            ir_measures.read_trec_qrels(str(folder / "qrels")),
            ir_measures.read_trec_run(str(folder / "run")),
        )
        runs.append(
            {
                "lines": lines,
                "printed": [line.split() for line in printed.splitlines()],
                "values": evaluator.evaluate(read),
                "means": {str(name): value for name, value in means.items()},
            }
        )
    OUT.parent.mkdir(exist_ok=True)
    text = json.dumps({"qrels": qrels_lines, "runs": runs}, ensure_ascii=False)
    OUT.write_bytes(gzip.compress(text.encode(), 9, mtime=0))
    print(OUT, OUT.stat().st_size, "bytes")


main()
