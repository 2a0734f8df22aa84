// npm run bench: one training or embedding step of each kind, alternately ours and plain PyTorch's, on the same batches.
// Ratios are our time / PyTorch's time: minimum, median and maximum over the rounds; below 1 ours is faster.
// npm run bench -- --against FOLDER: also by another build of realm, such as a checkout of an older commit.
// npm run bench -- --encoder FOLDER: instead, passages embedded by a published sentence encoder, against ONNX Runtime and
// sentence-transformers.
import { availableParallelism } from 'node:os';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import * as tf from '@tensorflow/tfjs';
import { fusedDense, hasFused } from '../src/engine/fused.ts';
import { startEngine } from '../src/engine.ts';
import type { Sequences } from '../src/model/embedder.ts';
import { UserError } from '../src/system/errors.ts';
import { say } from '../src/system/progress.ts';
import { type Batches, makeBatches, READ, RETRIEVED, SIZES, type Size, VOCABULARY } from './batches.ts';
import { type Build, startBuild } from './build-process.ts';
import { benchEmbedding } from './embedding.ts';
import { ours, STEPS, type Step } from './ours.ts';
import { startPython } from './python-peer.ts';

const { values: options } = parseArgs({
  options: {
    sizes: { type: 'string', default: SIZES.map((s) => s.name).join() },
    rounds: { type: 'string', default: '7' },
    engine: { type: 'string', default: 'auto' },
    threads: { type: 'string', default: String(availableParallelism()) },
    /** A Python with torch. */
    python: { type: 'string', default: process.env.PYTHON ?? 'python3' },
    /** A checkout of realm, with its packages and its engine: its steps are taken in turns, too, in a process of its own. */
    against: { type: 'string' },
    /**
     * Folder of a sentence encoder, such as all-MiniLM-L6-v2: only embedding is measured, with its weights. The Python
     * needs sentence-transformers, onnxruntime and onnx, too.
     */
    encoder: { type: 'string' },
    json: { type: 'boolean', default: false },
    /** Skips the measurement of peak memory. */
    quick: { type: 'boolean', default: false },
  },
});
const ROUNDS = Number(options.rounds);
const THREADS = Number(options.threads);

interface Row {
  size: string;
  step: Step;
  tokens: number;
  seconds: number;
  /** Ratios to PyTorch, sorted. */
  padded: number[];
  packed: number[];
  /** Ratios to the other build of realm, sorted. */
  against: number[];
  /** Peak bytes of weights, optimizer and step, each measured in its own process. */
  memory?: { ours: number; padded?: number; packed?: number; against?: number };
}

const engine = await startEngine(options.engine as 'auto', { threads: THREADS });
if (options.encoder === undefined) {
  try {
    await benchSteps();
  } catch (error) {
    if (!(error instanceof UserError)) throw error;
    say(error.message);
    process.exit(2);
  }
} else {
  say(`ours: ${engine.description}; ${THREADS} threads; ${ROUNDS} rounds`);
  const { encoder, python } = options;
  const result = await benchEmbedding({ encoder, python, threads: THREADS, rounds: ROUNDS });
  if (options.json) console.log(JSON.stringify({ engine: engine.description, threads: THREADS, ...result }));
}

async function benchSteps(): Promise<void> {
  const other =
    options.against === undefined ? undefined : await startBuild(options.against, engine.name, THREADS);
  const peer = await startPeer();
  say(
    `ours: ${engine.description}; peer: ${peer ? `PyTorch ${peer.version}` : 'none'}; ${THREADS} threads; ${ROUNDS} rounds`,
  );
  if (other) say(`against ${other.commit}: ${other.engine}`);
  if (!peer) say('no Python with torch: only our own times (give one with --python PATH)');
  const ownPeak = await measurePeak();
  const peak = Math.max(ownPeak, (peer?.peak as number) ?? 0);
  say(
    `fastest product of matrices: ours ${ownPeak.toFixed(0)}${peer ? `, PyTorch's ${peer.peak.toFixed(0)}` : ''} GFLOPS`,
  );
  const rows: Row[] = [];
  for (const size of SIZES.filter(({ name }) => options.sizes.split(',').includes(name)))
    rows.push(...(await benchSize(size, { peer, other }, peak)));
  peer?.end();
  other?.end();
  const against = other && { commit: other.commit, engine: other.engine };
  const facts = { engine: engine.description, peer: peer?.version, against, threads: THREADS, peak };
  if (options.json) console.log(JSON.stringify({ ...facts, rows }));
}

/** The second of two results: a step follows one of its own kind, as in use, not one of another process that has filled the caches. */
async function second<T>(measure: () => Promise<T>): Promise<T> {
  await measure();
  return measure();
}

/** What our steps are compared with. */
interface Others {
  peer?: Peer;
  other?: Build;
}

async function benchSize(size: Size, { peer, other }: Others, peak: number): Promise<Row[]> {
  const batches = makeBatches(size, 1);
  const our = ours(size, batches);
  const facts = { ...size, ...our.sizes, vocabulary: VOCABULARY, retrieved: RETRIEVED, blocksRead: READ };
  await peer?.ask({ size: facts, batches });
  await other?.prepare(size, batches);
  const rows: Row[] = [];
  for (const step of STEPS) {
    const row: Row = {
      size: size.name,
      step,
      tokens: tokensOf(batches, step),
      seconds: 0,
      padded: [],
      packed: [],
      against: [],
    };
    const times: number[] = [];
    for (let round = -1; round < ROUNDS; round++) {
      const seconds = await second(async () => {
        const startTime = performance.now();
        await our.steps[step]();
        return (performance.now() - startTime) / 1000;
      });
      const padded = await second(async () => peer?.ask({ step, packed: false }));
      const otherSeconds = await second(async () => other?.step(step));
      const packed = await second(async () => peer?.ask({ step, packed: true }));
      if (round < 0) continue; // the first round is a warm-up
      times.push(seconds);
      if (otherSeconds) row.against.push(seconds / otherSeconds);
      if (padded && packed) {
        row.padded.push(seconds / (padded.seconds as number));
        row.packed.push(seconds / (packed.seconds as number));
      }
    }
    for (const list of [times, row.padded, row.packed, row.against]) list.sort((a, b) => a - b);
    row.seconds = median(times);
    rows.push(row);
    const share = operations(size, batches, step) / row.seconds / 1e9 / peak;
    if ((peer || other) && !options.quick)
      row.memory = await measureMemory({ size, step, facts, batches }, { peer, other });
    say(
      `${size.name.padEnd(6)}${step.padEnd(9)}${(1000 * row.seconds).toFixed(0).padStart(6)} ms ` +
        `${(row.tokens / row.seconds).toFixed(0).padStart(7)} tokens/s, ${(100 * share).toFixed(0).padStart(3)} % of the peak` +
        (peer ? `; ours / PyTorch padded ${spread(row.padded)}, packed ${spread(row.packed)}` : '') +
        (other ? `; ours / ${other.commit} ${spread(row.against)}` : '') +
        (row.memory ? `; memory ${memoryLine(row.memory, other?.commit)}` : ''),
    );
  }
  our.dispose();
  return rows;
}

/**
 * Floating point operations of the encoders' dense layers, the backward pass counted twice; attention and heads are not
 * included. If only one token of a sequence is gathered, the last layer computes only keys and values for the others.
 */
function operations({ layers, hidden }: Size, batches: Batches, step: Step): number {
  const whole = 2 * 12 * hidden ** 2 * layers;
  const some = 2 * (12 * (layers - 1) + 2) * hidden ** 2;
  const { embed, ict, pretrain, qa } = batches;
  if (step === 'embed') return some * tokens(embed);
  if (step === 'ict') return 3 * some * tokens(ict.queries, ict.blocks);
  if (step === 'pretrain') return 3 * some * tokens(pretrain.queries, pretrain.documents, pretrain.joint);
  return 3 * (some * tokens(qa.queries) + whole * tokens(qa.joint));
}

function tokens(...list: Sequences[]): number {
  return list.reduce((n, { ids }) => n + ids.reduce((m, s) => m + s.length, 0), 0);
}

function tokensOf({ embed, ict, pretrain, qa }: Batches, step: Step): number {
  if (step === 'embed') return tokens(embed);
  if (step === 'ict') return tokens(ict.queries, ict.blocks);
  if (step === 'pretrain') return tokens(pretrain.queries, pretrain.documents, pretrain.joint);
  return tokens(qa.queries, qa.joint);
}

/** Peak memory of the step, ours and the others', in fresh processes. */
async function measureMemory(
  { size, step, facts, batches }: { size: Size; step: Step; facts: object; batches: Batches },
  { peer, other }: Others,
): Promise<Row['memory']> {
  const own = async (folder: string) => {
    const build = await startBuild(folder, engine.name, THREADS);
    const bytes = await build.memory(step, size, batches);
    build.end();
    return bytes;
  };
  const peers = async (packed: boolean) => {
    const one = (await startPeer())!;
    const { bytes } = await one.ask({ memory: step, packed, size: facts, batches });
    one.end();
    return bytes as number;
  };
  return {
    ours: await own(join(import.meta.dirname, '..')),
    ...(peer && { padded: await peers(false), packed: await peers(true) }),
    ...(other && { against: await own(options.against!) }),
  };
}

function memoryLine(
  { ours, padded, packed, against }: NonNullable<Row['memory']>,
  commit: string | undefined,
): string {
  const mega = (n: number) => (n / 1e6).toFixed(0);
  return (
    `${mega(ours)} MB` +
    (padded && packed ? `, PyTorch ${mega(padded)} and ${mega(packed)}` : '') +
    (against ? `, ${commit} ${mega(against)}` : '')
  );
}

/** GFLOPS of a square matrix product, the best of several runs. */
async function measurePeak(): Promise<number> {
  const n = 2048;
  const a = tf.randomNormal([n, n]) as tf.Tensor2D;
  const zero = tf.zeros([n]);
  let best = Infinity;
  for (let i = 0; i < 6; i++) {
    const startTime = performance.now();
    const c = hasFused() ? fusedDense(a, a, zero) : tf.matMul(a, a);
    await c.slice([0, 0], [1, 1]).data();
    best = Math.min(best, performance.now() - startTime);
    c.dispose();
  }
  tf.dispose([a, zero]);
  return (2 * n ** 3) / best / 1e6;
}

function median(sorted: number[]): number {
  return sorted[sorted.length >> 1];
}

function spread(sorted: number[]): string {
  return `${median(sorted).toFixed(2)} (${sorted[0].toFixed(2)} to ${sorted.at(-1)!.toFixed(2)})`;
}

interface Peer {
  version: string;
  /** GFLOPS of its own square product. */
  peak: number;
  ask(request: object): Promise<Record<string, unknown>>;
  end(): void;
}

/** The Python process that times PyTorch; undefined if no Python has torch. */
async function startPeer(): Promise<Peer | undefined> {
  const { ask, end } = startPython(options.python, 'bench/peer.py', THREADS, 'ignore');
  const hello = await ask({ threads: THREADS });
  if (!hello) return undefined;
  return {
    version: hello.version as string,
    peak: hello.peak as number,
    async ask(request) {
      const answer = await ask(request);
      if (!answer) throw new Error('the PyTorch process ended');
      return answer;
    },
    end,
  };
}
