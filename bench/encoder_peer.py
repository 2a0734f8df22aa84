"""Trains a sentence encoder as users of sentence-transformers do, for `npm run bench:encoder`.

    python bench/encoder_peer.py FOLDER WORK (--seconds N | --questions Q) --batch B --rate R
    python bench/encoder_peer.py FOLDER WORK --untrained


WORK holds blocks.jsonl ({"text"}), pairs.jsonl ({"question", "text"}) and questions.jsonl ({"question"}).
MultipleNegativesRankingLoss with a linear schedule for about N seconds, or on Q questions; then all blocks are embedded, and the line numbers of
the 100 best of each question are written to WORK/found.json. The last line is JSON: seconds and questions a second.
With --untrained, for `npm run bench:published`, the vectors are written to WORK/documents.f32 and WORK/queries.f32, row by row.
"""

import argparse
import json
import pathlib
import time

import torch
from datasets import Dataset
from sentence_transformers import SentenceTransformer, SentenceTransformerTrainer, SentenceTransformerTrainingArguments
from sentence_transformers.losses import MultipleNegativesRankingLoss
from sentence_transformers.training_args import BatchSamplers
from transformers import TrainerCallback

# Steps timed to choose how many fit into the time, after a first one, in which memory is taken.
TIMED = 4
BEST = 100


class Ends(TrainerCallback):
    """When each step ended."""

    def __init__(self):
        self.times = []

    def on_step_end(self, *_, **__):
        self.times.append(time.monotonic())


def lines(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def trainer(model, pairs, options, steps, work):
    arguments = SentenceTransformerTrainingArguments(
        output_dir=str(work / "peer"),
        max_steps=steps,
        per_device_train_batch_size=options.batch,
        learning_rate=options.rate,
        warmup_steps=0.1,  # a share of all steps
        batch_sampler=BatchSamplers.NO_DUPLICATES,
        save_strategy="no",
        report_to="none",
        logging_strategy="no",
        use_cpu=True,
        seed=1,
    )
    data = Dataset.from_dict(
        {"anchor": [p["question"] for p in pairs], "positive": [p["text"] for p in pairs]}
    )
    return SentenceTransformerTrainer(
        model=model, args=arguments, train_dataset=data, loss=MultipleNegativesRankingLoss(model)
    )


def embedded(model, work):
    """The vectors of all blocks and of all questions."""
    blocks = [b["text"] for b in lines(work / "blocks.jsonl")]
    questions = [q["question"] for q in lines(work / "questions.jsonl")]
    with torch.inference_mode():
        return (
            model.encode_document(blocks, batch_size=16, convert_to_tensor=True),
            model.encode_query(questions, batch_size=64, convert_to_tensor=True),
        )


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("folder")
    parser.add_argument("work", type=pathlib.Path)
    length = parser.add_mutually_exclusive_group(required=True)
    length.add_argument("--seconds", type=float)
    length.add_argument("--questions", type=int)
    length.add_argument("--untrained", action="store_true")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rate", type=float, default=2e-5)
    options = parser.parse_args()
    work = options.work
    model = SentenceTransformer(options.folder, device="cpu")
    if options.untrained:
        for name, vectors in zip(("documents", "queries"), embedded(model, work)):
            vectors.numpy().tofile(work / f"{name}.f32")
        return
    pairs = lines(work / "pairs.jsonl")

    if options.questions is not None:
        steps = round(options.questions / options.batch)
    else:
        ends = Ends()
        trial = trainer(SentenceTransformer(options.folder, device="cpu"), pairs, options, 1 + TIMED, work)
        trial.add_callback(ends)
        trial.train()
        each = (ends.times[-1] - ends.times[0]) / TIMED
        steps = max(1, round(options.seconds / each))
    start = time.monotonic()
    trainer(model, pairs, options, steps, work).train()
    trained = time.monotonic() - start

    documents, queries = embedded(model, work)
    found = torch.topk(queries @ documents.T, min(BEST, len(documents)))
    (work / "found.json").write_text(json.dumps(found.indices.tolist()))
    print(json.dumps({"steps": steps, "seconds": trained, "questionsPerSecond": steps * options.batch / trained}))


main()
