"""Makes test/fixtures/protocols/mlqa.jsonl: predictions scored by MLQA's own script.

    git clone https://github.com/facebookresearch/MLQA && git -C MLQA checkout 5ef5c73
    python3 scripts/protocols/mlqa.py MLQA

The language is zh for cases in Chinese and en for the others. Cases are hand-made ones and random strings of Chinese
characters (only those that the script itself separates), Latin letters, digits, spaces and punctuation of both.
"""

import json
import pathlib
import random
import sys

sys.path.insert(0, sys.argv[1])
import mlqa_evaluation_v1 as mlqa  # noqa: E402

HAND = [
    ("海港大桥", ["海港大桥"]),
    ("海港 大桥", ["海港大桥"]),
    ("《海港大桥》", ["海港大桥"]),
    ("海港的大桥", ["海港大桥"]),
    ("大桥", ["海港大桥", "长桥"]),
    ("1903年", ["1903年", "一九零三年"]),
    ("1903", ["1903年"]),
    ("1903年5月", ["1903 年 5 月"]),
    ("北京（Beijing）", ["北京Beijing"]),
    ("Beijing 北京", ["北京"]),
    ("ＡＢＣ银行", ["abc银行"]),
    ("桥桥", ["桥"]),
    ("。", ["，"]),
    ("", ["桥"]),
    ("the Harbour Bridge", ["harbour bridge"]),
    ("The “Harbour” Bridge", ["Harbour Bridge"]),
    ("bridge of a harbour", ["harbour bridge"]),
    ("the", ["a"]),
    ("Łódź–Warsaw", ["lodz warsaw", "ŁódźWarsaw"]),
]


def main():
    pick = random.Random(7)
    cases = [(prediction, answers, None) for prediction, answers in HAND]
    chinese = "海港大桥年月市" + "ab1 2" + "，。、《》（）-. "
    latin = ["a", "the", "An", "bridge", "Harbour", " ", " ", "-", "”", "1932", "é", "."]
    for alphabet, count in ((list(chinese), 150), (latin, 50)):
        for _ in range(count):
            text = lambda: "".join(pick.choice(alphabet) for _ in range(pick.randint(1, 7)))
            prediction = text()
            answers = [text(), prediction[1:] or "年", text()]
            cases.append((prediction, answers, "zh" if alphabet is not latin else "en"))
    out = pathlib.Path(__file__).resolve().parents[2] / "test/fixtures/protocols/mlqa.jsonl"
    with out.open("w", encoding="utf-8") as lines:
        for prediction, answers, lang in cases:
            texts = [prediction, *answers]
            if lang is None:
                lang = "zh" if any("\u4e00" <= c <= "\u9fa5" for text in texts for c in text) else "en"
            # The language of a text is seen from its characters by realm: an article beside none would differ.
            if lang == "zh" and any(mlqa.normalize_answer(t, "en") != mlqa.normalize_answer(t, "zh") for t in texts if not any("\u4e00" <= c <= "\u9fa5" for c in t)):
                continue
            scores = [
                float(mlqa.metric_max_over_ground_truths(score, prediction, answers, lang))
                for score in (mlqa.exact_match_score, mlqa.f1_score)
            ]
            case = {"prediction": prediction, "answers": answers, "lang": lang, "exactMatch": scores[0], "f1": scores[1]}
            lines.write(json.dumps(case, ensure_ascii=False) + "\n")


main()
