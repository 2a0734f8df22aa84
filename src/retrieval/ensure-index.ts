import { createHash } from 'node:crypto';
import { join } from 'node:path';
import type { Config } from '../config.ts';
import type { Corpus } from '../corpus/store/reader.ts';
import { hasBf16 } from '../engine/fused.ts';
import { embedderShapes } from '../model/embedder.ts';
import { isPooler, vectorLength } from '../model/head.ts';
import { fetchValues } from '../model/host-values.ts';
import type { Model } from '../model/model.ts';
import type { Stage } from '../run/stages.ts';
import { UserError } from '../system/errors.ts';
import { explainWrite, makeFolder, writeFileAtomic } from '../system/files.ts';
import { takeLock } from '../system/lock.ts';
import { unusualSettings } from '../tokenizer/wordpiece.ts';
import { encodeBlocks } from './encode-blocks.ts';
import { dtypeOf } from './graph.ts';
import { graphCount } from './graphs.ts';
import { digestsOf, type IndexManifest, MANIFEST } from './manifest.ts';
import { blockPrecision } from './precision.ts';
import { clearIndexes, indexFolders, publish } from './publish.ts';
import { openReuse, type Reuse } from './reuse.ts';
import { isWhole, type TaskControl, yieldToEventLoop } from './task-control.ts';
import { type BuildInput, type BuildOptions, buildIndex } from './write-index.ts';

/** What an index is made from. */
export interface IndexSource {
  model: Model;
  corpus: Corpus;
  config: Config;
  /** Training step of the model. */
  step: number;
  /** Published vectors of the blocks from a row on, made with these weights; used instead of embedding. */
  published?: BuildInput['embeddings'];
  /** The vectors made by other processes; used where none can be copied from another index. */
  queued?: BuildInput['embeddings'];
}

/** The published index, in the folder `name`. */
export interface MadeIndex {
  name: string;
  manifest: IndexManifest;
}

/** What the vectors of all blocks are made from; an engine may still round them in another way. */
export type VectorSource = Pick<
  IndexManifest,
  'corpusSha256' | 'weightsSha256' | 'encoding' | 'rows' | 'dimensions'
>;

export async function vectorSource(model: Model, corpus: Corpus, config: Config): Promise<VectorSource> {
  return {
    corpusSha256: corpus.sha256,
    weightsSha256: await towerFingerprint(model),
    encoding: encodingOf(corpus, model, config),
    rows: corpus.blocks,
    dimensions: vectorLength(config.model),
  };
}

/** Properties by which an existing index is equivalent. */
type Wanted = VectorSource &
  Pick<IndexManifest, 'dtype' | 'm' | 'efConstruction'> & {
    /** Number of graphs. */
    graphs: number;
  };

/** Properties that must be equal for vectors to be copied from an index. */
const SAME_VECTORS = ['weightsSha256', 'encoding', 'dimensions'] as const;

/**
 * Embeds every block with the model's document tower, builds the index and publishes it as the run's current one:
 * all of `build-index`, and of one refresh in the child process. If such an index exists already, it is published
 * unchanged; if an index of another corpus with the same weights exists, the vectors of the common blocks are copied.
 * Waits while another process builds in `root`.
 * @param name folder under `root`, such as `step-000500`; an existing index keeps its name
 */
export async function makeIndex(
  root: string,
  name: string,
  source: IndexSource,
  { onProgress, ...control }: TaskControl & Pick<BuildInput, 'onProgress'> = {},
): Promise<MadeIndex> {
  const { model, corpus, config, step, published, queued } = source;
  const index = shapeOf(config, corpus.blocks);
  const unlock = await lockIndexes(root, control);
  let reuse: Reuse | undefined;
  try {
    clearIndexes(root, name);
    const wanted: Wanted = {
      ...(await vectorSource(model, corpus, config)),
      dtype: index.dtype,
      m: index.m,
      efConstruction: index.efConstruction,
      graphs: graphCount(corpus.blocks, index.subIndexes),
    };
    const existing = indexFolders(root)
      .map(({ name, ...manifest }) => ({ name, manifest }))
      .filter(({ manifest }) => config.index.precision === 'auto' || manifest.precision === 'f32');
    const found = await wholeIndex(root, existing, wanted, control);
    if (found) {
      const manifest = { ...found.manifest, step };
      if (step !== found.manifest.step) {
        // The weights have not changed since: the index is up to date at this step too.
        writeFileAtomic(join(root, found.name, MANIFEST), `${JSON.stringify(manifest, null, 2)}\n`);
      }
      publish(root, found.name);
      return { name: found.name, manifest };
    }
    const similar = existing.find(
      ({ manifest }) =>
        SAME_VECTORS.every((key) => manifest[key] === wanted[key]) &&
        (manifest.precision === 'f32' || hasBf16()),
    );
    reuse =
      similar && !published
        ? await openReuse(join(root, similar.name), similar.manifest, control)
        : undefined;
    const reused = reuse ? await countReused(reuse, corpus, control) : 0;
    const { weightsSha256, encoding } = wanted;
    const made = published ?? (reused === 0 ? queued : undefined);
    // All vectors of an index have one precision. What other processes make is in f32.
    const precision = made
      ? 'f32'
      : (similar?.manifest.precision ?? (await blockPrecision(model, corpus, config, control)));
    const { blockTokens } = config.text;
    const { tokensPerBatch } = config.index;
    const sizes = { blockTokens, tokensPerBatch, precision };
    const manifest = await buildIndex(
      join(root, name),
      {
        embeddings: made ?? ((first) => encodeBlocks(model, corpus, { ...sizes, first, reuse, control })),
        rows: corpus.blocks,
        corpusSha256: corpus.sha256,
        weightsSha256,
        encoding,
        precision,
        step,
        blockHash: corpus.hash,
        reuse: reuse && reused > 0 ? { sha256: reuse.sha256, rows: reused } : undefined,
        onProgress,
        ...control,
      },
      { ...index, dimensions: wanted.dimensions },
    );
    publish(root, name);
    return { name, manifest };
  } finally {
    reuse?.close();
    unlock();
  }
}

/** Graph settings for so many rows; all zero for an exact index, which has no graph. */
function shapeOf({ index }: Config, rows: number): Omit<BuildOptions, 'dimensions'> {
  const { kind, subIndexes, m, efConstruction, efSearch, threads } = index;
  if (kind === 'exact') {
    return { subIndexes: 0, dtype: 'f32', m: 0, efConstruction: 0, efSearch, threads };
  }
  const dtype = dtypeOf(index.dtype, rows);
  return { subIndexes, dtype, m, efConstruction, efSearch, threads };
}

/** The wanted index, if it exists and is undamaged. */
async function wholeIndex(
  root: string,
  existing: readonly MadeIndex[],
  wanted: Wanted,
  control: TaskControl,
): Promise<MadeIndex | undefined> {
  for (const made of existing) {
    const has = { ...made.manifest, graphs: made.manifest.graphs.length };
    if (!(Object.keys(wanted) as (keyof Wanted)[]).every((key) => has[key] === wanted[key])) continue;
    let whole = true;
    for (const digest of digestsOf(made.manifest)) {
      whole &&= await isWhole(join(root, made.name), digest, control);
    }
    if (whole) return made;
  }
  return undefined;
}

/** Blocks counted between two calls of `yieldToEventLoop`. */
const BLOCKS_COUNTED_AT_ONCE = 1 << 16;

async function countReused(reuse: Reuse, corpus: Corpus, control: TaskControl): Promise<number> {
  let count = 0;
  for (let block = 0; block < corpus.blocks; block++) {
    if (reuse.row(corpus.hash(block)) >= 0) count++;
    if (block % BLOCKS_COUNTED_AT_ONCE === 0) await yieldToEventLoop(control);
  }
  return count;
}

/** How blocks become vectors, apart from the weights: see `IndexManifest.encoding`. */
function encodingOf({ tokenizer }: Corpus, { embedder }: Model, { text }: Config): string {
  const { layers, heads, gelu, layerNormEps, projectionLayerNormEps } = embedder;
  const hash = createHash('sha256');
  hash.update(JSON.stringify([text.blockTokens, tokenizer.lowercase, tokenizer.vocabulary]));
  const unusual = unusualSettings(tokenizer);
  if (unusual) hash.update(JSON.stringify(unusual));
  hash.update(JSON.stringify([layers, heads, gelu, layerNormEps, projectionLayerNormEps]));
  if (!isPooler(embedder.pooling) || embedder.normalize) {
    const { pooling, dense, normalize, documentPrefix, sequenceTokens, positions } = embedder;
    hash.update(JSON.stringify([pooling, dense, normalize, documentPrefix, sequenceTokens, positions]));
  }
  return `1-${hash.digest('hex').slice(0, 16)}`;
}

const LOCK_RETRY_MILLISECONDS = 200;

/**
 * Locks `root` for building: two builds at once would write to the same files. It waits, because the child of a killed
 * trainer may still be building for a few seconds.
 * @param patience seconds
 * @returns a function that unlocks
 */
export async function lockIndexes(root: string, control: TaskControl, patience = 60): Promise<() => void> {
  const path = join(root, 'lock');
  const deadline = performance.now() + 1000 * patience;
  for (;;) {
    const lock = tryLock(root, path);
    if (!lock.holder) return lock.release;
    const { pid, host } = lock.holder;
    if (performance.now() > deadline) {
      throw new UserError(
        `${path}: process ${pid} on ${host} is building an index here and has not finished within ${patience} s; wait for it or stop it, then run the same command again`,
      );
    }
    await new Promise((resolve) => setTimeout(resolve, LOCK_RETRY_MILLISECONDS));
    await yieldToEventLoop(control);
  }
}

function tryLock(root: string, path: string) {
  try {
    makeFolder(root);
    return takeLock(path, 'building an index');
  } catch (error) {
    throw explainWrite(path, error);
  }
}

/** Folder of the index made with the weights of step `step`; fine-tuning, which counts its steps from 0 again, has a prefix. */
export function indexName(step: number, stage?: Stage): string {
  return `${stage === 'finetune-qa' ? QA : ''}step-${String(step).padStart(7, '0')}`;
}

const QA = 'finetune-qa-';

/** Whether the index of this name was made with weights of fine-tuning. */
export function isQaIndex(name: string): boolean {
  return name.startsWith(QA);
}

/** SHA-256 of the document tower's values: the weights that an index depends on. */
export async function towerFingerprint(model: Model): Promise<string> {
  const hash = createHash('sha256');
  const shapes = embedderShapes(model.documentTower, model.embedder);
  for (const values of await fetchValues(...shapes.map(({ name }) => model.params.get(name)!))) {
    hash.update(new Uint8Array(values.buffer, values.byteOffset, values.byteLength));
  }
  return hash.digest('hex');
}
