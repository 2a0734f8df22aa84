// npm run bench:encoder -- --run RUN --python PATH: the retriever of a fine-tuned run against the same encoder trained as users
// of sentence-transformers train it, on the same questions and gold blocks, for the seconds that the run's fine-tuning took
// or on as many questions (--questions), on the same machine. Prints recall of both on the run's test questions in the same sample of blocks, and questions trained on a
// second. PATH is a Python that has sentence-transformers, datasets and accelerate.
import { spawn } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { answerFinder } from '../src/answers/answer-finder.ts';
import { readQuestions } from '../src/datasets/questions.ts';
import { type DevSample, devSample, sampleRecall } from '../src/eval/dev-sample.ts';
import { type Recall, recallOf } from '../src/eval/evaluate.ts';
import { RECALL_AT } from '../src/eval/probes.ts';
import { retrieverShapes } from '../src/model/model.ts';
import { encodeQuestions } from '../src/model/questions.ts';
import { runBm25 } from '../src/pipeline/bm25.ts';
import { emptyModel, openRun, runCorpus, stageWeights } from '../src/pipeline/context.ts';
import { goldBlocks } from '../src/train/qa-candidates.ts';
import { blockText, writeJsonLines } from './peer-inputs.ts';

const { values: options } = parseArgs({
  options: {
    run: { type: 'string' },
    /** A Python with sentence-transformers, datasets and accelerate. */
    python: { type: 'string', default: process.env.PYTHON ?? 'python3' },
    /** Seconds of the peer's training; by default those of the run's fine-tuning. */
    seconds: { type: 'string' },
    /** Train the peer on so many questions instead. */
    questions: { type: 'string' },
    batch: { type: 'string', default: '64' },
    rate: { type: 'string', default: '2e-5' },
    /** Blocks that are searched, evenly spread, in addition to those that answer the questions. */
    blocks: { type: 'string', default: '5000' },
  },
});
if (options.run === undefined) throw new Error('name a fine-tuned run with --run RUN');
const context = await openRun({ run: options.run, set: [], engine: 'auto' });
const { run, config } = context;
const { data, model: modelConfig, qa } = config;
if (!data.train || !data.test || !modelConfig.initial)
  throw new Error(`${run.config}: needs data.train, data.test and model.initial`);

const last = JSON.parse(readFileSync(run.metrics('finetune-qa'), 'utf8').trim().split('\n').at(-1)!);
const length = options.questions
  ? ['--questions', options.questions]
  : ['--seconds', String(options.seconds ?? last.seconds)];
const corpus = runCorpus(context);
const hasAnswer = answerFinder(corpus);
const work = mkdtempSync(join(tmpdir(), 'bench-encoder-'));
try {
  const test = encodeQuestions(corpus, await readQuestions(data.test, data.answers));
  const sample = await devSample(corpus, test, () => runBm25(context, corpus), Number(options.blocks));
  await writeInputs(sample);
  console.log(
    `${sample.questions.length} questions, ${sample.blocks.length} of ${corpus.blocks} blocks; sentence-transformers: ${length.join(' ')}, batches of ${options.batch}`,
  );
  row('encoder as published', await ours('initial', sample));
  row('realm', await ours('finetune-qa', sample), (last.step * qa.batch) / last.seconds);
  const peer = await trainPeer(sample);
  row('sentence-transformers', peer.recall, peer.questionsPerSecond);
} finally {
  corpus.close();
  rmSync(work, { recursive: true });
}

/** Recall in the sample with the weights of a stage. */
async function ours(stage: 'initial' | 'finetune-qa', sample: DevSample): Promise<Recall> {
  const model = emptyModel(context, corpus);
  await stageWeights(context, stage, corpus, model, retrieverShapes(model));
  return sampleRecall(model, corpus, sample, config);
}

/** The sample's blocks and questions, and the training questions with their first gold block, as the peer reads them. */
async function writeInputs({ questions, blocks }: DevSample): Promise<void> {
  const jsonl = (name: string, records: object[]) => writeJsonLines(join(work, name), records);
  jsonl(
    'blocks.jsonl',
    blocks.map((block) => ({ text: blockText(corpus, block) })),
  );
  jsonl(
    'questions.jsonl',
    questions.map(({ question }) => ({ question })),
  );
  const train = encodeQuestions(corpus, await readQuestions(data.train!, data.answers));
  const gold = goldBlocks(corpus, train, hasAnswer);
  jsonl(
    'pairs.jsonl',
    train.flatMap((question) => {
      const [block] = gold(question);
      return block === undefined ? [] : [{ question: question.question, text: blockText(corpus, block) }];
    }),
  );
}

async function trainPeer({
  questions,
  blocks,
}: DevSample): Promise<{ questionsPerSecond: number; recall: Recall }> {
  const script = join(import.meta.dirname, 'encoder_peer.py');
  const given = [...length, '--batch', options.batch, '--rate', options.rate];
  const child = spawn(options.python, [script, modelConfig.initial!, work, ...given], {
    stdio: ['ignore', 'pipe', 'inherit'],
    env: { ...process.env, HF_HUB_OFFLINE: '1', TOKENIZERS_PARALLELISM: 'false' },
  });
  let out = '';
  for await (const piece of child.stdout) out += piece;
  const { questionsPerSecond } = JSON.parse(out.trim().split('\n').at(-1)!);
  const found: number[][] = JSON.parse(readFileSync(join(work, 'found.json'), 'utf8'));
  const ranks = questions.map((question, i) => {
    const rank = found[i].findIndex((row) => hasAnswer(blocks[row], question));
    return rank < 0 ? Infinity : rank;
  });
  return { questionsPerSecond, recall: recallOf(ranks, RECALL_AT) };
}

function row(name: string, recall: Recall, questionsPerSecond?: number): void {
  const shown = RECALL_AT.map((k) => `@${k} ${(100 * recall[k]).toFixed(1)}`).join('  ');
  console.log(
    `${name.padEnd(22)} ${shown}${questionsPerSecond ? `  ${questionsPerSecond.toFixed(1)} questions/s` : ''}`,
  );
}
