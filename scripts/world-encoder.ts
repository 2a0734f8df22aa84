// Trains the small encoder that the demo starts from, like REALM from BERT: masked language modelling on generated
// worlds that share no name with the demo's. Run: npx tsx scripts/world-encoder.ts --threads 1 (about an hour, on one core).
// It made the weights in assets/: final loss in nats per hidden piece 0.57 with the right document, 4.16 with another
// document, 3.84 without one, and 4.18 per piece predicted from [CLS].
import { copyFileSync, existsSync } from 'node:fs';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import * as tf from '@tensorflow/tfjs';
import { answerSpans } from '../src/answers/has-answer.ts';
import { loadConfig } from '../src/config.ts';
import { splitSentences } from '../src/corpus/sentences.ts';
import { tokenSpans } from '../src/corpus/split.ts';
import { startEngine } from '../src/engine.ts';
import { bertShapes, disposeInput, encoderInput, gatherRows } from '../src/model/bert.ts';
import { pairIds, queryIds } from '../src/model/embedder.ts';
import { fetchValues } from '../src/model/host-values.ts';
import { describeModel, initialise, lossGradients, type Model, setParam } from '../src/model/model.ts';
import { readMasks } from '../src/model/realm.ts';
import { type Random, random } from '../src/random.ts';
import { writeFileAtomic } from '../src/system/files.ts';
import { say } from '../src/system/progress.ts';
import { trainVocabulary } from '../src/tokenizer/train-vocabulary.ts';
import { loadWordPiece, type WordPiece } from '../src/tokenizer/wordpiece.ts';
import { train } from '../src/train/loop.ts';
import { stepRandom } from '../src/train/sampler.ts';
import { exportBert } from '../src/weights/export-bert.ts';
import { generateWorld } from '../src/world/world.ts';

const { values: options } = parseArgs({
  options: {
    steps: { type: 'string', default: '16000' },
    out: { type: 'string', default: 'assets/world-encoder' },
    work: { type: 'string', default: 'runs/world-encoder' },
    vocabulary: { type: 'string', default: '2000' },
    batch: { type: 'string', default: '40' },
    rate: { type: 'string', default: '1e-3' },
    threads: { type: 'string', default: '0' },
  },
});
const STEPS = Number(options.steps);
const BATCH = Number(options.batch);
/** Documents in a world, and steps before the next world: too few to memorise a world. */
const DOCUMENTS = 1500;
const STEPS_PER_WORLD = 200;
/** Far from seeds that users choose; in any case the names come from the half that no demo uses. */
const FIRST_SEED = 1_000_000;
const WORLDS_FOR_VOCABULARY = 20;
/**
 * The curriculum. Copying from a document of forty pieces is not learned in this time if training starts with it. Copying
 * from the one sentence that states the answer is learned within a thousand steps, and carries over to whole documents.
 * Up to the first step below all examples have that one sentence, from the second on all have whole documents.
 */
const SENTENCES_UNTIL_STEP = 1500;
const DOCUMENTS_FROM_STEP = 4000;
/**
 * From then on: shares of sentences without a document, and with a document about another entity of the same kind; the
 * latter share rises at the end. If a reader copied from any document, every candidate but the right one would lower the
 * likelihood, and an untrained retriever, which finds few right ones, would learn to prefer the null document. So this
 * reader must recognise by the names whether there is something to copy.
 */
const WITHOUT_DOCUMENT = 0.06;
const WITH_OTHER_DOCUMENT = 0.06;
const FINAL_PHASE_FROM_STEP = 6500;
const WITH_OTHER_DOCUMENT_FINALLY = 0.28;
/** Documents drawn to choose the other document: the one that shares most pieces with the right one, nearly always of the same kind. */
const OTHERS_DRAWN = 12;
/** Share of hidden spans other than the answer, such as the name of the entity that the sentence is about. */
const OTHER_SPANS = 0.4;
/** Share of the document's pieces that are hidden in addition to the span. */
const BODY_MASKED = 0.05;
/**
 * Share of texts with pieces that must be predicted from [CLS] only. BERT's [CLS] learns from next-sentence prediction;
 * this is the stronger task of encoders made for retrieval (bag-of-words prediction, as in Ma et al. 2024, arXiv 2401.11248).
 */
const BAG_SHARE = 0.25;
/** Pieces to predict per text. */
const BAG_PIECES = 12;
const NOTHING = new Int32Array(0);

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
    biasCorrection: false,
  },
  checkpoint: join(options.work, 'checkpoint'),
  metrics: join(options.work, 'metrics.jsonl'),
  events: join(options.work, 'events'),
  logEvery: 100,
  saveEvery: 500,
  keep: 1,
  maxSkipped: 10,
  origin: { vocabularySha256: tokenizer.sha256, corpusSha256: '', settings: {} },
  step(step) {
    const number = Math.floor(step / STEPS_PER_WORLD);
    if (current.number !== number) current = { number, world: encodeWorld(makeWorld(number), tokenizer) };
    return maskedGradients(current.world!, step);
  },
});
if (!result.stopped) {
  await exportBert(options.out, model.params, model.readerTower, model.reader);
  copyFileSync(vocabulary, join(options.out, 'vocab.txt'));
  say(`written to ${options.out}: ${JSON.stringify(result.metrics)}`);
}

function makeWorld(number: number) {
  return generateWorld({ seed: FIRST_SEED + number, documents: DOCUMENTS, heldOut: 0, names: 'pretraining' });
}

/**
 * Position vectors start as sinusoids (Vaswani et al. 2017), with the magnitude of the other weights: heads that attend
 * to the previous token, which copying needs, are then learned in hundreds of steps instead of thousands.
 */
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
    documents: documents.map(({ title, text }) => ({
      title: tokenizer.encode(title).ids,
      body: tokenizer.encode(text).ids,
      sentences: splitSentences(text).map(({ start, end }) => tokenizer.encode(text.slice(start, end)).ids),
    })),
    sentences: sentences.map(({ text, spans, answer, document }) => {
      const encoding = tokenizer.encode(text);
      return {
        ids: encoding.ids,
        spans: tokenSpans(
          encoding,
          spans.map(([start, end]) => ({ start, end })).sort((a, b) => a.start - b.start),
        ),
        answer: sortedIndex(spans, answer),
        document: row.get(document)!,
      };
    }),
  };
}

/** One sequence `[CLS] a [SEP] b [SEP]` with the positions of its masks. */
interface Example {
  kind: 'stated' | 'document' | 'another' | 'without';
  a: Int32Array;
  b: Int32Array;
  /** Positions in a, and in b. */
  inA: number[];
  inB: number[];
}

/** A text with pieces to predict from [CLS] only: a sentence, encoded like a query, or a title and its document. */
interface Bag {
  ids: Int32Array;
  firstSegment: number;
  pieces: number[];
}

type EncodedWorld = ReturnType<typeof encodeWorld>;

/** A sentence of X with one hidden span, and with it the sentence of its document that states the answer, its whole document, another document, or nothing. */
function drawExample({ sentences, documents }: EncodedWorld, step: number, random: Random): Example {
  const { ids, spans, document, answer } = random.pick(sentences);
  const { body, sentences: statements } = documents[document];
  const piecesOf = (span: number) => ids.subarray(spans[2 * span], spans[2 * span + 1]);
  const occurs = (span: number, text: Int32Array) => answerSpans(text, [piecesOf(span)]).length > 0;
  const hide = (span: number) => range(spans[2 * span], spans[2 * span + 1]);
  const stating = statements.find((s) => occurs(answer, s));
  const share = (step - SENTENCES_UNTIL_STEP) / (DOCUMENTS_FROM_STEP - SENTENCES_UNTIL_STEP); // share of whole documents
  if (stating && random.float() >= share) {
    return { kind: 'stated', a: ids, b: stating, inA: hide(answer), inB: [] };
  }
  const other = random.int(spans.length / 2);
  const span = random.float() < OTHER_SPANS ? other : answer;
  const draw = random.float();
  if (draw < WITHOUT_DOCUMENT) return { kind: 'without', a: ids, b: NOTHING, inA: hide(span), inB: [] };
  if (
    draw <
    WITHOUT_DOCUMENT + (step < FINAL_PHASE_FROM_STEP ? WITH_OTHER_DOCUMENT : WITH_OTHER_DOCUMENT_FINALLY)
  ) {
    return { kind: 'another', a: ids, b: similar(documents, document, random), inA: hide(span), inB: [] };
  }
  const inB = range(0, body.length).filter(() => random.float() < BODY_MASKED);
  return { kind: 'document', a: ids, b: body, inA: hide(occurs(span, body) ? span : answer), inB };
}

/** The most similar of some random documents to document `right`, by shared pieces. */
function similar(documents: EncodedWorld['documents'], right: number, random: Random): Int32Array {
  const pieces = new Set(documents[right].body);
  let best: Int32Array = NOTHING;
  let most = -1;
  for (let i = 0; i < OTHERS_DRAWN; i++) {
    const other = random.int(documents.length);
    if (other === right) continue;
    const { body } = documents[other];
    const shared = body.reduce((n, piece) => n + (pieces.has(piece) ? 1 : 0), 0) / body.length;
    if (shared <= most) continue;
    most = shared;
    best = body;
  }
  return best;
}

function drawBag({ sentences, documents }: EncodedWorld, random: Random): Bag {
  let sequence: { ids: Int32Array; firstSegment: number };
  if (random.float() < 0.5) {
    const ids = queryIds(tokenizer, random.pick(sentences).ids, config.model.positions);
    sequence = { ids, firstSegment: ids.length };
  } else {
    const { title, body } = random.pick(documents);
    sequence = pairIds(tokenizer, title, body, config.model.positions);
  }
  const pieces = new Set(sequence.ids.filter((id) => id !== tokenizer.cls && id !== tokenizer.sep));
  return { ...sequence, pieces: random.shuffle([...pieces]).slice(0, BAG_PIECES) };
}

async function maskedGradients(world: ReturnType<typeof encodeWorld>, step: number) {
  const random = stepRandom(7, step);
  const sequences: Int32Array[] = [];
  const first: number[] = [];
  const positions: number[][] = [];
  const targets: number[][] = [];
  const kinds: (Example['kind'] | 'bag')[] = [];
  for (let i = 0; i < BATCH; i++) {
    if (random.float() < BAG_SHARE) {
      const { ids, firstSegment, pieces } = drawBag(world, random);
      kinds.push('bag');
      sequences.push(ids);
      first.push(firstSegment);
      positions.push(pieces.map(() => 0));
      targets.push(pieces);
      continue;
    }
    const example = drawExample(world, step, random);
    kinds.push(example.kind);
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
  const input = encoderInput(sequences, first);
  const masks = gatherRows(input, positions);
  const hidden = tf.tensor1d(targets.flat(), 'int32');
  const batch = { input, masks, targets: hidden };
  let logs = tf.zeros([1]);
  const { value, gradients } = lossGradients(model, shapes, () => {
    const logTokens = readMasks(model.params, model.readerTower, model.reader, batch);
    logs = tf.keep(logTokens.clone());
    return logTokens.mean().neg() as tf.Scalar;
  });
  const [[loss], values] = await fetchValues(value, logs);
  const metrics: { loss: number; [name: string]: number } = { loss };
  // Metrics by kind, only for the sentence's masks: the task of the reader.
  const sums: Record<string, number[]> = { bag: [], stated: [], document: [], another: [], without: [] };
  let at = 0;
  kinds.forEach((kind, b) => {
    for (const p of positions[b]) {
      if (p < first[b]) sums[kind].push(-values[at]);
      at++;
    }
  });
  for (const [name, list] of Object.entries(sums)) {
    if (list.length > 0) metrics[name] = list.reduce((x, y) => x + y, 0) / list.length;
  }
  tf.dispose([value, logs, hidden]);
  disposeInput(input);
  disposeInput(masks);
  return { gradients, metrics };
}

/** The index, after sorting by start, of the span that is at `index` now. */
function sortedIndex(spans: readonly [number, number][], index: number): number {
  return spans.filter(([start]) => start < spans[index][0]).length;
}

function range(start: number, end: number): number[] {
  return Array.from({ length: end - start }, (_, i) => start + i);
}
