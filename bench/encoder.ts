// npm run bench:encoder -- --run RUN --python PATH: the retriever of a fine-tuned run against the same encoder trained as users
// of sentence-transformers train it, on the same questions and gold blocks, for the seconds that the run's fine-tuning took,
// on the same machine. Prints recall of both on the run's test questions, and questions trained on a second.
// PATH is a Python that has sentence-transformers, datasets and accelerate.
import { execFileSync, spawn } from 'node:child_process';
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { answerFinder } from '../src/answers/answer-finder.ts';
import { loadConfig } from '../src/config.ts';
import { openCorpus } from '../src/corpus/store/reader.ts';
import { readQuestions } from '../src/datasets/questions.ts';
import { passageId } from '../src/eval/rankings.ts';
import { encodeQuestions } from '../src/model/questions.ts';
import { runFolder } from '../src/run/folder.ts';
import { goldBlocks } from '../src/train/qa-candidates.ts';

const { values: options } = parseArgs({
  options: {
    run: { type: 'string' },
    /** A Python with sentence-transformers, datasets and accelerate. */
    python: { type: 'string', default: process.env.PYTHON ?? 'python3' },
    /** Seconds of the peer's training; by default those of the run's fine-tuning. */
    seconds: { type: 'string' },
    batch: { type: 'string', default: '64' },
    rate: { type: 'string', default: '2e-5' },
  },
});
if (options.run === undefined) throw new Error('name a fine-tuned run with --run RUN');
const run = runFolder(options.run);
const config = loadConfig(run.config, []);
const { data, model, qa } = config;
if (!data.train || !data.test || !model.initial)
  throw new Error(`${run.config}: needs data.train, data.test and model.initial`);

const last = JSON.parse(readFileSync(run.metrics('finetune-qa'), 'utf8').trim().split('\n').at(-1)!);
const seconds = Number(options.seconds ?? last.seconds);
const work = mkdtempSync(join(tmpdir(), 'bench-encoder-'));
try {
  await writeInputs();
  console.log(`peer: ${seconds.toFixed(0)} s of training, batches of ${options.batch}`);
  const published = await peer(0);
  const trained = await peer(seconds);
  const ours = JSON.parse(
    execFileSync(
      process.execPath,
      [
        join(import.meta.dirname, '../bin/realm'),
        'eval',
        'recall',
        '--stage',
        'finetune-qa',
        '--json',
        '--run',
        options.run,
      ],
      { encoding: 'utf8', stdio: ['ignore', 'pipe', 'inherit'], maxBuffer: 1 << 26 },
    ),
  );
  row('encoder as published', published.recall);
  row('sentence-transformers', trained.recall, trained.questionsPerSecond);
  row('realm', ours.recall, (last.step * qa.batch) / last.seconds);
} finally {
  rmSync(work, { recursive: true });
}

/** The blocks, and the training questions with their first gold block, as the peer reads them. */
async function writeInputs(): Promise<void> {
  const corpus = openCorpus(run.corpus);
  const jsonl = (name: string, records: object[]) =>
    writeFileSync(join(work, name), records.map((record) => `${JSON.stringify(record)}\n`).join(''));
  const text = (block: number) => `${corpus.title(block)} ${corpus.text(block)}`.trim();
  jsonl(
    'blocks.jsonl',
    Array.from({ length: corpus.blocks }, (_, block) => ({
      id: passageId(corpus, block),
      text: text(block),
    })),
  );
  const train = encodeQuestions(corpus, await readQuestions(data.train!, data.answers));
  const gold = goldBlocks(corpus, train, answerFinder(corpus));
  jsonl(
    'pairs.jsonl',
    train.flatMap((question) => {
      const [block] = gold(question);
      return block === undefined ? [] : [{ question: question.question, text: text(block) }];
    }),
  );
  const test = await readQuestions(data.test!, data.answers);
  jsonl(
    'questions.jsonl',
    test.map(({ id, question }, i) => ({ id: id ?? String(i + 1), question })),
  );
  corpus.close();
}

interface Peer {
  questionsPerSecond: number;
  recall: Record<string, number>;
}

async function peer(seconds: number): Promise<Peer> {
  mkdirSync(work, { recursive: true });
  const script = join(import.meta.dirname, 'encoder_peer.py');
  const given = ['--seconds', String(seconds), '--batch', options.batch, '--rate', options.rate];
  const child = spawn(options.python, [script, model.initial!, work, ...given], {
    stdio: ['ignore', 'pipe', 'inherit'],
    env: { ...process.env, HF_HUB_OFFLINE: '1', TOKENIZERS_PARALLELISM: 'false' },
  });
  let out = '';
  for await (const piece of child.stdout) out += piece;
  const report = JSON.parse(out.trim().split('\n').at(-1)!);
  const { recall } = JSON.parse(
    execFileSync(
      process.execPath,
      [
        join(import.meta.dirname, '../bin/realm'),
        ...['eval', 'recall', '--json', '--run', options.run!, '--retrieved', join(work, 'peer.trec')],
        ...['--questions', data.test!],
      ],
      { encoding: 'utf8', stdio: ['ignore', 'pipe', 'inherit'], maxBuffer: 1 << 26 },
    ),
  );
  return { ...report, recall };
}

function row(name: string, recall: Record<string, number>, questionsPerSecond?: number): void {
  const shown = ['1', '5', '20'].map((k) => `@${k} ${(100 * recall[k]).toFixed(1)}`).join('  ');
  console.log(
    `${name.padEnd(22)} ${shown}${questionsPerSecond ? `  ${questionsPerSecond.toFixed(1)} questions/s` : ''}`,
  );
}
