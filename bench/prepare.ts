// npm run bench:prepare: passages like Wikipedia's, 20 thousand, 200 thousand and 2 million of them (14 GB free in the
// temporary folder), prepared and then embedded, each in its own process; then only tokenising, alternately with our
// tokenizer and Hugging Face's.
import { execFile, spawn } from 'node:child_process';
import { createWriteStream, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { availableParallelism, tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { Readable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { parseArgs, promisify } from 'node:util';
import { readDocuments } from '../src/datasets/documents.ts';
import { trainVocabulary } from '../src/tokenizer/train-vocabulary.ts';
import { loadWordPiece } from '../src/tokenizer/wordpiece.ts';
import type { Embedded } from './embed-one.ts';
import { middle } from './middle.ts';
import { passages } from './passages.ts';
import type { Prepared } from './prepare-one.ts';

const { values: options } = parseArgs({
  options: {
    sizes: { type: 'string', default: '20000,200000,2000000' },
    rounds: { type: 'string', default: '7' },
    /** A Python with tokenizers; without it only our tokenizer is timed. */
    python: { type: 'string' },
    /** A vocabulary; by default one is trained on the passages. */
    vocabulary: { type: 'string' },
    /** A Python with pyarrow, to prepare the same passages as Parquet too. */
    parquet: { type: 'string' },
    /** Documents for tokenising; by default those of the smallest size. */
    text: { type: 'string' },
  },
});

/** UTF-16 units tokenised per round. */
const TEXT_UNITS = 10_000_000;

const folder = mkdtempSync(join(tmpdir(), 'bench-prepare-'));
try {
  const vocabulary = options.vocabulary ?? (await makeVocabulary());
  const sizes = options.sizes.split(',').map(Number);
  await benchPrepare(vocabulary, sizes);
  await benchTokenizer(vocabulary, options.text ?? (await write(Math.min(...sizes))));
} finally {
  rmSync(folder, { recursive: true });
}

type Step = 'prepare' | 'parquet' | 'embed';

async function benchPrepare(vocabulary: string, sizes: number[]): Promise<void> {
  console.log(`on ${availableParallelism()} cores`);
  console.log('passages            seconds  passages/s     tokens/s  tokens/s of a core  peak RSS');
  const peaks: Record<Step, number[]> = { prepare: [], parquet: [], embed: [] };
  const row = (size: number, step: Step, seconds: number, tokens: number, peak: number, cpu?: number) => {
    peaks[step].push(peak);
    console.log(
      size.toLocaleString('en').padEnd(9),
      step.padEnd(8),
      seconds.toFixed(1).padStart(8),
      rate(size / seconds).padStart(11),
      rate(tokens / seconds).padStart(12),
      (cpu === undefined ? '' : rate(tokens / cpu)).padStart(19),
      `${(peak / 2 ** 20).toFixed(0)} MiB`.padStart(9),
    );
  };
  for (const size of sizes) {
    const documents = await write(size);
    const corpus = join(folder, 'corpus');
    const prepared: Prepared = await one('prepare-one.ts', documents, vocabulary, corpus);
    const { tokens } = prepared;
    row(size, 'prepare', prepared.seconds, tokens, prepared.peak, prepared.cpuSeconds);
    if (options.parquet !== undefined) {
      rmSync(corpus, { recursive: true });
      const parquet = await toParquet(options.parquet, documents);
      const again: Prepared = await one('prepare-one.ts', parquet, vocabulary, corpus);
      if (again.tokens !== tokens)
        throw new Error(`${again.tokens} tokens from Parquet, ${tokens} from JSONL`);
      row(size, 'parquet', again.seconds, tokens, again.peak, again.cpuSeconds);
      rmSync(parquet);
    }
    rmSync(documents);
    const embedded: Embedded = await one('embed-one.ts', corpus);
    row(size, 'embed', embedded.seconds, tokens, embedded.peak);
    rmSync(corpus, { recursive: true });
  }
  if (sizes.length < 2) return;
  for (const [step, [first, ...more]] of Object.entries(peaks)) {
    if (more.length === 0) continue;
    const slope = (more.at(-1)! - first) / (sizes.at(-1)! - sizes[0]);
    console.log(`${step}: peak RSS grows by ${slope.toFixed(1)} bytes a passage`);
  }
}

/** Rewrites JSONL as Parquet with pyarrow's defaults: snappy, a million rows in a group. Returns its path. */
async function toParquet(python: string, documents: string): Promise<string> {
  const path = documents.replace('.jsonl', '.parquet');
  const program =
    'import sys; from pyarrow import json, parquet; parquet.write_table(json.read_json(sys.argv[1]), sys.argv[2])';
  await promisify(execFile)(python, ['-c', program, documents, path]);
  return path;
}

/** Runs a program of this folder and returns what it prints. */
async function one(program: string, ...args: string[]) {
  const command = ['--import', 'tsx', join(import.meta.dirname, program), ...args];
  const { stdout } = await promisify(execFile)(process.execPath, command);
  return JSON.parse(stdout);
}

async function benchTokenizer(vocabulary: string, documents: string): Promise<void> {
  const texts: string[] = [];
  let units = 0;
  for await (const { text } of readDocuments(documents)) {
    texts.push(text);
    units += text.length;
    if (units >= TEXT_UNITS) break;
  }
  const file = join(folder, 'texts.json');
  writeFileSync(file, JSON.stringify(texts));
  const tokenizer = loadWordPiece(vocabulary, true);
  const ours = () => {
    const before = process.cpuUsage();
    let tokens = 0;
    for (const text of texts) tokens += tokenizer.encode(text).ids.length;
    const { user, system } = process.cpuUsage(before);
    return { tokens, seconds: (user + system) / 1e6 };
  };
  const peer = options.python === undefined ? undefined : startPeer(options.python, vocabulary, file);
  ours();
  await peer?.round();
  const times: number[] = [];
  const ratios: number[] = [];
  let tokens = 0;
  for (let round = 0; round < Number(options.rounds); round++) {
    const our = ours();
    const their = await peer?.round();
    tokens = our.tokens;
    times.push(our.seconds);
    if (!their) continue;
    if (their.tokens !== tokens) throw new Error(`${tokens} tokens, and ${their.tokens} of Hugging Face`);
    ratios.push(our.seconds / their.seconds);
  }
  peer?.end();
  console.log(
    `tokenising ${rate(units)} characters, processor time: ${rate(tokens / middle(times))} tokens/s`,
  );
  if (ratios.length === 0) return;
  ratios.sort((a, b) => a - b);
  const [least, median, most] = [ratios[0], middle(ratios), ratios.at(-1)!].map((ratio) => ratio.toFixed(2));
  console.log(`ours / Hugging Face's: ${median} (${least} to ${most}); below 1 ours is faster`);
}

function startPeer(python: string, vocabulary: string, texts: string) {
  const child = spawn(python, [join(import.meta.dirname, 'tokenizer_peer.py'), vocabulary, texts], {
    stdio: ['pipe', 'pipe', 'inherit'],
    env: { ...process.env, TOKENIZERS_PARALLELISM: 'false', RAYON_NUM_THREADS: '1' },
  });
  const answers = createInterface(child.stdout)[Symbol.asyncIterator]();
  return {
    async round(): Promise<{ tokens: number; seconds: number }> {
      child.stdin.write('\n');
      const { done, value } = await answers.next();
      if (done) throw new Error(`${python} has ended`);
      return JSON.parse(value);
    },
    end: () => child.stdin.end(),
  };
}

async function makeVocabulary(): Promise<string> {
  const texts = Array.from(passages(5000), ({ title, text }) => `${title} ${text}`);
  const path = join(folder, 'vocab.txt');
  writeFileSync(path, `${(await trainVocabulary(texts, 30_000, true)).join('\n')}\n`);
  return path;
}

async function write(size: number): Promise<string> {
  const path = join(folder, `${size}.jsonl`);
  function* lines() {
    for (const passage of passages(size)) yield `${JSON.stringify(passage)}\n`;
  }
  await pipeline(Readable.from(lines()), createWriteStream(path));
  return path;
}

function rate(n: number): string {
  return Math.round(n).toLocaleString('en');
}
