// npm run bench:profile: where the time of each kind of step goes, by kind of kernel. Native engine only. A kernel's time is that of
// its call from JavaScript until it has computed, so dispatch is part of it; `dispatch` shows how much that is: the number of
// calls times the time of the smallest one. `JavaScript` is the rest of the step.
import { availableParallelism } from 'node:os';
import { parseArgs } from 'node:util';
import * as tf from '@tensorflow/tfjs';
import { startEngine } from '../src/engine.ts';
import { makeBatches, SIZES } from './batches.ts';
import { middle } from './middle.ts';
import { ours, STEPS } from './ours.ts';

const { values: options } = parseArgs({
  options: {
    sizes: { type: 'string', default: SIZES.map((s) => s.name).join() },
    rounds: { type: 'string', default: '7' },
    threads: { type: 'string', default: String(availableParallelism()) },
  },
});

/** TensorFlow's operations by what they are part of; all others are elementwise work, copies and reductions. */
const KINDS: [kind: string, operations: RegExp][] = [
  ['products', /^(Realm(Dense|FeedForward)(Grad)?|BatchMatMul(V2|V3)?|MatMul)$/],
  ['attention', /^RealmAttention/],
  ['mask head', /^RealmLogLikelihood/],
  ['span scorer', /^RealmSpanScores/],
  ['embeddings, norms', /^Realm(Embeddings|Norm)/],
  ['optimizer', /^RealmAdam$/],
];
const REST = 'elementwise';
const COLUMNS = [...KINDS.map(([kind]) => kind), REST];

type Execute = (name: string, ...rest: unknown[]) => unknown;
interface Backend {
  executeSingleOutput: Execute;
  executeMultipleOutputs: Execute;
}

const engine = await startEngine('tensorflow', { threads: Number(options.threads) });
const backend = tf.backend() as unknown as Backend;
let times = new Map<string, number>();
let calls = 0;
let inside = 0;
for (const method of ['executeSingleOutput', 'executeMultipleOutputs'] as const) {
  const execute = backend[method].bind(backend);
  backend[method] = (name, ...rest) => {
    if (inside > 0) return execute(name, ...rest); // one method may call the other
    const started = performance.now();
    inside++;
    try {
      return execute(name, ...rest);
    } finally {
      inside--;
      const kind = KINDS.find(([, operations]) => operations.test(name))?.[0] ?? REST;
      times.set(kind, (times.get(kind) ?? 0) + performance.now() - started);
      calls++;
    }
  };
}

console.log(
  `${engine.description}, ${options.threads} threads, medians of ${options.rounds} steps, milliseconds`,
);
console.log(['', 'step', ...COLUMNS, 'JavaScript', 'calls', 'dispatch'].join(' | '));
const smallest = await smallestCall();
for (const size of SIZES.filter(({ name }) => options.sizes.split(',').includes(name))) {
  const our = ours(size, makeBatches(size, 1));
  for (const step of STEPS) {
    const rounds: { whole: number; parts: Map<string, number>; calls: number }[] = [];
    for (let round = -1; round < Number(options.rounds); round++) {
      [times, calls] = [new Map(), 0];
      const started = performance.now();
      await our.steps[step]();
      const whole = performance.now() - started;
      if (round >= 0) rounds.push({ whole, parts: times, calls }); // the first is a warm-up
    }
    const of = (part: (round: (typeof rounds)[number]) => number) => middle(rounds.map(part));
    const sum = (parts: Map<string, number>) => [...parts.values()].reduce((a, b) => a + b, 0);
    const cells = [
      of(({ whole }) => whole),
      ...COLUMNS.map((kind) => of(({ parts }) => parts.get(kind) ?? 0)),
      of(({ whole, parts }) => whole - sum(parts)),
    ].map((ms) => ms.toFixed(ms < 10 ? 1 : 0));
    const count = of((round) => round.calls);
    console.log([`${size.name}, ${step}`, ...cells, count, (count * smallest).toFixed(1)].join(' | '));
  }
  our.dispose();
}

/** Milliseconds of the smallest call: the sum of two numbers. */
async function smallestCall(): Promise<number> {
  const [a, b] = [tf.scalar(1), tf.scalar(2)];
  const list: number[] = [];
  for (let round = 0; round < 20; round++) {
    times = new Map();
    for (let i = 0; i < 200; i++) tf.add(a, b).dispose();
    list.push([...times.values()][0] / 200);
  }
  return middle(list);
}
