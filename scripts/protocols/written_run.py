"""Makes test/fixtures/judged/written.json: what four tools say of a TREC run that realm wrote, with many equal scores.

    git clone https://github.com/usnistgov/trec_eval && cp -r trec_eval trec_eval10
    git -C trec_eval checkout v9.0.8 && make -C trec_eval
    git -C trec_eval10 checkout f425365 && make -C trec_eval10
    pip install --target py pytrec_eval-terrier==0.5.11 ir_measures==0.4.3 ranx==0.3.21
    REALM_UPDATE_WRITTEN=1 npm test -- test/eval/written-run.test.ts      # writes written.trec and written.qrels
    PYTHONPATH=py python3 scripts/protocols/written_run.py trec_eval/trec_eval trec_eval10/trec_eval

`figures` has the mean of each measure by each tool. `saved` has the run as ranx saves it again, as TREC and as JSON.
"""

import json
import pathlib
import subprocess
import sys
import tempfile

import ir_measures
import pytrec_eval
import ranx

FOLDER = pathlib.Path(__file__).resolve().parents[2] / "test" / "fixtures" / "judged"
RUN, QRELS = FOLDER / "written.trec", FOLDER / "written.qrels"
CUTOFFS = "1,5,10,20"
MEASURES = ["map", "recip_rank", "Rprec", *(f"{name}.{CUTOFFS}" for name in ("P", "recall", "ndcg_cut"))]
IR_MEASURES = ["AP", "RR", "Rprec", *(f"{name}@{k}" for name in ("P", "R", "nDCG") for k in (1, 5, 10, 20))]
RANX = ["map", "mrr", "r-precision", *(f"{name}@{k}" for name in ("precision", "recall", "ndcg") for k in (1, 5, 10, 20))]


def printed(trec_eval):
    options = [option for measure in MEASURES for option in ("-m", measure)]
    command = [trec_eval, *options, str(QRELS), str(RUN)]
    lines = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
    return {name: value for name, _, value in (line.split() for line in lines)}


def main():
    qrels, run = {}, {}
    for line in QRELS.read_text().splitlines():
        query, _, doc, grade = line.split()
        qrels.setdefault(query, {})[doc] = int(grade)
    for line in RUN.read_text().splitlines():
        query, _, doc, _, score, _ = line.split()
        run.setdefault(query, {})[doc] = float(score)
    values = pytrec_eval.RelevanceEvaluator(qrels, set(MEASURES)).evaluate(run)
    names = next(iter(values.values()))
    means = ir_measures.calc_aggregate(
        [ir_measures.parse_measure(name) for name in IR_MEASURES],
        ir_measures.read_trec_qrels(str(QRELS)),
        ir_measures.read_trec_run(str(RUN)),
    )
    by_ranx = ranx.Run.from_file(str(RUN), kind="trec")
    figures = ranx.evaluate(ranx.Qrels.from_file(str(QRELS), kind="trec"), by_ranx, RANX)
    saved = {}
    with tempfile.TemporaryDirectory() as folder:
        for kind in ("json", "trec"):
            path = pathlib.Path(folder) / f"run.{kind}"
            by_ranx.save(str(path), kind=kind)
            saved[kind] = path.read_text()
    result = {
        "figures": {
            "trec_eval 9.0.8": printed(sys.argv[1]),
            "trec_eval 10.0-rc3": printed(sys.argv[2]),
            "pytrec_eval": {name: sum(v[name] for v in values.values()) / len(values) for name in names},
            "ir_measures": {str(name): value for name, value in means.items()},
            "ranx": {name: float(value) for name, value in figures.items()},
        },
        "saved": saved,
    }
    (FOLDER / "written.json").write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n")


main()
