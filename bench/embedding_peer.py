"""Embeds texts with a sentence encoder in three ways, for `npm run bench -- --encoder FOLDER`: a line of JSON in is a
request, a line out its answer.

onnx-fp32 and onnx-int8 are ONNX Runtime on an export of the encoder, the mean of the tokens and length 1 computed here;
sentence-transformers is its `encode`. All start from texts, sort them by length and pad each batch to its longest.
"""

import contextlib
import json
import logging
import pathlib
import sys
import tempfile
import time
import warnings

import numpy
import onnxruntime
import torch
import transformers
from onnxruntime.quantization import QuantType, quantize_dynamic
from sentence_transformers import SentenceTransformer
from tokenizers import Tokenizer


class Tokens(torch.nn.Module):
    """The encoder's last layer. Attention is composed of single operations, which ONNX Runtime runs fastest."""

    def __init__(self, folder):
        super().__init__()
        self.bert = transformers.AutoModel.from_pretrained(folder, attn_implementation="eager")

    def forward(self, input_ids, attention_mask):
        return self.bert(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state


def export(folder, work):
    """The encoder as ONNX, and with the products' weights as int8, a scale a column; activations are quantised as they come."""
    whole, small = str(work / "fp32.onnx"), str(work / "int8.onnx")
    names = ["input_ids", "attention_mask"]
    ids = torch.ones(2, 16, dtype=torch.long)
    axes = {name: {0: "texts", 1: "tokens"} for name in (*names, "output")}
    torch.onnx.export(
        Tokens(folder).eval(), (ids, ids), whole, input_names=names, output_names=["output"], dynamic_axes=axes, dynamo=False
    )
    quantize_dynamic(whole, small, weight_type=QuantType.QInt8, per_channel=True, op_types_to_quantize=["MatMul"])
    return {"onnx-fp32": whole, "onnx-int8": small}


def embedder(path, tokenizer, threads):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])

    def embed(texts, batch):
        ids = [encoding.ids for encoding in tokenizer.encode_batch(texts)]
        order = sorted(range(len(ids)), key=lambda i: -len(ids[i]))
        vectors = [None] * len(ids)
        for at in range(0, len(order), batch):
            rows = order[at : at + batch]
            padded = numpy.zeros((len(rows), len(ids[rows[0]])), numpy.int64)
            present = numpy.zeros_like(padded)
            for row, i in enumerate(rows):
                padded[row, : len(ids[i])] = ids[i]
                present[row, : len(ids[i])] = 1
            (x,) = session.run(None, {"input_ids": padded, "attention_mask": present})
            means = numpy.einsum("bth,bt->bh", x, present.astype(numpy.float32)) / present.sum(1)[:, None]
            for i, mean in zip(rows, means):
                vectors[i] = mean / numpy.linalg.norm(mean)
        return numpy.stack(vectors)

    return embed


def peers(folder, work, threads, longest):
    """A function (texts, batch) → vectors of each peer."""
    tokenizer = Tokenizer.from_file(str(pathlib.Path(folder) / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(longest)
    made = {name: embedder(path, tokenizer, threads) for name, path in export(folder, work).items()}
    model = SentenceTransformer(folder, device="cpu")
    model.max_seq_length = longest
    made["sentence-transformers"] = lambda texts, batch: model.encode(texts, batch_size=batch)
    return made


def main():
    # Of the exporter and of the quantisation, which are noisy when all is well.
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    transformers.utils.logging.disable_progress_bar()
    embed, texts, vectors = {}, [], {}
    with tempfile.TemporaryDirectory() as work:
        for line in sys.stdin:
            request = json.loads(line)
            if "folder" in request:
                torch.set_num_threads(request["threads"])
                texts = request["texts"]
                with contextlib.redirect_stdout(sys.stderr):  # the exporter prints
                    embed = peers(request["folder"], pathlib.Path(work), request["threads"], request["longest"])
                answer = {"onnx": onnxruntime.__version__, "torch": torch.__version__}
            elif "vectors" in request:
                answer = {"vectors": vectors[request["vectors"]].tolist()}
            else:
                name = request["peer"]
                start_time = time.perf_counter()
                vectors[name] = embed[name](texts[:: request["every"]], request["batch"])
                answer = {"seconds": time.perf_counter() - start_time}
            print(json.dumps(answer), flush=True)


main()
