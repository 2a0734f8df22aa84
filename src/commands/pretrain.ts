import { rmSync } from 'node:fs';
import { basename, join } from 'node:path';
import type { Corpus } from '../corpus/store.ts';
import { UserError } from '../errors.ts';
import { writeFolderAtomic } from '../files.ts';
import { saveWeights } from '../model/checkpoint.ts';
import { embedderShapes } from '../model/embedder.ts';
import { type Model, pretrainedShapes, readerTowerShapes, retrieverShapes } from '../model/model.ts';
import { say } from '../progress.ts';
import { indexName } from '../retrieval/make-index.ts';
import { type Published, type Refresher, startRefresher } from '../retrieval/refresher-client.ts';
import { currentIndex, openIndex, type SearchIndex } from '../retrieval/search.ts';
import { jsonLines } from '../run.ts';
import { dueAt } from '../schedule.ts';
import { stepsDone } from '../train/checkpoints.ts';
import { type LoopResult, train } from '../train/loop.ts';
import { pretrainStep } from '../train/pretrain.ts';
import { matchingIndex } from './build-index.ts';
import {
  type Context,
  emptyModel,
  firstWeights,
  hasWeights,
  loopSettings,
  originOf,
  runCorpus,
  stageWeights,
} from './context.ts';

/**
 * Trains retriever and reader together through retrieval. Every `refresh.every` steps a snapshot of the document tower
 * goes to the child process, which embeds and indexes everything anew; the trainer takes the new index up between two
 * steps and, in `async` mode, never waits for it.
 */
export async function pretrain(context: Context): Promise<LoopResult> {
  const { run, config } = context;
  const corpus = runCorpus(context, { verify: true });
  const model = emptyModel(context, corpus);
  const shapes = pretrainedShapes(model);
  firstWeights(context, model, readerTowerShapes(model));
  stageWeights(context, 'ict', corpus, model, retrieverShapes(model));
  const index =
    hasWeights(context, 'pretrain') && currentIndex(run.index)
      ? openCurrent(context, corpus)
      : await matchingIndex(context, 'ict', model, corpus);
  const stage = pretrainStep(model, corpus, index, config);
  const refresh = liveRefresh(context, model, index);
  try {
    return await train({
      name: 'pretrain',
      model,
      shapes,
      steps: config.pretrain.steps,
      optimizer: config.pretrain.optimizer,
      ...loopSettings(context, 'pretrain'),
      origin: originOf(context, corpus, ['pretrain', 'refresh']),
      index: () => basename(index.dir),
      step: stage.step,
      between: refresh.between,
    });
  } finally {
    await refresh.stop();
    stage.dispose();
    index.close();
    corpus.close();
  }
}

/** A resumed run goes on with the index it last used. */
function openCurrent({ run, config }: Context, corpus: Corpus): SearchIndex {
  return openIndex(currentIndex(run.index)!, {
    corpusSha256: corpus.sha256,
    expansionSearch: config.index.expansionSearch,
  });
}

/** The trainer's side of the refresh: hands out snapshots, takes up indexes, and tells how old the one in use is. */
function liveRefresh({ run, config, engine }: Context, model: Model, index: SearchIndex) {
  const { mode, niceness } = config.refresh;
  const due = dueAt(config.refresh.every);
  const log = jsonLines(run.refreshes, stepsDone(run.checkpoint('pretrain')) ?? 0);
  const asked = new Map<number, number>(); // when the snapshot of each step was written
  let published: Published | undefined;
  let snapshotAt = performance.now();
  let child: Refresher | undefined;
  // What an earlier process handed out, no child of this one will read.
  rmSync(run.snapshots, { recursive: true, force: true });
  /** Snapshots up to the one that made the index in use are as large as the tower, and of no use any more. */
  const forgetSnapshots = (step: number) => {
    for (const older of [...asked.keys()].filter((s) => s <= step)) {
      rmSync(join(run.snapshots, indexName(older)), { recursive: true, force: true });
      asked.delete(older);
    }
  };
  const start = () =>
    startRefresher(run.dir, {
      engine,
      niceness,
      threads: 0,
      onPublished: (p) => {
        published = p;
      },
      onFailure: (message) => say(`refresher: ${message}; training goes on with the index at hand`),
    });

  return {
    async stop() {
      await child?.stop();
      forgetSnapshots(Infinity);
    },
    async between(step: number): Promise<Record<string, number>> {
      const done = step + 1;
      if (mode !== 'off') child ??= start();
      if (child && due(done)) {
        const snapshot = join(run.snapshots, indexName(done));
        await writeFolderAtomic(snapshot, (aside) =>
          saveWeights(aside, model.params, embedderShapes(model.documentTower, model.embedder)),
        );
        asked.set(done, performance.now());
        child.request({ snapshot, step: done });
        if (mode === 'sync') {
          while (child.busy) await new Promise((resolve) => setTimeout(resolve, 20));
          if (!published)
            throw new UserError(
              "no new index, and refresh.mode sync cannot go on without: see the refresher's message above",
            );
        }
      }
      if (published) {
        index.swap(join(run.index, published.name), { hash: false });
        snapshotAt = asked.get(published.step) ?? snapshotAt;
        forgetSnapshots(published.step);
        log.write({ ...published, inUseAt: done });
        published = undefined;
      }
      return {
        indexAgeSteps: done - index.manifest.step,
        indexAgeSeconds: (performance.now() - snapshotAt) / 1000,
      };
    },
  };
}
