// npm run bench: one training or embedding step of each kind, ours and plain PyTorch's in turns on the same batches.
// Ratios are ours / PyTorch's time, minimum, median and maximum over the rounds; below 1 ours is faster.
import { type ChildProcess, spawn } from 'node:child_process';
import { availableParallelism } from 'node:os';
import { createInterface } from 'node:readline';
import { parseArgs } from 'node:util';
import * as tf from '@tensorflow/tfjs';
import { loadConfig } from '../src/config.ts';
import { startEngine } from '../src/engine.ts';
import { type EncoderInput, encoderInput, readout } from '../src/model/bert.ts';
import { embedSequences, type Sequences } from '../src/model/embedder.ts';
import type { Feed } from '../src/model/feed.ts';
import { describeModel, disposeModel, initialise, type Model, modelShapes } from '../src/model/model.ts';
import { blockPlaces } from '../src/model/reader.ts';
import { retrieverInput } from '../src/model/retriever.ts';
import { say } from '../src/progress.ts';
import { random } from '../src/random.ts';
import { batchGradients } from '../src/train/ict.ts';
import { createOptimizer } from '../src/train/optimizer.ts';
import { realmGradients } from '../src/train/pretrain.ts';
import { type QaFeed, qaGradients, qaShapes } from '../src/train/qa.ts';
import { type Batches, makeBatches, READ, RETRIEVED, SIZES, type Size, VOCABULARY } from './batches.ts';

const { values: options } = parseArgs({
  options: {
    sizes: { type: 'string', default: SIZES.map((s) => s.name).join() },
    rounds: { type: 'string', default: '7' },
    engine: { type: 'string', default: 'auto' },
    threads: { type: 'string', default: String(availableParallelism()) },
    /** A python that has torch. */
    python: { type: 'string', default: process.env.PYTHON ?? 'python3' },
    json: { type: 'boolean', default: false },
  },
});
const ROUNDS = Number(options.rounds);
const THREADS = Number(options.threads);
const STEPS = ['embed', 'ict', 'pretrain', 'qa'] as const;
type Step = (typeof STEPS)[number];

interface Row {
  size: string;
  step: Step;
  tokens: number;
  seconds: number;
  /** Ratios to PyTorch, sorted. */
  padded: number[];
  packed: number[];
}

const engine = await startEngine(options.engine as 'auto', { threads: THREADS });
const peer = await startPeer();
say(
  `ours: ${engine.description}; peer: ${peer ? `PyTorch ${peer.version}` : 'none'}; ${THREADS} threads; ${ROUNDS} rounds`,
);
if (!peer) say('no python with torch: only our own times (give one with --python PATH)');
const peak = measurePeak();
say(`largest speed of a product of matrices: ${peak.toFixed(0)} GFLOPS`);
const rows: Row[] = [];
for (const size of SIZES.filter(({ name }) => options.sizes.split(',').includes(name)))
  rows.push(...(await benchSize(size)));
peer?.end();
if (options.json)
  console.log(
    JSON.stringify({ engine: engine.description, peer: peer?.version, threads: THREADS, peak, rows }),
  );

async function benchSize(size: Size): Promise<Row[]> {
  const batches = makeBatches(size, 1);
  const { layers, hidden, heads } = size;
  const sizes = { layers, hidden, heads, intermediate: 4 * hidden };
  const sets = Object.entries(sizes).map(([key, value]) => `model.${key}=${value}`);
  const config = loadConfig('configs/squad-open.yaml', sets);
  const { projection, spanHidden, maxSpanWidth, positions } = config.model;
  const model = describeModel(config.model, VOCABULARY);
  const shapes = modelShapes(model);
  initialise(model, shapes, random(1));
  const optimizer = createOptimizer(
    model.params,
    shapes.map(({ name }) => name),
    config.pretrain.optimizer,
    1000,
  );
  const ours = ourSteps(model, batches, (gradients) => optimizer.apply(gradients, 0));
  await peer?.ask({
    size: {
      ...size,
      vocabulary: VOCABULARY,
      positions,
      projection,
      spanHidden,
      maxSpanWidth,
      retrieved: RETRIEVED,
      blocksRead: READ,
    },
    batches,
  });
  const rows: Row[] = [];
  for (const step of STEPS) {
    const row: Row = {
      size: size.name,
      step,
      tokens: tokensOf(batches, step),
      seconds: 0,
      padded: [],
      packed: [],
    };
    const times: number[] = [];
    for (let round = -1; round < ROUNDS; round++) {
      const began = performance.now();
      ours[step]();
      const seconds = (performance.now() - began) / 1000;
      const padded = await peer?.ask({ step, packed: false });
      const packed = await peer?.ask({ step, packed: true });
      if (round < 0) continue; // the first warms up
      times.push(seconds);
      if (padded && packed) {
        row.padded.push(seconds / (padded.seconds as number));
        row.packed.push(seconds / (packed.seconds as number));
      }
    }
    for (const list of [times, row.padded, row.packed]) list.sort((a, b) => a - b);
    row.seconds = median(times);
    rows.push(row);
    const share = (operations(size, row.tokens) * (step === 'embed' ? 1 : 3)) / times[0] / 1e9 / peak;
    say(
      `${size.name.padEnd(6)}${step.padEnd(9)}${(1000 * row.seconds).toFixed(0).padStart(6)} ms ` +
        `${(row.tokens / row.seconds).toFixed(0).padStart(7)} tokens/s, ${(100 * share).toFixed(0).padStart(3)} % of the peak` +
        (peer ? `; ours / PyTorch padded ${spread(row.padded)}, packed ${spread(row.packed)}` : ''),
    );
  }
  optimizer.dispose();
  disposeModel(model);
  return rows;
}

/** Floating point operations of the dense layers on so many tokens, forwards: what the share of the peak is of. */
function operations({ layers, hidden }: Size, tokens: number): number {
  return 2 * 12 * hidden ** 2 * layers * tokens;
}

function tokensOf(batches: Batches, step: Step): number {
  const count = (...list: Sequences[]) =>
    list.reduce((n, { ids }) => n + ids.reduce((m, s) => m + s.length, 0), 0);
  const { embed, ict, pretrain, qa } = batches;
  if (step === 'embed') return count(embed);
  if (step === 'ict') return count(ict.queries, ict.blocks);
  if (step === 'pretrain') return count(pretrain.queries, pretrain.documents, pretrain.joint);
  return count(qa.queries, qa.joint);
}

function ourSteps(
  model: Model,
  batches: Batches,
  apply: (gradients: tf.NamedTensorMap) => void,
): Record<Step, () => void> {
  const input = ({ ids, firstSegment }: Sequences) => encoderInput(ids, firstSegment);
  const embedInput = input(batches.embed);
  const all = modelShapes(model).filter(({ name }) => !name.startsWith('span.'));
  const retriever = all.filter(({ name }) => !name.startsWith(model.readerTower));
  const qa = qaFeed(model, batches, input);
  const trained = qaShapes(model);
  const { pretrain } = loadConfig('configs/squad-open.yaml', [
    `pretrain.batch=${batches.pretrain.candidates.length}`,
    `pretrain.microBatch=${batches.pretrain.candidates.length}`,
  ]);
  const masks = batches.pretrain.targets.flat().length;
  return {
    embed() {
      const vectors = embedSequences(model.params, model.documentTower, model.embedder, embedInput);
      vectors.dataSync();
      vectors.dispose();
    },
    ict: () =>
      apply(
        batchGradients(model, retriever, batches.ict, batches.ict.queries.ids.length, undefined).gradients,
      ),
    pretrain: () =>
      apply(
        realmGradients(model, all, realmFeed(model, batches, input), pretrain, masks, undefined).gradients,
      ),
    qa: () => apply(qaGradients(model, trained, qa).gradients),
  };
}

function realmFeed(model: Model, { pretrain }: Batches, input: (b: Sequences) => EncoderInput): Feed {
  const { candidates, positions, targets } = pretrain;
  const [B, K, M] = [candidates.length, candidates[0].length, positions[0].length];
  const perPair = (list: number[][]) => list.flatMap((row) => candidates[0].map(() => row));
  const joint = input(pretrain.joint);
  return {
    retriever: retrieverInput(model, pretrain.queries, pretrain.documents),
    candidates: tf.tensor2d(candidates, [B, K], 'int32'),
    present: tf.ones([B, K]),
    masks: tf.ones([B, M]),
    joint: [
      {
        input: joint,
        masks: readout(joint, perPair(positions)),
        targets: tf.tensor1d(perPair(targets).flat(), 'int32'),
      },
    ],
    order: tf.range(1, B * K * M + 1, 1, 'int32'),
  };
}

function qaFeed(model: Model, { qa }: Batches, input: (b: Sequences) => EncoderInput): QaFeed {
  const B = qa.queries.ids.length;
  const joint = input(qa.joint);
  const T = joint.longest;
  const W = model.reader.maxSpanWidth;
  const offsets = Int32Array.from(qa.joint.firstSegment);
  const lengths = Int32Array.from(qa.joint.ids, (ids, r) => ids.length - offsets[r] - 1);
  const spans = tf.buffer([B, READ * W * T]);
  qa.spans.forEach(([start, width], b) => {
    spans.set(1, b, (width - 1) * T + start);
  });
  const positives = tf.buffer([B, RETRIEVED]);
  for (let b = 0; b < B; b++) positives.set(1, b, 0);
  return {
    queries: input(qa.queries),
    vectors: tf.randomNormal([B, RETRIEVED, model.embedder.projection]),
    present: tf.ones([B, RETRIEVED]),
    positives: positives.toTensor() as tf.Tensor2D,
    reading: { input: joint, blocks: blockPlaces(joint, offsets, lengths), B, R: READ, T },
    spans: spans.toTensor() as tf.Tensor2D,
  };
}

/** GFLOPS of a square product, the best of some. */
function measurePeak(): number {
  const n = 2048;
  const a = tf.randomNormal([n, n]) as tf.Tensor2D;
  let best = Infinity;
  for (let i = 0; i < 6; i++) {
    const began = performance.now();
    const c = tf.matMul(a, a);
    c.slice([0, 0], [1, 1]).dataSync();
    best = Math.min(best, performance.now() - began);
    c.dispose();
  }
  a.dispose();
  return (2 * n ** 3) / best / 1e6;
}

function median(sorted: number[]): number {
  return sorted[sorted.length >> 1];
}

function spread(sorted: number[]): string {
  return `${median(sorted).toFixed(2)} (${sorted[0].toFixed(2)} to ${sorted.at(-1)!.toFixed(2)})`;
}

/** Word pieces as JSON's own arrays. */
function plain(_: string, value: unknown): unknown {
  return value instanceof Int32Array ? [...value] : value;
}

interface Peer {
  version: string;
  ask(request: object): Promise<Record<string, unknown>>;
  end(): void;
}

/** The Python process that times PyTorch; undefined where there is none with torch. */
async function startPeer(): Promise<Peer | undefined> {
  const env = { ...process.env, OMP_NUM_THREADS: String(THREADS) };
  const child: ChildProcess = spawn(options.python, ['bench/peer.py'], {
    env,
    stdio: ['pipe', 'pipe', 'ignore'],
  });
  const waiting: ((answer?: Record<string, unknown>) => void)[] = [];
  child.on('error', () => waiting.shift()?.());
  child.on('exit', () => waiting.shift()?.());
  child.stdin!.on('error', () => {}); // the exit tells
  createInterface({ input: child.stdout! }).on('line', (line) => waiting.shift()?.(JSON.parse(line)));
  const ask = (request: object) =>
    new Promise<Record<string, unknown> | undefined>((resolve) => {
      waiting.push(resolve);
      child.stdin!.write(`${JSON.stringify(request, plain)}\n`);
    });
  const hello = await ask({ threads: THREADS });
  if (!hello) return undefined;
  return {
    version: hello.version as string,
    async ask(request) {
      const answer = await ask(request);
      if (!answer) throw new Error('the PyTorch process ended');
      return answer;
    },
    end: () => child.stdin!.end(),
  };
}
