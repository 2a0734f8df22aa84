// Trains the small encoder that the demo starts from, as REALM starts from BERT: masked language modelling on generated
// worlds that share no name with the demo's. Run: npx tsx scripts/world-encoder.ts [--steps N] [--out assets/world-encoder]
import { copyFileSync, existsSync } from 'node:fs';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import * as tf from '@tensorflow/tfjs';
import { loadConfig } from '../src/config.ts';
import { tokenSpans } from '../src/corpus/prepare.ts';
import { splitSentences } from '../src/corpus/sentences.ts';
import { startEngine } from '../src/engine.ts';
import { writeFileAtomic } from '../src/files.ts';
import { bertShapes, disposeInput, encoderInput } from '../src/model/bert.ts';
import { pairIds } from '../src/model/embedder.ts';
import { exportBert } from '../src/model/export-bert.ts';
import { describeModel, initialise, lossGradients, type Model, setParam } from '../src/model/model.ts';
import { readMasks } from '../src/model/realm.ts';
import { say } from '../src/progress.ts';
import { type Random, random } from '../src/random.ts';
import { trainVocabulary } from '../src/tokenizer/train-vocabulary.ts';
import { loadWordPiece, type WordPiece } from '../src/tokenizer/wordpiece.ts';
import { train } from '../src/train/loop.ts';
import { stepRandom } from '../src/train/sampler.ts';
import { generateWorld } from '../src/world/world.ts';

const { values: options } = parseArgs({
  options: {
    steps: { type: 'string', default: '16000' },
    out: { type: 'string', default: 'assets/world-encoder' },
    work: { type: 'string', default: 'runs/world-encoder' },
    vocabulary: { type: 'string', default: '2000' },
    batch: { type: 'string', default: '32' },
    rate: { type: 'string', default: '1e-3' },
    threads: { type: 'string', default: '0' },
  },
});
const STEPS = Number(options.steps);
const BATCH = Number(options.batch);
/** Documents of one world, and steps after which the next world comes: none is seen for long enough to be learnt by heart. */
const DOCUMENTS = 1500;
const STEPS_A_WORLD = 200;
/** Worlds are numbered away from any seed a user gives; their names come from the half that no demo uses in any case. */
const FIRST_SEED = 1_000_000;
const WORLDS_FOR_VOCABULARY = 20;
/** Share of the document's pieces hidden, as BERT hides them. */
const BODY_MASKED = 0.15;

const vocabulary = join(options.work, 'vocab.txt');
if (!existsSync(vocabulary)) {
  say('vocabulary');
  function* texts() {
    for (let w = 0; w < WORLDS_FOR_VOCABULARY; w++) {
      const world = makeWorld(w);
      for (const { title, text } of world.documents) yield `${title} ${text}`;
      for (const { text } of world.sentences) yield text;
      for (const { question } of world.train) yield question;
    }
  }
  const pieces = await trainVocabulary(texts(), Number(options.vocabulary), true);
  writeFileAtomic(vocabulary, `${pieces.join('\n')}\n`);
}
const tokenizer = loadWordPiece(vocabulary, true);
await startEngine('auto', { threads: Number(options.threads) });
const config = loadConfig('configs/world.yaml', ['model.initial=null']);
const model = describeModel(config.model, tokenizer.size);
const shapes = bertShapes(model.readerTower, model.reader, true);
initialise(model, shapes, random(1));
setSinusoids(model);

let current = { number: -1, world: undefined as ReturnType<typeof encodeWorld> | undefined };
const result = await train({
  name: 'world-encoder',
  model,
  shapes,
  steps: STEPS,
  optimizer: {
    learningRate: Number(options.rate),
    warmupSteps: 200,
    weightDecay: 0.01,
    beta1: 0.9,
    beta2: 0.98,
    epsilon: 1e-6,
    clipNorm: 1,
  },
  checkpoint: join(options.work, 'checkpoint'),
  metrics: join(options.work, 'metrics.jsonl'),
  logEvery: 100,
  saveEvery: 500,
  step(step) {
    const number = Math.floor(step / STEPS_A_WORLD);
    if (current.number !== number) current = { number, world: encodeWorld(makeWorld(number), tokenizer) };
    return maskedGradients(current.world!, step);
  },
});
if (!result.stopped) {
  exportBert(options.out, model.params, model.readerTower, model.reader);
  copyFileSync(vocabulary, join(options.out, 'vocab.txt'));
  say(`written to ${options.out}: ${JSON.stringify(result.figures)}`);
}

function makeWorld(number: number) {
  return generateWorld({ seed: FIRST_SEED + number, documents: DOCUMENTS, heldOut: 0, names: 'pretraining' });
}

/** Position vectors start as sinusoids (Vaswani et al. 2017), of the other weights' size: heads that look one token back, which all copying rests on, are found in hundreds of steps rather than thousands. */
function setSinusoids({ params, reader, readerTower }: Model): void {
  const { positions, hidden } = reader;
  const values = new Float32Array(positions * hidden);
  for (let p = 0; p < positions; p++) {
    for (let i = 0; i < hidden; i += 2) {
      const angle = p * 200 ** (-i / hidden);
      values[p * hidden + i] = 0.028 * Math.sin(angle);
      values[p * hidden + i + 1] = 0.028 * Math.cos(angle);
    }
  }
  setParam(params, `${readerTower}embeddings.position`, [positions, hidden], values);
}

function encodeWorld({ documents, sentences }: ReturnType<typeof makeWorld>, tokenizer: WordPiece) {
  const row = new Map(documents.map(({ id }, i) => [id, i]));
  return {
    documents: documents.map(({ text }) => ({
      body: tokenizer.encode(text).ids,
      sentences: splitSentences(text).map(({ start, end }) => tokenizer.encode(text.slice(start, end)).ids),
    })),
    sentences: sentences.map(({ text, spans, document }) => {
      const encoding = tokenizer.encode(text);
      return {
        ids: encoding.ids,
        spans: tokenSpans(
          encoding,
          spans.map(([start, end]) => ({ start, end })).sort((a, b) => a.start - b.start),
        ),
        document: row.get(document)!,
      };
    }),
  };
}

/** One sequence `[CLS] a [SEP] b [SEP]` with the places and hidden pieces of its masks. */
interface Example {
  a: Int32Array;
  b: Int32Array;
  /** Places in a, then in b. */
  inA: number[];
  inB: number[];
}

/** A sentence with one span hidden, mostly beside its document, in which BERT's share of the pieces is hidden too. */
function sentenceExample(world: ReturnType<typeof encodeWorld>, random: Random): Example {
  const { ids, spans, document } = random.pick(world.sentences);
  const chosen = random.int(spans.length / 2);
  const inA = range(spans[2 * chosen], spans[2 * chosen + 1]);
  const kind = random.float();
  const b =
    kind < 0.85
      ? world.documents[document].body
      : kind < 0.93
        ? new Int32Array(0)
        : random.pick(world.documents).body;
  return { a: ids, b, inA, inB: b.length ? some(b.length, BODY_MASKED, random) : [] };
}

/** A sentence of the document beside the document, 40 % of it hidden: copying at its plainest. */
function copyExample(world: ReturnType<typeof encodeWorld>, random: Random): Example {
  const { body, sentences } = random.pick(world.documents);
  const a = random.pick(sentences);
  const inA = some(a.length, 0.4, random);
  return { a, b: body, inA: inA.length > 0 ? inA : [0], inB: [] };
}

function maskedGradients(world: ReturnType<typeof encodeWorld>, step: number) {
  const random = stepRandom(7, step);
  const sequences: Int32Array[] = [];
  const first: number[] = [];
  const positions: number[][] = [];
  const targets: number[][] = [];
  const kinds: ('copy' | 'span')[] = [];
  for (let i = 0; i < BATCH; i++) {
    const copies = random.float() < Math.max(0.2, 1 - step / 1000);
    const example = copies ? copyExample(world, random) : sentenceExample(world, random);
    kinds.push(copies ? 'copy' : 'span');
    const a = example.a.slice();
    const b = example.b.slice();
    for (const at of example.inA) a[at] = tokenizer.mask;
    for (const at of example.inB) b[at] = tokenizer.mask;
    const { ids, firstSegment } = pairIds(tokenizer, a, b, config.model.positions);
    sequences.push(ids);
    first.push(firstSegment);
    positions.push([...example.inA.map((at) => at + 1), ...example.inB.map((at) => at + firstSegment)]);
    targets.push([...example.inA.map((at) => example.a[at]), ...example.inB.map((at) => example.b[at])]);
  }
  const M = Math.max(...positions.map((p) => p.length));
  const at = new Int32Array(BATCH * M);
  const hidden = new Int32Array(BATCH * M);
  const weights = new Float32Array(BATCH * M);
  for (let b = 0; b < BATCH; b++) {
    at.set(positions[b], b * M);
    hidden.set(targets[b], b * M);
    weights.fill(1, b * M, b * M + positions[b].length);
  }
  const input = encoderInput(sequences, first);
  const [atT, hiddenT] = [at, hidden].map((v) => tf.tensor2d(v, [BATCH, M], 'int32'));
  const weightsT = tf.tensor2d(weights, [BATCH, M]);
  const pieces = weights.reduce((x, y) => x + y, 0);
  let logs = tf.zeros([1]);
  const { value, gradients } = lossGradients(model, shapes, () => {
    const logTokens = readMasks(model.params, model.readerTower, model.reader, input, atT, hiddenT);
    logs = tf.keep(logTokens.clone());
    return logTokens.mul(weightsT).sum().div(-pieces) as tf.Scalar;
  });
  const values = logs.dataSync();
  // Spans of the sentence alone: what the reader will be asked.
  const figures: { loss: number; [name: string]: number } = { loss: value.dataSync()[0] };
  const sums: Record<string, number[]> = { copy: [], span: [], body: [] };
  kinds.forEach((kind, b) => {
    positions[b].forEach((p, m) => {
      const name = kind === 'copy' ? 'copy' : p < first[b] ? 'span' : 'body';
      sums[name].push(-values[b * M + m]);
    });
  });
  for (const [name, list] of Object.entries(sums))
    figures[name] = list.reduce((x, y) => x + y, 0) / list.length;
  tf.dispose([value, logs, atT, hiddenT, weightsT]);
  disposeInput(input);
  return { gradients, figures };
}

function some(n: number, share: number, random: Random): number[] {
  return range(0, n).filter(() => random.float() < share);
}

function range(start: number, end: number): number[] {
  return Array.from({ length: end - start }, (_, i) => start + i);
}
