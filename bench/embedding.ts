import { existsSync } from 'node:fs';
import { loadConfig } from '../src/config.ts';
import { readDocuments } from '../src/datasets/documents.ts';
import { hasBf16 } from '../src/engine/fused.ts';
import { type Weights, withBf16 } from '../src/model/bert.ts';
import { blockSequences, embedAll, embedderShapes, textFormat } from '../src/model/embedder.ts';
import { vectorLength } from '../src/model/head.ts';
import { describeModel, disposeModel, initialise, type Model } from '../src/model/model.ts';
import { headSettings } from '../src/pipeline/encoder-head.ts';
import { random } from '../src/random.ts';
import { say } from '../src/system/progress.ts';
import { lowercaseIn, vocabularyIn } from '../src/tokenizer/tokenizer-json.ts';
import { loadWordPiece, type WordPiece } from '../src/tokenizer/wordpiece.ts';
import { importBert, readHubConfig } from '../src/weights/import-bert.ts';
import { bertFolder } from '../src/weights/sentence-encoder.ts';
import { testData } from '../test/support/test-data.ts';
import { middle } from './middle.ts';
import { passages } from './passages.ts';
import { startPython } from './python-peer.ts';

// The embedding of a corpus by a published sentence encoder: realm, ONNX Runtime and sentence-transformers in turns, each
// from texts to vectors, so that all tokenise. The encoder must be one of mean pooling without dense layers.

const PEERS = ['onnx-fp32', 'onnx-int8', 'sentence-transformers'] as const;
/** Texts in a batch of a peer, of which the fastest is used. */
const BATCHES = [1, 2, 4, 8, 16, 32, 64];
/** Batch sizes are tried, twice each, on every so many-th text. */
const TRIED_EVERY = 4;
const PASSAGES = 256;
const NEAREST = 10;

export interface EmbeddingOptions {
  /** Folder of the encoder, as sentence-transformers saves it. */
  encoder: string;
  python: string;
  threads: number;
  rounds: number;
}

interface Text {
  title: string;
  text: string;
}

/** Times of `rounds` rounds, printed and returned. */
export async function benchEmbedding({ encoder, python, threads, rounds }: EmbeddingOptions) {
  const { model, tokenizer, tokensPerBatch } = openEncoder(encoder);
  const texts = await chosenPassages();
  const { pooling, dense, sequenceTokens, positions } = model.embedder;
  if (pooling !== 'mean' || (dense ?? []).length > 0)
    throw new Error(
      `${encoder}: the peers have only the mean of the tokens; choose another sentence encoder`,
    );
  const longest = Math.min(sequenceTokens ?? positions, positions);
  const ids = () => {
    const encoded = texts.map(({ title, text }) => ({
      title: tokenizer.encode(title).ids,
      body: tokenizer.encode(text).ids,
    }));
    return blockSequences(textFormat(tokenizer, model.embedder), encoded, longest);
  };
  const embed = (weights: Weights) =>
    embedAll(weights, model.documentTower, model.embedder, ids(), tokensPerBatch);
  const ours = new Map([['realm', () => embed(model.params)]]);
  if (hasBf16()) ours.set('realm-bf16', () => embedInBf16(model, embed));
  const tokens = ids().ids.reduce((sum, { length }) => sum + length, 0);
  say(`${encoder}: ${texts.length} passages of ${tokens} tokens, from texts to vectors (all tokenise)`);

  const peer = startPython(python, 'bench/embedding_peer.py', threads, 'inherit');
  const ask = async (request: object) => {
    const answer = await peer.ask(request);
    if (!answer)
      throw new Error(
        `${python}: the peer ended; it needs torch, sentence-transformers, onnx and onnxruntime`,
      );
    return answer;
  };
  const whole = texts.map(({ title, text }) => `${title} ${text}`.trim());
  const versions = await ask({ folder: encoder, texts: whole, threads, longest });
  const timed = async (name: string, batch: number, every: number) =>
    (await ask({ peer: name, batch, every })).seconds as number;

  const batches = new Map<string, number>();
  for (const name of PEERS) {
    const tried: { batch: number; seconds: number }[] = [];
    for (const batch of [...BATCHES, ...BATCHES])
      tried.push({ batch, seconds: await timed(name, batch, TRIED_EVERY) });
    batches.set(name, tried.reduce((a, b) => (b.seconds < a.seconds ? b : a)).batch);
  }

  const P = vectorLength(model.embedder);
  const made = new Map<string, number[][]>();
  const seconds = new Map<string, number[]>([...ours.keys(), ...PEERS].map((name) => [name, []]));
  for (let round = -1; round < rounds; round++) {
    for (const [name, embed] of ours) {
      const startTime = performance.now();
      const vectors = await embed();
      if (round >= 0)
        seconds.get(name)!.push((performance.now() - startTime) / 1000); // the first one is a warm-up
      else
        made.set(
          name,
          Array.from(texts, (_, i) => [...vectors.subarray(i * P, (i + 1) * P)]),
        );
    }
    if (round < 0) continue;
    for (const name of PEERS) seconds.get(name)!.push(await timed(name, batches.get(name)!, 1));
  }
  for (const name of PEERS) made.set(name, (await ask({ vectors: name })).vectors as number[][]);
  peer.end();
  const exact = made.get('onnx-fp32')!;
  const rows = [...seconds].map(([name, times]) => ({
    name,
    batch: batches.get(name),
    seconds: times,
    cosine: Math.min(...made.get(name)!.map((vector, i) => cosine(vector, exact[i]))),
    nearest: sameNearest(made.get(name)!, exact),
  }));
  for (const row of rows) {
    const ratios = [...ours.keys()].map((name) => {
      const sorted = seconds
        .get(name)!
        .map((s, round) => s / row.seconds[round])
        .sort((a, b) => a - b);
      return `${name} / it ${middle(sorted).toFixed(2)} (${sorted[0].toFixed(2)} to ${sorted.at(-1)!.toFixed(2)})`;
    });
    say(
      `${row.name.padEnd(22)}${(1000 * middle(row.seconds)).toFixed(0).padStart(6)} ms ` +
        `${(tokens / middle(row.seconds)).toFixed(0).padStart(7)} tokens/s, ` +
        `cosine to fp32 ${row.cosine.toFixed(5)} or more, ${(100 * row.nearest).toFixed(2)} % of the nearest the same` +
        (row.batch === undefined ? '' : `; batches of ${row.batch}; ${ratios.join(', ')}`),
    );
  }
  disposeModel(model);
  return { encoder, texts: texts.length, tokens, versions, rows };
}

async function embedInBf16(model: Model, embed: (weights: Weights) => Promise<Float32Array>) {
  const { weights, dispose } = withBf16(model.params, model.documentTower, model.embedder);
  try {
    return await embed(weights);
  } finally {
    dispose();
  }
}

/** The encoder as `realm build-index` reads it. */
function openEncoder(folder: string): { model: Model; tokenizer: WordPiece; tokensPerBatch: number } {
  const { layers, hidden, heads, intermediate, positions, gelu } = readHubConfig(bertFolder(folder));
  const sizes = { initial: folder, layers, hidden, heads, intermediate, positions, gelu };
  const set = Object.entries(sizes).map(([name, value]) => `model.${name}=${value}`);
  const config = loadConfig(undefined, [...set, ...headSettings(loadConfig(undefined, set))]);
  const tokenizer = loadWordPiece(vocabularyIn(bertFolder(folder)), lowercaseIn(bertFolder(folder)) ?? null);
  const model = describeModel(config.model, tokenizer.size);
  const { params } = importBert(folder, model.embedder);
  initialise(model, embedderShapes(model.documentTower, model.embedder), random(1), () => params);
  return { model, tokenizer, tokensPerBatch: config.index.tokensPerBatch };
}

/** Published passages, evenly spread, where REALM_TEST_DATA names their folder; else invented ones. */
async function chosenPassages(): Promise<Text[]> {
  const path = testData('passages.jsonl.gz');
  if (!existsSync(path)) return [...passages(PASSAGES)];
  const all: Text[] = [];
  for await (const document of readDocuments(path)) all.push(document);
  return Array.from({ length: PASSAGES }, (_, i) => all[Math.floor((i * all.length) / PASSAGES)]);
}

/** Of the ten passages nearest to each, searched with its exact vector, the share that is the same among other vectors. */
function sameNearest(vectors: readonly number[][], exact: readonly number[][]): number {
  const nearest = (all: readonly number[][], i: number) => {
    const scores = all.map((vector) => cosine(vector, exact[i]));
    const others = [...all.keys()].filter((j) => j !== i);
    return others.sort((a, b) => scores[b] - scores[a]).slice(0, NEAREST);
  };
  const shares = exact.map((_, i) => {
    const best = new Set(nearest(exact, i));
    return nearest(vectors, i).filter((j) => best.has(j)).length / best.size;
  });
  return shares.reduce((sum, share) => sum + share, 0) / shares.length;
}

function cosine(a: readonly number[], b: readonly number[]): number {
  const dot = (x: readonly number[], y: readonly number[]) => x.reduce((sum, v, i) => sum + v * y[i], 0);
  return dot(a, b) / Math.sqrt(dot(a, a) * dot(b, b));
}
