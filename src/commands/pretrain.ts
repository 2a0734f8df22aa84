import { join } from 'node:path';
import type { Corpus } from '../corpus/store.ts';
import { embedderShapes } from '../model/embedder.ts';
import { saveWeights } from '../model/checkpoint.ts';
import { type Model, modelShapes, readerTowerShapes, retrieverShapes } from '../model/model.ts';
import { writeFolderAtomic } from '../files.ts';
import { say } from '../progress.ts';
import { indexName } from '../retrieval/make-index.ts';
import { type Published, startRefresher } from '../retrieval/refresher-client.ts';
import { currentIndex, openIndex, type SearchIndex } from '../retrieval/search.ts';
import { type LoopResult, train } from '../train/loop.ts';
import { pretrainStep } from '../train/pretrain.ts';
import { matchingIndex } from './build-index.ts';
import { type Context, emptyModel, firstWeights, hasWeights, runCorpus, stageWeights } from './context.ts';

export interface PretrainResult extends LoopResult {
  /** Indexes that the child published and training took up. */
  refreshes: number;
}

/**
 * Trains retriever and reader together through retrieval. Every `refresh.every` steps a snapshot of the document tower
 * goes to the child process, which embeds and indexes everything anew; the trainer takes the new index up between two
 * steps and, in `async` mode, never waits for it.
 */
export async function pretrain(context: Context): Promise<PretrainResult> {
  const { run, config } = context;
  const corpus = runCorpus(context);
  const model = emptyModel(context, corpus);
  const shapes = modelShapes(model).filter(({ name }) => !name.startsWith('span.'));
  firstWeights(context, model, readerTowerShapes(model));
  stageWeights(context, 'ict', model, retrieverShapes(model));
  const index = hasWeights(context, 'pretrain') ? openCurrent(context, corpus) : await matchingIndex(context, 'ict', model, corpus);
  const stage = pretrainStep(model, corpus, index, config);
  const refresh = liveRefresh(context, model, index);
  try {
    const result = await train({
      name: 'pretrain',
      model,
      shapes,
      steps: config.pretrain.steps,
      optimizer: config.pretrain.optimizer,
      checkpoint: run.checkpoint('pretrain'),
      metrics: run.metrics('pretrain'),
      ...config.train,
      step: stage.step,
      between: refresh.between,
    });
    return { ...result, refreshes: refresh.taken() };
  } finally {
    await refresh.stop();
    stage.dispose();
    index.close();
    corpus.close();
  }
}

/** A resumed run goes on with the index it last used. */
function openCurrent({ run, config }: Context, corpus: Corpus): SearchIndex {
  return openIndex(join(run.index, currentIndex(run.index)!), {
    corpusSha256: corpus.sha256,
    expansionSearch: config.index.expansionSearch,
  });
}

/** The trainer's side of the refresh: hands out snapshots, takes up indexes, and tells how old the one in use is. */
function liveRefresh({ run, config, engine }: Context, model: Model, index: SearchIndex) {
  const { every, mode, niceness } = config.refresh;
  let published: Published | undefined;
  let taken = 0;
  let snapshotAt = performance.now();
  const asked = new Map<number, number>(); // when the snapshot of each step was written
  const child =
    mode === 'off'
      ? undefined
      : startRefresher(run.dir, {
          engine,
          niceness,
          threads: 0,
          onPublished: (p) => {
            published = p;
          },
          onFailure: (message) => say(`refresher: ${message}; training goes on with the index at hand`),
        });

  return {
    taken: () => taken,
    stop: async () => child?.stop(),
    async between(step: number): Promise<Record<string, number>> {
      const done = step + 1;
      if (child && done % every === 0) {
        const snapshot = join(run.snapshots, indexName(done));
        await writeFolderAtomic(snapshot, (aside) => saveWeights(aside, model.params, embedderShapes(model.documentTower, model.embedder)));
        asked.set(done, performance.now());
        child.request({ snapshot, step: done });
        if (mode === 'sync') await waitFor(() => published?.step === done);
      }
      if (published) {
        index.swap(join(run.index, published.name), { hash: false });
        snapshotAt = asked.get(published.step) ?? snapshotAt;
        say(`refresh: index of step ${published.step} in use at step ${done} (${published.rows} blocks in ${published.seconds.toFixed(1)} s)`);
        published = undefined;
        taken++;
      }
      return { indexAgeSteps: done - index.manifest.step, indexAgeSeconds: (performance.now() - snapshotAt) / 1000 };
    },
  };
}


async function waitFor(condition: () => boolean): Promise<void> {
  while (!condition()) await new Promise((resolve) => setTimeout(resolve, 20));
}
