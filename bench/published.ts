// npm run bench:published -- --run RUN --python PATH: is the encoder that a run starts from the same retriever here as in
// sentence-transformers? RUN is prepared, has an f32 index of the encoder as published (build-index --set index.precision=f32) and has
// test questions. The peer embeds every block and question of it; printed are the largest difference of a number of a vector, recall by
// both, and how many questions differ. PATH is a Python that has sentence-transformers, datasets and accelerate.
import { spawn } from 'node:child_process';
import { closeSync, mkdtempSync, openSync, readFileSync, rmSync, statSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { readQuestions } from '../src/datasets/questions.ts';
import { firstWithAnswer, recallOf, rowOf } from '../src/eval/evaluate.ts';
import { vectorLength } from '../src/model/head.ts';
import { retrieverShapes } from '../src/model/model.ts';
import { encodeQuestions, questionVectors } from '../src/model/questions.ts';
import { existingIndex } from '../src/pipeline/build-index.ts';
import { emptyModel, openRun, runCorpus, stageWeights } from '../src/pipeline/context.ts';
import { exactTop } from '../src/retrieval/exact.ts';
import { EMBEDDINGS } from '../src/retrieval/manifest.ts';
import { readFully } from '../src/system/files.ts';
import { blockText, writeJsonLines } from './peer-inputs.ts';

const { values: options } = parseArgs({
  options: {
    run: { type: 'string' },
    /** A Python with sentence-transformers, datasets and accelerate. */
    python: { type: 'string', default: process.env.PYTHON ?? 'python3' },
  },
});
if (options.run === undefined) throw new Error('name a prepared run with an index with --run RUN');
const context = await openRun({ run: options.run, set: [], engine: 'auto' });
const { data, model: modelConfig } = context.config;
if (!data.test || !modelConfig.initial)
  throw new Error(`${context.run.config}: needs data.test and model.initial`);

const KS = [1, 5, 20, 100];
const BLOCKS_AT_ONCE = 16_384;
const corpus = runCorpus(context);
const model = emptyModel(context, corpus);
await stageWeights(context, 'initial', corpus, model, retrieverShapes(model));
const index = join(await existingIndex(context, model, corpus), EMBEDDINGS);
const P = vectorLength(model.embedder);
const questions = encodeQuestions(corpus, await readQuestions(data.test, data.answers));
const queries = await questionVectors(model, corpus, questions, context.config);

const work = mkdtempSync(join(tmpdir(), 'bench-published-'));
try {
  writeJsonLines(join(work, 'blocks.jsonl'), blockTexts());
  writeJsonLines(
    join(work, 'questions.jsonl'),
    questions.map(({ question }) => ({ question })),
  );
  await embedWithPeer();
  const theirs = join(work, 'documents.f32');
  const theirQueries = new Float32Array(Uint8Array.from(readFileSync(join(work, 'queries.f32'))).buffer);
  console.log(
    `${corpus.blocks} blocks, ${questions.length} questions; largest difference of a number: ` +
      `blocks ${largestDifference(index, theirs).toExponential(1)}, questions ${apart(queries, theirQueries).toExponential(1)}`,
  );
  const ranks = { realm: ranksIn(index, queries), 'sentence-transformers': ranksIn(theirs, theirQueries) };
  for (const [name, list] of Object.entries(ranks)) {
    const recall = recallOf(list, KS);
    console.log(`${name.padEnd(22)} ${KS.map((k) => `@${k} ${(100 * recall[k]).toFixed(2)}`).join('  ')}`);
  }
  const differ = (k: number) =>
    ranks.realm.filter((rank, i) => rank < k !== ranks['sentence-transformers'][i] < k).length;
  console.log(`questions that differ   ${KS.map((k) => `@${k} ${differ(k)}`).join('  ')}`);
} finally {
  corpus.close();
  rmSync(work, { recursive: true });
}

function* blockTexts() {
  for (let block = 0; block < corpus.blocks; block++) yield { text: blockText(corpus, block) };
}

/** The peer writes documents.f32 and queries.f32, [n, P] each. */
async function embedWithPeer(): Promise<void> {
  const script = join(import.meta.dirname, 'encoder_peer.py');
  const child = spawn(options.python, [script, modelConfig.initial!, work, '--untrained'], {
    stdio: ['ignore', 'ignore', 'inherit'],
    env: { ...process.env, HF_HUB_OFFLINE: '1', TOKENIZERS_PARALLELISM: 'false' },
  });
  const code = await new Promise<number | null>((resolve) => child.once('exit', resolve));
  if (code !== 0) throw new Error(`${script} ended with exit code ${code}`);
}

/** Between the vectors of two files, read a piece at a time. */
function largestDifference(a: string, b: string): number {
  const bytes = corpus.blocks * P * 4;
  const files = [a, b].map((path) => {
    if (statSync(path).size !== bytes)
      throw new Error(`${path}: has ${statSync(path).size} bytes, not ${bytes}`);
    return openSync(path, 'r');
  });
  let largest = 0;
  for (let at = 0; at < bytes; at += BLOCKS_AT_ONCE * P * 4) {
    const [mine, other] = files.map((file) => {
      const piece = new Float32Array(Math.min(BLOCKS_AT_ONCE * P, (bytes - at) / 4));
      readFully(file, new Uint8Array(piece.buffer), at);
      return piece;
    });
    largest = Math.max(largest, apart(mine, other)); // NaN stays NaN
  }
  for (const file of files) closeSync(file);
  return largest;
}

function apart(a: Float32Array, b: Float32Array): number {
  let largest = 0;
  for (let i = 0; i < a.length; i++) {
    const difference = Math.abs(a[i] - b[i]);
    if (Number.isNaN(difference)) return difference;
    if (difference > largest) largest = difference;
  }
  return largest;
}

/** The rank of the first block that holds an answer, from 0; Infinity if it is not among the best. */
function ranksIn(vectors: string, of: Float32Array): number[] {
  const file = openSync(vectors, 'r');
  const found = exactTop(file, corpus.blocks, P, of, Math.max(...KS), 0);
  closeSync(file);
  return questions.map((question, i) => firstWithAnswer(corpus, rowOf(found, i).blocks, question));
}
