import { getPriority, setPriority } from 'node:os';
import { basename } from 'node:path';
import { loadConfig } from '../config.ts';
import { openCorpus } from '../corpus/store/reader.ts';
import { type EngineName, startEngine } from '../engine.ts';
import { embedderShapes } from '../model/embedder.ts';
import { describeModel, disposeModel } from '../model/model.ts';
import { makeIndex } from '../retrieval/ensure-index.ts';
import { runFolder } from '../run/folder.ts';
import { UserError } from '../system/errors.ts';
import { loadWeights } from '../weights/checkpoint.ts';
import type { FromRefresher, Published, RefresherStart, RefreshRequest, ToRefresher } from './client.ts';
import { configSha256, readSnapshot } from './snapshot.ts';

// CHILD-PROCESS ENTRY. New weights → new embeddings → new index, as often as the trainer asks, until it says stop or dies.
// It reads the run's own configuration, corpus and snapshots, and checks that the snapshot was written for them, so that
// it cannot disagree with the trainer.

function tell(message: FromRefresher): void {
  // A trainer that is gone does not hear it; `disconnect` tells of that.
  process.send?.(message, undefined, undefined, () => {});
}

/** Milliseconds between two signs of life that say nothing else. */
const ALIVE_EVERY = 1000;

/** Bytes a second that the slowest disk is taken to manage. */
const SLOW_DISK = 10e6;

let lastAlive = 0;

function alive(bytes: number): void {
  const now = performance.now();
  if (bytes === 0 && now - lastAlive < ALIVE_EVERY) return;
  lastAlive = now;
  tell({ type: 'alive', quiet: bytes / SLOW_DISK });
}

async function refresh(start: RefresherStart, { snapshot, step }: RefreshRequest): Promise<Published> {
  const began = performance.now();
  const run = runFolder(start.runDir);
  const config = loadConfig(run.config, []);
  const corpus = openCorpus(run.corpus);
  const model = describeModel(config.model, corpus.tokenizer.size);
  try {
    readSnapshot(snapshot, { step, configSha256: configSha256(config), corpusSha256: corpus.sha256 });
    loadWeights(
      snapshot,
      model,
      embedderShapes(model.documentTower, model.embedder),
      'the trainer writes a new one at the next refresh',
    );
    const { name, manifest } = await makeIndex(
      run.index,
      basename(snapshot),
      { model, corpus, config, step },
      { onProgress: (done, total) => tell({ type: 'progress', done, total }), onHeartbeat: alive },
    );
    return { name, step, seconds: (performance.now() - began) / 1000, rows: manifest.rows };
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
      setPriority(Math.max(getPriority(), message.nice)); // to be less nice than it was started takes a privilege
      await startEngine(message.engine as EngineName, { threads: message.threads || undefined });
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
// Ctrl-C and a closed terminal reach the whole process group: the trainer, which must save first, says when to stop.
for (const signal of ['SIGINT', 'SIGHUP'] as const) process.on(signal, () => {});
// A trainer that is gone takes no index any more.
process.on('disconnect', () => process.exit(0));
