import { getPriority, setPriority } from 'node:os';
import { loadConfig } from '../config.ts';
import { openCorpus } from '../corpus/store.ts';
import { type EngineName, startEngine } from '../engine.ts';
import { UserError } from '../errors.ts';
import { loadWeights } from '../model/checkpoint.ts';
import { embedderShapes } from '../model/embedder.ts';
import { describeModel, disposeModel } from '../model/model.ts';
import { runFolder } from '../run.ts';
import { indexName, makeIndex } from './make-index.ts';
import type {
  FromRefresher,
  Published,
  RefresherStart,
  RefreshRequest,
  ToRefresher,
} from './refresher-client.ts';

// CHILD-PROCESS ENTRY. New weights → new embeddings → new index, as often as the trainer asks, until it says stop or dies.
// It reads the run's own configuration, corpus and snapshots, so that it cannot disagree with the trainer.

function tell(message: FromRefresher): void {
  process.send?.(message);
}

async function refresh(start: RefresherStart, request: RefreshRequest): Promise<Published> {
  const began = performance.now();
  const run = runFolder(start.runDir);
  const config = loadConfig(run.config, []);
  const corpus = openCorpus(run.corpus);
  const model = describeModel(config.model, corpus.tokenizer.size);
  try {
    loadWeights(
      request.snapshot,
      model,
      embedderShapes(model.documentTower, model.embedder),
      'the trainer writes a new one at the next refresh',
    );
    const name = indexName(request.step);
    const manifest = await makeIndex(run.index, name, model, corpus, config, request.step, (done, total) =>
      tell({ type: 'progress', done, total }),
    );
    return { name, step: request.step, seconds: (performance.now() - began) / 1000, rows: manifest.rows };
  } finally {
    disposeModel(model);
    corpus.close();
  }
}

let started: RefresherStart | undefined;

process.on('message', async (message: ToRefresher) => {
  switch (message.type) {
    case 'start':
      started = message;
      setPriority(Math.max(getPriority(), message.niceness)); // to be less nice than it was started takes a privilege
      await startEngine(message.engine as EngineName, { threads: message.threads });
      tell({ type: 'ready' });
      break;
    case 'refresh':
      try {
        tell({ type: 'published', ...(await refresh(started!, message)) });
      } catch (error) {
        const { message: what, stack } = error as Error;
        tell({ type: 'failed', message: what, stack: error instanceof UserError ? undefined : stack });
      }
      break;
    case 'stop':
      process.exit(0);
  }
});
// Ctrl-C reaches the whole process group: the trainer, which must save first, says when to stop.
process.on('SIGINT', () => {});
// A trainer that is gone takes no index any more.
process.on('disconnect', () => process.exit(0));
