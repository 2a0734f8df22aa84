import { existsSync } from 'node:fs';
import { join } from 'node:path';
import type { Corpus } from '../corpus/store/reader.ts';
import { engineIdentity } from '../engine.ts';
import { disposeModel, type Model, retrieverShapes } from '../model/model.ts';
import { BY_WORKER } from '../queue/embed-child.ts';
import { loadSnapshot, snapshotStep } from '../refresher/snapshot.ts';
import { encodeBlocks } from '../retrieval/encode-blocks.ts';
import { vectorSource } from '../retrieval/ensure-index.ts';
import {
  findShard,
  type Shard,
  shardFolder,
  shardOrigin,
  shardRange,
  writeShard,
} from '../retrieval/shards.ts';
import { RETRIEVER_SOURCES, type RetrieverSource } from '../run/stages.ts';
import { UserError } from '../system/errors.ts';
import { inside } from '../system/files.ts';
import { progress } from '../system/progress.ts';
import { stopMeans } from '../system/stop.ts';
import { indexedStage } from './build-index.ts';
import { type Context, emptyModel, runCorpus, stageWeights } from './context.ts';

/** A shard that is there. */
export interface EmbeddedShard {
  shard: number;
  of: number;
  /** Number of its first block, and how many blocks it has. */
  first: number;
  blocks: number;
  path: string;
  sha256: string;
  /** False if it was there already. */
  embedded: boolean;
}

/**
 * Embeds one shard of the blocks, if it is not there yet. It changes nothing else in the run folder, so that any number of
 * processes and machines may work at once, also at the same shard.
 * @param snapshot a stage, `initial`, or a folder in `snapshots`; undefined: the retriever that `build-index` would use
 */
export async function embedShard(context: Context, shard: Shard, snapshot?: string): Promise<EmbeddedShard> {
  const { run, config } = context;
  reportToWorker();
  const corpus = runCorpus(context);
  const model = emptyModel(context, corpus);
  try {
    await retrieverWeights(context, model, corpus, snapshot);
    const source = await vectorSource(model, corpus, config);
    const origin = shardOrigin(source, engineIdentity());
    const folder = shardFolder(run.shards, source);
    const { first, end } = shardRange(shard, corpus.blocks);
    const blocks = end - first;
    const there = await findShard(folder, shard, origin, { onHeartbeat: reportToWorker });
    const result = { shard: shard.number, of: shard.of, first, blocks };
    if (there) return { ...result, path: there.path, sha256: there.sha256, embedded: false };
    stopMeans('the same command starts this shard again; shards that are complete are kept');
    const bar = progress('embed', blocks, { unit: 'blocks' });
    async function* embedded() {
      const { blockTokens } = config.text;
      const { tokensPerBatch } = config.index;
      let done = 0;
      const control = { onHeartbeat: reportToWorker };
      const pieces = encodeBlocks(model, corpus, { blockTokens, tokensPerBatch, first, end, control });
      for await (const piece of pieces) {
        yield piece;
        done += piece.length / source.dimensions;
        bar.at(done);
      }
    }
    try {
      const { path, sha256 } = await writeShard(folder, shard, origin, embedded());
      return { ...result, path, sha256, embedded: true };
    } finally {
      bar.end();
    }
  } finally {
    disposeModel(model);
    corpus.close();
  }
}

async function retrieverWeights(
  context: Context,
  model: Model,
  corpus: Corpus,
  snapshot: string | undefined,
): Promise<void> {
  const { run, config } = context;
  const isStage = (name: string): name is RetrieverSource =>
    (RETRIEVER_SOURCES as readonly string[]).includes(name);
  if (snapshot === undefined || isStage(snapshot)) {
    await stageWeights(context, indexedStage(context, snapshot), corpus, model, retrieverShapes(model));
    return;
  }
  const step = snapshotStep(snapshot);
  const dir = inside(run.snapshots, snapshot);
  if (step === undefined || !existsSync(dir))
    throw new UserError(
      `${join(run.snapshots, snapshot)}: no such snapshot; name one of the folders there, or one of ${RETRIEVER_SOURCES.join(', ')}`,
    );
  loadSnapshot(dir, step, model, config, corpus);
}

/** Least milliseconds between two signs of life. */
const HEARTBEAT_INTERVAL_MS = 1000;
let lastAlive = 0;

/** Where a worker has started this process, it says that work continues, and ends with the worker. */
function reportToWorker(): void {
  const { channel } = process;
  if (!channel || process.env[BY_WORKER] === undefined) return;
  if (lastAlive === 0) {
    process.on('disconnect', () => process.exit(1));
    channel.unref(); // listening must not keep the process alive
  }
  if (performance.now() - lastAlive < HEARTBEAT_INTERVAL_MS) return;
  lastAlive = performance.now();
  process.send?.('alive', undefined, undefined, () => {});
}
