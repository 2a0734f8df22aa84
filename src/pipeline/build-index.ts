import { existsSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import type { Corpus } from '../corpus/store/reader.ts';
import { disposeModel, type Model, retrieverShapes } from '../model/model.ts';
import type { EmbeddingsByQueue } from '../queue/embeddings.ts';
import { configSha256, writeSnapshot } from '../refresher/snapshot.ts';
import { indexName, makeIndex, towerFingerprint } from '../retrieval/ensure-index.ts';
import { type IndexManifest, readManifest } from '../retrieval/manifest.ts';
import { currentIndex, indexFolders, pruneIndexes } from '../retrieval/publish.ts';
import { openIndex, type SearchIndex } from '../retrieval/search.ts';
import type { BuildInput } from '../retrieval/write-index.ts';
import { REFRESHED_STAGES, type RetrieverSource } from '../run/stages.ts';
import { UserError } from '../system/errors.ts';
import { progress, say } from '../system/progress.ts';
import { stopMeans } from '../system/stop.ts';
import { latestState, stepsDone, type Which } from '../train/checkpoints.ts';
import { runShards } from './assemble.ts';
import { hybridBm25 } from './bm25.ts';
import {
  type Context,
  emptyModel,
  hasWeights,
  retrievesUntrained,
  runCorpus,
  stageWeights,
} from './context.ts';

/** The latest stage that has trained a document tower. Pretraining is skipped if `qa.retriever` says so. */
export function newestRetriever(context: Context): RetrieverSource {
  const tuned = latestState(context.run.checkpoint('finetune-qa'), !context.readOnly);
  return tuned?.index != null ? 'finetune-qa' : retrieverBeforeQa(context);
}

/** The stage whose retriever fine-tuning starts or has started with: later pretraining does not change a fine-tuned model. */
export function retrieverBeforeQa(context: Context): 'initial' | 'ict-warmup' | 'pretrain' {
  const used = latestState(context.run.checkpoint('finetune-qa'), !context.readOnly)?.retriever;
  if (used) return used;
  const { retriever } = context.config.qa;
  const stage = (['pretrain', 'ict-warmup'] as const).find(
    (s) => (s === retriever || s === 'ict-warmup') && hasWeights(context, s),
  );
  return stage ?? untrainedRetriever(context);
}

/** The retriever that pretraining starts from: the inverse cloze task's, or the encoder as it was published. */
export function retrieverBeforePretraining(context: Context): 'initial' | 'ict-warmup' {
  return hasWeights(context, 'ict-warmup') ? 'ict-warmup' : untrainedRetriever(context);
}

/** A sentence encoder retrieves without training; a `UserError` where the run has none. */
function untrainedRetriever({ run, config }: Context): 'initial' {
  if (retrievesUntrained(config)) return 'initial';
  throw new UserError(
    `${run.dir}: this run has no retriever yet; train one with "realm ict-warmup --run ${run.dir}"${config.ict.steps === 0 ? ' and ict.steps above 0' : ''}, or start from a sentence encoder (model.initial)`,
  );
}

/**
 * The stage whose retriever an index is made with.
 * @param from undefined: the newest. Fine-tuning that froze the document tower searches with that of the stage before.
 */
export function indexedStage(context: Context, from?: RetrieverSource): RetrieverSource {
  const { run } = context;
  if (from === 'finetune-qa' && !hasWeights(context, from))
    throw new UserError(`${run.checkpoint(from)}: no such weights; run "realm finetune-qa --run ${run.dir}"`);
  return from === undefined || from === 'finetune-qa' ? newestRetriever(context) : from;
}

/**
 * Embeds all documents with a stage's retriever and makes that the run's index; with `hybrid.weight`, BM25's too.
 * @param from see `indexedStage`
 * @param assemble take the vectors from the shards that `realm embed` has made; a `UserError` names those that are missing
 */
export async function buildRunIndex(
  context: Context,
  from?: RetrieverSource,
  assemble = false,
): Promise<IndexManifest> {
  const stage = indexedStage(context, from);
  const corpus = runCorpus(context);
  const model = emptyModel(context, corpus);
  try {
    await stageWeights(context, stage, corpus, model, retrieverShapes(model));
    const shards = assemble ? await runShards(context, model, corpus) : undefined;
    const manifest = await build(context, stage, model, corpus, context.config.train.use, shards?.embeddings);
    shards?.remove();
    (await hybridBm25(context, corpus))?.close();
    return manifest;
  } finally {
    corpus.close();
  }
}

/** Makes the index of a stage's retriever the run's current one, if it is not already. */
export async function matchingRunIndex(context: Context, stage: RetrieverSource): Promise<void> {
  const corpus = runCorpus(context);
  const model = emptyModel(context, corpus);
  try {
    await stageWeights(context, stage, corpus, model, retrieverShapes(model));
    (await matchingIndex(context, stage, model, corpus)).close();
  } finally {
    disposeModel(model);
    corpus.close();
  }
}

/**
 * The index of the model's document tower: the run's current one if it was made with the same weights from this corpus, with
 * or without graphs as in the settings; otherwise a new one. So a stage never searches vectors of another retriever.
 * @param which the checkpoint of the stage that the weights are from
 */
export async function matchingIndex(
  context: Context,
  stage: RetrieverSource,
  model: Model,
  corpus: Corpus,
  which: Which = context.config.train.use,
): Promise<SearchIndex> {
  const { run } = context;
  const current = currentIndex(run.index);
  const isOurs = await madeBy(context, model, corpus);
  if (!current || !isOurs(current)) await build(context, stage, model, corpus, which);
  return openRunIndex(context, corpus, currentIndex(run.index)!);
}

/** Folder of an existing index of the model's document tower, preferably the current one; undefined if there is none. */
export async function findIndex(context: Context, model: Model, corpus: Corpus): Promise<string | undefined> {
  const { run } = context;
  const current = currentIndex(run.index);
  const folders = existsSync(run.index) ? indexFolders(run.index) : [];
  const dirs = [...(current ? [current] : []), ...folders.map(({ name }) => join(run.index, name))];
  return dirs.find(await madeBy(context, model, corpus));
}

/** As `findIndex`; a `UserError` if there is none. */
export async function existingIndex(context: Context, model: Model, corpus: Corpus): Promise<string> {
  const { run } = context;
  const found = await findIndex(context, model, corpus);
  if (found !== undefined) return found;
  throw new UserError(
    `${run.index}: has no index for the current corpus, settings and weights; build it with "realm build-index --run ${run.dir}"`,
  );
}

/** Checks whether an index was made by the model's document tower from this corpus, with or without graphs as in the settings. */
async function madeBy({ config }: Context, model: Model, corpus: Corpus): Promise<(dir: string) => boolean> {
  const weightsSha256 = await towerFingerprint(model);
  return (dir) => {
    const manifest = readManifest(dir);
    return (
      manifest.corpusSha256 === corpus.sha256 &&
      manifest.weightsSha256 === weightsSha256 &&
      (manifest.graphs.length === 0) === (config.index.kind === 'exact')
    );
  };
}

/** Opens an index of the run, which must be of this corpus. */
export function openRunIndex({ config, threads }: Context, corpus: Corpus, dir: string): SearchIndex {
  return openIndex(dir, { corpusSha256: corpus.sha256, efSearch: config.index.efSearch, threads });
}

/** Removes old indexes. Keeps the newest ones, and those that a stage needs to resume. */
export function forgetIndexes({ run, config }: Context): void {
  const inUse = REFRESHED_STAGES.map((stage) => latestState(run.checkpoint(stage))?.index);
  pruneIndexes(
    run.index,
    config.refresh.keepIndexes,
    inUse.filter((name) => name != null),
  );
}

/** Makes the index of the model's document tower the run's current one. @param published see `IndexSource` */
export async function build(
  context: Context,
  stage: RetrieverSource,
  model: Model,
  corpus: Corpus,
  which: Which,
  published?: BuildInput['embeddings'],
): Promise<IndexManifest> {
  const { run, config } = context;
  stopMeans('the vectors made so far are kept, and the same command resumes from them');
  const bar = progress('build-index', corpus.blocks, { unit: 'blocks' });
  try {
    const trained = stage === 'initial' || stage === 'ict-warmup' ? undefined : stage;
    const step = trained === undefined ? 0 : (stepsDone(run.checkpoint(trained), which) ?? 0);
    const name = indexName(step, trained);
    const queue = await indexQueue(context, model, corpus, { name, step });
    const source = { model, corpus, config, step, published, queued: queue?.embeddings };
    const made = await makeIndex(run.index, name, source, { onProgress: (blocks) => bar.at(blocks) });
    queue?.remove();
    forgetIndexes(context);
    return made.manifest;
  } finally {
    bar.end();
  }
}

/** The vectors by the workers of the run's queue, if it has one, which read the weights from a snapshot. */
async function indexQueue(
  context: Context,
  model: Model,
  corpus: Corpus,
  { name, step }: { name: string; step: number },
): Promise<EmbeddingsByQueue | undefined> {
  const { run, config } = context;
  const queue = context.queue ?? config.refresh.queue;
  if (queue === null) return undefined;
  const { embeddingsByQueue } = await import('../queue/embeddings.ts'); // BullMQ takes a while to load
  const snapshot = join(run.snapshots, name);
  const { embeddings, remove } = await embeddingsByQueue({
    queue,
    run,
    config,
    corpus,
    model,
    snapshot: name,
    say,
  });
  return {
    async *embeddings(first) {
      const of = { step, configSha256: configSha256(config), corpusSha256: corpus.sha256 };
      await writeSnapshot(snapshot, model, of);
      try {
        yield* embeddings(first);
      } finally {
        rmSync(snapshot, { recursive: true, force: true });
      }
    },
    remove,
  };
}
