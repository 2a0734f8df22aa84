import { getPriority, setPriority } from 'node:os';
import { basename } from 'node:path';
import { loadConfig } from '../config.ts';
import { openCorpus } from '../corpus/store/reader.ts';
import { type EngineName, startEngine } from '../engine.ts';
import { describeModel, disposeModel } from '../model/model.ts';
import { makeIndex } from '../retrieval/ensure-index.ts';
import { runFolder } from '../run/folder.ts';
import { UserError } from '../system/errors.ts';
import type { FromRefresher, Published, RefresherStart, RefreshRequest, ToRefresher } from './client.ts';
import { loadSnapshot } from './snapshot.ts';

// CHILD-PROCESS ENTRY. New weights → new embeddings → new index, whenever the trainer requests it, until the trainer says
// stop or dies. It reads the run's own configuration, corpus and snapshots, and checks that the snapshot was written for
// them, so that it cannot disagree with the trainer.

function send(message: FromRefresher): void {
  // Errors of sending are ignored: if the trainer is gone, `disconnect` reports it.
  process.send?.(message, undefined, undefined, () => {});
}

/** Least milliseconds between two heartbeats. */
const HEARTBEAT_INTERVAL_MS = 1000;

/** Assumed speed of the slowest disk. */
const SLOW_DISK_BYTES_PER_SECOND = 10e6;

let lastAlive = 0;

function heartbeat(bytes: number): void {
  const now = performance.now();
  if (bytes === 0 && now - lastAlive < HEARTBEAT_INTERVAL_MS) return;
  lastAlive = now;
  send({ type: 'alive', quiet: bytes / SLOW_DISK_BYTES_PER_SECOND });
}

async function refresh(start: RefresherStart, { snapshot, step }: RefreshRequest): Promise<Published> {
  const startTime = performance.now();
  const run = runFolder(start.runDir);
  const config = loadConfig(run.config, []);
  const corpus = openCorpus(run.corpus);
  const model = describeModel(config.model, corpus.tokenizer.size);
  try {
    loadSnapshot(snapshot, step, model, config, corpus);
    const { queue } = start;
    const say = (sentence: string) => send({ type: 'note', sentence });
    const name = basename(snapshot);
    const workers =
      queue === null
        ? undefined
        : await (await import('../queue/embeddings.ts')).embeddingsByQueue(
            { queue, run, config, corpus, model, snapshot: name, say },
            { onHeartbeat: heartbeat },
          );
    const { name: made, manifest } = await makeIndex(
      run.index,
      name,
      { model, corpus, config, step, queued: workers?.embeddings },
      { onProgress: (done, total) => send({ type: 'progress', done, total }), onHeartbeat: heartbeat },
    );
    workers?.remove();
    return { name: made, step, seconds: (performance.now() - startTime) / 1000, rows: manifest.rows };
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
      setPriority(Math.max(getPriority(), message.nice)); // lowering the value needs a privilege
      await startEngine(message.engine as EngineName, { threads: message.threads || undefined });
      send({ type: 'ready' });
      break;
    case 'refresh':
      try {
        send({ type: 'published', ...(await refresh(started!, message)) });
      } catch (error) {
        const { message: reason, stack } = error as Error;
        send({ type: 'failed', message: reason, stack: error instanceof UserError ? undefined : stack });
      }
      break;
    case 'stop':
      process.exit(0);
  }
});
// Ctrl-C and a closed terminal reach the whole process group: the trainer, which must save first, says when to stop.
for (const signal of ['SIGINT', 'SIGHUP'] as const) process.on(signal, () => {});
// Without the trainer nobody needs an index.
process.on('disconnect', () => process.exit(0));
