import { existsSync } from 'node:fs';
import { loadConfig } from '../src/config.ts';
import { readDocuments } from '../src/datasets/documents.ts';
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
/** Batch sizes are tried on every so many-th text. */
const TRIED_EVERY = 4;
const PASSAGES = 256;

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
  const ours = () => embedAll(model.params, model.documentTower, model.embedder, ids(), tokensPerBatch);
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
    for (const batch of BATCHES) tried.push({ batch, seconds: await timed(name, batch, TRIED_EVERY) });
    batches.set(name, tried.reduce((a, b) => (b.seconds < a.seconds ? b : a)).batch);
  }

  const seconds: number[] = [];
  const theirs = new Map<string, number[]>(PEERS.map((name) => [name, []]));
  let vectors = await ours(); // a warm-up
  for (let round = 0; round < rounds; round++) {
    const startTime = performance.now();
    vectors = await ours();
    seconds.push((performance.now() - startTime) / 1000);
    for (const name of PEERS) theirs.get(name)!.push(await timed(name, batches.get(name)!, 1));
  }
  const P = vectorLength(model.embedder);
  const rowsOf = async (name: string) => (await ask({ vectors: name })).vectors as number[][];
  const exact = await rowsOf('onnx-fp32');
  const rows = [
    { name: 'realm', batch: undefined, seconds, least: 0 },
    ...PEERS.map((name) => ({ name, batch: batches.get(name), seconds: theirs.get(name)!, least: 0 })),
  ];
  for (const row of rows) {
    const made =
      row.name === 'realm'
        ? exact.map((_, i) => [...vectors.subarray(i * P, (i + 1) * P)])
        : await rowsOf(row.name);
    row.least = Math.min(...made.map((vector, i) => cosine(vector, exact[i])));
    const ratios = seconds.map((s, round) => s / row.seconds[round]);
    say(
      `${row.name.padEnd(22)}${(1000 * middle(row.seconds)).toFixed(0).padStart(6)} ms ` +
        `${(tokens / middle(row.seconds)).toFixed(0).padStart(7)} tokens/s, cosine to fp32 ${row.least.toFixed(4)} or more` +
        (row.batch === undefined
          ? ''
          : `; batches of ${row.batch}; realm / it ${middle(ratios).toFixed(2)} (${Math.min(...ratios).toFixed(2)} to ${Math.max(...ratios).toFixed(2)})`),
    );
  }
  const fastest = PEERS.map((name) => middle(theirs.get(name)!)).reduce((a, b) => Math.min(a, b));
  say(
    `realm embeds ${(fastest / middle(seconds)).toFixed(2)} times the tokens a second of the fastest of them`,
  );
  peer.end();
  disposeModel(model);
  return { encoder, texts: texts.length, tokens, versions, rows };
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

function cosine(a: readonly number[], b: readonly number[]): number {
  const dot = (x: readonly number[], y: readonly number[]) => x.reduce((sum, v, i) => sum + v * y[i], 0);
  return dot(a, b) / Math.sqrt(dot(a, a) * dot(b, b));
}
