import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { writeFileAtomic } from '../files.ts';
import { duration, say } from '../progress.ts';
import { runConfig, runFolder } from '../run.ts';
import { isFinished } from '../train/loop.ts';
import { generateWorld, writeWorld } from '../world/world.ts';
import { buildRunIndex } from './build-index.ts';
import { closedBook } from './closed-book.ts';
import { announceEngine, type CommonOptions, type Context } from './context.ts';
import { evalExactMatch, evalRecall } from './eval.ts';
import { finetuneQa } from './finetune-qa.ts';
import { ictWarmup } from './ict-warmup.ts';
import { prepareCorpus } from './prepare.ts';
import { pretrain } from './pretrain.ts';

/** What the demo reached, as in its `summary.json`. */
export interface DemoSummary {
  engine: string;
  seed: number;
  /** Wall time of the whole demo. */
  seconds: number;
  /** Indexes taken up while pretraining. */
  refreshes: number;
  /** Recall@5 on the held-out questions before any question was trained on. */
  recall5: { ict: number; pretrain: number; bm25: number };
  /** Retrieval utility over the first and the last logged steps of pretraining, nats a masked word piece. */
  retrievalUtility: { first: number; last: number };
  exactMatch: number;
  exactMatchClosedBook: number;
  questions: number;
}

const CONFIG = fileURLToPath(new URL('../../configs/world.yaml', import.meta.url));

/** Generates a world and takes it through every stage; undefined when a signal stopped a stage. */
export async function demo(options: CommonOptions): Promise<DemoSummary | undefined> {
  const started = performance.now();
  const context = await makeWorld(options);
  const { run, config } = context;
  const stages = [
    { name: 'warm-up', work: () => ictWarmup(context) },
    { name: 'pretraining', work: () => pretrain(context) },
  ];
  void stages;

  say('\n1 of 6  inverse cloze warm-up');
  if ((await ictWarmup(context)).stopped) return undefined;
  say('\n2 of 6  the index');
  await buildRunIndex(context, 'ict');
  const ict = await evalRecall(context, 'ict');
  say('\n3 of 6  pretraining through retrieval, the index refreshed live');
  const pretrained = await pretrain(context);
  if (pretrained.stopped) return undefined;
  const after = await evalRecall(context, 'pretrain');
  say('\n4 of 6  fine-tuning on questions');
  if ((await finetuneQa(context)).stopped) return undefined;
  say('\n5 of 6  held-out questions');
  const evaluation = await evalExactMatch(context);
  say('\n6 of 6  the same without documents');
  const closed = await closedBook(context);

  const utility = utilities(run.metrics('pretrain'));
  const summary: DemoSummary = {
    engine: context.engine,
    seed: config.seed,
    seconds: Math.round((performance.now() - started) / 100) / 10,
    refreshes: pretrained.refreshes,
    recall5: { ict: ict.recall[5], pretrain: after.recall[5], bm25: after.bm25[5] },
    retrievalUtility: utility,
    exactMatch: evaluation.exactMatch,
    exactMatchClosedBook: closed.exactMatch,
    questions: evaluation.questions,
  };
  writeFileAtomic(run.summary, `${JSON.stringify(summary, null, 2)}\n`);
  return summary;
}

void existsSync;
void isFinished;
void duration;

/** The generated data and its prepared corpus, made once. */
async function makeWorld(options: CommonOptions): Promise<Context> {
  const run = runFolder(options.run);
  const data = join(run.dir, 'data');
  const set = [
    ...(options.seed === undefined ? [] : [`seed=${options.seed}`]),
    `data.documents=${join(data, 'documents.jsonl')}`,
    `data.sentences=${join(data, 'sentences.jsonl')}`,
    ...['train', 'dev', 'test'].map((split) => `data.${split}=${join(data, `questions.${split}.jsonl`)}`),
    ...options.set,
  ];
  const config = runConfig(run, { config: existsSync(run.config) ? options.config : (options.config ?? CONFIG), set });
  const context = { run, config, engine: await announceEngine(options.engine) };
  say('\n0 of 6  a world of invented people, towns, firms and books');
  if (!existsSync(join(run.corpus, 'manifest.json'))) {
    writeWorld(generateWorld({ seed: config.seed, ...config.world }), data);
    await prepareCorpus(run, config);
  }
  return context;
}

export function demoLines(s: DemoSummary): string[] {
  const percent = (value: number) => `${(100 * value).toFixed(1)} %`;
  const row = (name: string, value: string) => `${name.padEnd(52)} ${value.padStart(9)}`;
  return [
    '',
    row(`held-out questions`, String(s.questions)),
    row('recall@5 after the inverse cloze task', percent(s.recall5.ict)),
    row('recall@5 after pretraining, no question seen yet', percent(s.recall5.pretrain)),
    row('recall@5 of BM25', percent(s.recall5.bm25)),
    row('retrieval utility, first steps (nats)', s.retrievalUtility.first.toFixed(2)),
    row('retrieval utility, last steps', s.retrievalUtility.last.toFixed(2)),
    row('exact match with retrieval', percent(s.exactMatch)),
    row('exact match from the null document alone', percent(s.exactMatchClosedBook)),
    row('live index refreshes', String(s.refreshes)),
    row(`time, ${s.engine} engine`, duration(s.seconds)),
  ];
}
