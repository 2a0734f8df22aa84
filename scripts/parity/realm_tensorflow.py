"""Writes what scripts/parity/realm.py made, and scripts/parity/realm.ts exported to DIR/ours, as checkpoints under the
names of Google's releases (transformers, realm/modeling_realm.py, load_tf_weights_in_realm):

    pip install tensorflow-cpu==2.18.1
    python scripts/parity/realm_tensorflow.py DIR

A pretrained module of the embedder, a pretrained BERT, and a checkpoint tuned on questions with an optimizer's variables.
"""

import json
import pathlib
import re
import sys

import numpy as np
import tensorflow as tf


def read_safetensors(path):
    data = path.read_bytes()
    end = 8 + int.from_bytes(data[:8], "little")
    for name, entry in json.loads(data[8:end]).items():
        if name != "__metadata__":
            a, b = entry["data_offsets"]
            yield name, np.frombuffer(data[end + a : end + b], np.float32).reshape(entry["shape"])


def variable(name, value):
    """One of Hugging Face's tensors as TensorFlow names and lays it out."""
    norm = "norm" in name.lower()
    path = re.sub(r"layer\.(\d+)", r"layer_\1", name).replace(".", "/")
    path = path.replace("_embeddings/weight", "_embeddings").replace("predictions/bias", "predictions/output_bias")
    if norm:
        path = re.sub("weight$", "gamma", re.sub("bias$", "beta", path))
    elif path.endswith("/weight"):
        path, value = path[: -len("weight")] + "kernel", value.T
    return path, value


def write(path, variables):
    path.parent.mkdir(parents=True, exist_ok=True)
    names = sorted(variables)
    tensors = [tf.constant(variables[n]) for n in names]
    tf.raw_ops.SaveV2(prefix=str(path), tensor_names=names, shape_and_slices=[""] * len(names), tensors=tensors)


def renamed(folder, modules):
    found = {}
    for name, value in read_safetensors(folder / "model.safetensors"):
        path, value = variable(name, value)
        module = next((m for m in modules if path.startswith(m)), None)
        if module is not None and "decoder" not in path:
            found[modules[module] + path[len(module) :]] = value
    return found


def main(out):
    ours = out / "ours"
    m = "module/"
    embedder = {"realm/": f"{m * 3}bert/", "cls/predictions/": f"{m * 3}cls/predictions/", "cls/": m * 2}
    write(out / "tensorflow-embedder/variables/variables", renamed(ours / "embedder", embedder))
    write(out / "tensorflow-encoder/bert_model.ckpt", renamed(ours / "encoder", {"realm/": "bert/", "cls/": "cls/"}))
    tuned = {
        "embedder/realm/": f"{m * 4}bert/",
        "embedder/cls/predictions/": f"{m * 4}cls/predictions/",
        "embedder/cls/": m * 3,
        "reader/realm/": "reader/module/bert/",
        "reader/cls/": "reader/module/cls/",
        "reader/qa_outputs/dense_intermediate/": "reader/dense/",
        "reader/qa_outputs/dense_output/": "reader/dense_1/",
        "reader/qa_outputs/layer_normalization/": "reader/layer_normalization/",
    }
    variables = renamed(ours / "openqa", tuned)
    for name in list(variables)[:3]:
        variables |= {f"{name}/adam_m": variables[name] * 0, f"{name}/adam_v": variables[name] * 0}
    write(out / "tensorflow-openqa/model.ckpt-300000", variables | {"global_step": np.int64(300000)})


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))
