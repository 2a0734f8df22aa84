"""The same four steps in plain PyTorch, for `npm run bench`: a line of JSON in is a request, a line out its answer.

Encoders are BERT (post-LN, GELU, learned positions), attention is scaled_dot_product_attention, the optimizer AdamW.
Two layouts: padded to the longest sequence of the batch, as is usual; packed, without padding except in attention.
"""

import json
import math
import sys
import time

import torch
import torch.nn.functional as F
from torch import nn


def layout(batch, packed):
    """Index tensors of one batch of sequences: S rows, or B*T rows with padding."""
    lengths = [len(s) for s in batch["ids"]]
    B, T = len(lengths), max(lengths)
    ids, segments, positions, cells = [], [], [], []
    bias = torch.zeros(B, 1, 1, T)
    starts = []
    for b, (row, first) in enumerate(zip(batch["ids"], batch["firstSegment"])):
        pad = 0 if packed else T - len(row)
        starts.append(len(ids))
        ids += row + [0] * pad
        segments += [0] * first + [1] * (len(row) - first) + [0] * pad
        positions += list(range(len(row) + pad))
        cells += [b * T + t for t in range(len(row) + pad)]
        bias[b, :, :, len(row):] = -10000.0
    tensor = torch.tensor
    return dict(ids=tensor(ids), segments=tensor(segments), positions=tensor(positions), cells=tensor(cells),
                starts=tensor(starts), bias=bias, B=B, T=T, packed=packed)


class Layer(nn.Module):
    def __init__(self, H, N):
        super().__init__()
        self.N = N
        self.qkv = nn.Linear(H, 3 * H)
        self.out = nn.Linear(H, H)
        self.norm = nn.LayerNorm(H, eps=1e-12)
        self.inner = nn.Linear(H, 4 * H)
        self.outer = nn.Linear(4 * H, H)
        self.norm2 = nn.LayerNorm(H, eps=1e-12)

    def forward(self, x, at):
        B, T, H = at["B"], at["T"], x.shape[-1]
        qkv = self.qkv(x)
        if at["packed"]:
            qkv = qkv.new_zeros(B * T, 3 * H).index_copy(0, at["cells"], qkv)
        q, k, v = qkv.view(B, T, 3, self.N, H // self.N).permute(2, 0, 3, 1, 4)
        context = F.scaled_dot_product_attention(q, k, v, attn_mask=at["bias"])
        context = context.transpose(1, 2).reshape(B * T, H)
        if at["packed"]:
            context = context.index_select(0, at["cells"])
        y = self.norm(x + self.out(context))
        return self.norm2(y + self.outer(F.gelu(self.inner(y), approximate="tanh")))


class Bert(nn.Module):
    def __init__(self, size):
        super().__init__()
        H = size["hidden"]
        self.word = nn.Embedding(size["vocabulary"], H)
        self.position = nn.Embedding(size["positions"], H)
        self.segment = nn.Embedding(2, H)
        self.norm = nn.LayerNorm(H, eps=1e-12)
        self.layers = nn.ModuleList(Layer(H, size["heads"]) for _ in range(size["layers"]))
        for p in self.parameters():
            if p.dim() > 1:
                nn.init.normal_(p, std=0.02)

    def forward(self, at):
        x = self.norm(self.word(at["ids"]) + self.position(at["positions"]) + self.segment(at["segments"]))
        for layer in self.layers:
            x = layer(x, at)
        return x


class Embedder(nn.Module):
    def __init__(self, size):
        super().__init__()
        H, P = size["hidden"], size["projection"]
        self.bert = Bert(size)
        self.pooler = nn.Linear(H, H)
        self.projection = nn.Linear(H, P)
        self.norm = nn.LayerNorm(P, eps=1e-3)

    def forward(self, at):
        first = self.bert(at).index_select(0, at["starts"])
        return self.norm(self.projection(torch.tanh(self.pooler(first))))


class Reader(nn.Module):
    def __init__(self, size):
        super().__init__()
        H, S = size["hidden"], size["spanHidden"]
        self.bert = Bert(size)
        self.transform = nn.Linear(H, H)
        self.norm = nn.LayerNorm(H, eps=1e-12)
        self.bias = nn.Parameter(torch.zeros(size["vocabulary"]))
        self.ends = nn.Linear(H, 2 * S)
        self.spanNorm = nn.LayerNorm(S, eps=1e-3)
        self.score = nn.Linear(S, 1)
        self.width = size["maxSpanWidth"]

    def masks(self, at, rows):
        h = self.bert(at).index_select(0, rows)
        h = self.norm(F.gelu(self.transform(h), approximate="tanh"))
        return h @ self.bert.word.weight.T + self.bias

    def spans(self, at, inside):
        B, T, W = at["B"], at["T"], self.width
        ends = self.ends(self.bert(at))
        if at["packed"]:
            ends = ends.new_zeros(B * T, ends.shape[1]).index_copy(0, at["cells"], ends)
        start, end = ends.view(B, T, -1).chunk(2, dim=-1)
        end = F.pad(end, (0, 0, 0, W - 1))
        h = torch.stack([F.relu(start + end[:, w:w + T]) for w in range(W)], 1)
        return self.score(self.spanNorm(h)).squeeze(-1) + (inside - 1) * 1e9


class Steps:
    """The model of one size, its optimizer, and a function for each kind of work."""

    def __init__(self, size, batches, packed):
        torch.manual_seed(1)
        self.embedder, self.reader = Embedder(size), Reader(size)
        parameters = [*self.embedder.parameters(), *self.reader.parameters()]
        self.optimizer = torch.optim.AdamW(parameters, lr=1e-4, weight_decay=0.01, fused=True)
        self.parameters, self.temperature = parameters, math.sqrt(size["projection"])
        lay = lambda batch: layout(batch, packed)
        self.at = {
            "embed": lay(batches["embed"]),
            "ict": (lay(batches["ict"]["queries"]), lay(batches["ict"]["blocks"])),
        }
        p = batches["pretrain"]
        K, M = len(p["candidates"][0]), len(p["positions"][0])
        joint = lay(p["joint"])
        at = joint["starts"][:, None] + torch.tensor([row for row in p["positions"] for _ in range(K)])
        targets = torch.tensor([row for row in p["targets"] for _ in range(K)])
        self.at["pretrain"] = (lay(p["queries"]), lay(p["documents"]), torch.tensor(p["candidates"]), joint, at, targets, K, M)
        q = batches["qa"]
        joint = lay(q["joint"])
        B, R, T, W = len(q["queries"]["ids"]), size["blocksRead"], joint["T"], size["maxSpanWidth"]
        inside = torch.zeros(B * R, W, T)
        for row, (ids, first) in enumerate(zip(q["joint"]["ids"], q["joint"]["firstSegment"])):
            for w in range(W):
                inside[row, w, first:len(ids) - 1 - w] = 1
        right = torch.zeros(B, R, W, T)
        for b, (start, width) in enumerate(q["spans"]):
            right[b, 0, width - 1, start] = 1
        vectors = torch.randn(B, size["retrieved"], size["projection"])
        positives = torch.zeros(B, size["retrieved"])
        positives[:, 0] = 1
        self.at["qa"] = (lay(q["queries"]), joint, inside, right.view(B, -1), vectors, positives, B, R)

    def embed(self):
        with torch.inference_mode():
            return self.embedder(self.at["embed"]).sum().item()

    def ict(self):
        queries, blocks = self.at["ict"]
        scores = self.embedder(queries) @ self.embedder(blocks).T / self.temperature
        return self.step(F.cross_entropy(scores, torch.arange(len(scores))))

    def pretrain(self):
        queries, documents, candidates, joint, at, targets, K, M = self.at["pretrain"]
        B = len(candidates)
        z = self.embedder(documents)[candidates]
        prior = torch.log_softmax((z @ self.embedder(queries)[:, :, None]).squeeze(-1) / self.temperature, 1)
        logits = self.reader.masks(joint, at.flatten())
        tokens = -F.cross_entropy(logits, targets.flatten(), reduction="none").view(B, K, M)
        return self.step(-torch.logsumexp(prior + tokens.sum(2), 1).sum() / (B * M))

    def qa(self):
        queries, joint, inside, right, vectors, positives, B, R = self.at["qa"]
        scores = (vectors @ self.embedder(queries)[:, :, None]).squeeze(-1) / self.temperature
        log_loss = lambda s, r: torch.logsumexp(s, 1) - torch.logsumexp(s + (r - 1) * 1e9, 1)
        spans = self.reader.spans(joint, inside).view(B, R, -1) + scores[:, :R, None]
        return self.step((log_loss(scores, positives) + log_loss(spans.view(B, -1), right)).mean())

    def step(self, loss):
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_([p for p in self.parameters if p.grad is not None], 1.0)
        self.optimizer.step()
        return loss.item()


def status(what):
    """A value in bytes from the kernel's status file of this process."""
    with open("/proc/self/status") as lines:
        return next(1024 * int(line.split()[1]) for line in lines if line.startswith(what))


def peak():
    """GFLOPS of a square matrix product, the best of several runs."""
    a = torch.randn(2048, 2048)
    times = []
    for _ in range(6):
        start_time = time.perf_counter()
        a @ a
        times.append(time.perf_counter() - start_time)
    return 2 * 2048**3 / min(times) / 1e9


def main():
    steps = {}
    for line in sys.stdin:
        request = json.loads(line)
        if "threads" in request:
            torch.set_num_threads(request["threads"])
            answer = {"version": torch.__version__, "peak": peak()}
        elif "memory" in request:
            before = status("VmRSS")
            one = Steps(request["size"], request["batches"], request["packed"])
            with open("/proc/self/clear_refs", "w") as reset:
                reset.write("5")
            for _ in range(3):
                getattr(one, request["memory"])()
            answer = {"bytes": status("VmHWM") - before}
        elif "batches" in request:
            steps = {packed: Steps(request["size"], request["batches"], packed) for packed in (False, True)}
            answer = {}
        else:
            start_time = time.perf_counter()
            loss = getattr(steps[request["packed"]], request["step"])()
            answer = {"seconds": time.perf_counter() - start_time, "loss": loss}
        print(json.dumps(answer), flush=True)


main()
