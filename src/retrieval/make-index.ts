import { createHash } from 'node:crypto';
import { join } from 'node:path';
import type { Config } from '../config.ts';
import type { Corpus } from '../corpus/store.ts';
import { UserError } from '../errors.ts';
import { explainWrite, makeFolder, writeFileAtomic } from '../files.ts';
import { takeLock } from '../lock.ts';
import { embedderShapes } from '../model/embedder.ts';
import type { Model } from '../model/model.ts';
import { read } from '../model/read.ts';
import type { Stage } from '../run.ts';
import { type BuildInput, type BuildOptions, buildIndex } from './build.ts';
import { encodeBlocks } from './encode-blocks.ts';
import { scalarOf } from './graph.ts';
import { graphCount } from './graphs.ts';
import { breathe, type Life } from './life.ts';
import { isWhole, openReuse, type Reuse } from './reuse.ts';
import { clearIndexes, type IndexManifest, indexFolders, MANIFEST, publish, sealsOf } from './search.ts';

/** The index that was published, in the folder `name`. */
export interface MadeIndex {
  name: string;
  manifest: IndexManifest;
}

/** What tells an index from others. */
type Wanted = Pick<
  IndexManifest,
  | 'corpusSha256'
  | 'weightsSha256'
  | 'encoding'
  | 'rows'
  | 'dimensions'
  | 'scalar'
  | 'connectivity'
  | 'expansionAdd'
> & {
  /** How many. */
  graphs: number;
};

/** What tells the vectors in it from others. */
const VECTORS = ['weightsSha256', 'encoding', 'dimensions'] as const;

/**
 * Embeds every block with the model's document tower, builds the index and publishes it as the run's current one:
 * the whole of `build-index`, and of one refresh in the child process. An index that stands already is published as it
 * is; of one that the same weights made of another corpus, the vectors of the blocks that both have are copied.
 * Waits while another process builds in `root`.
 * @param name folder under `root`, such as `step-000500`; an index that stands already keeps its own
 * @param published vectors of the blocks from a row on, as these weights are said to have made them, instead of embedding
 */
export async function makeIndex(
  root: string,
  name: string,
  model: Model,
  corpus: Corpus,
  config: Config,
  step: number,
  onProgress?: (done: number, total: number) => void,
  life: Life = {},
  published?: BuildInput['embeddings'],
): Promise<MadeIndex> {
  const { text } = config;
  const index = shapeOf(config, corpus.blocks);
  const unlock = await lockIndexes(root, life);
  let reuse: Reuse | undefined;
  try {
    clearIndexes(root, name);
    const wanted: Wanted = {
      corpusSha256: corpus.sha256,
      weightsSha256: await towerFingerprint(model),
      encoding: encodingOf(corpus, model, config),
      rows: corpus.blocks,
      dimensions: config.model.projection,
      scalar: index.scalar,
      connectivity: index.connectivity,
      expansionAdd: index.expansionAdd,
      graphs: graphCount(corpus.blocks, index.shards),
    };
    const standing = indexFolders(root).map(({ name, ...manifest }) => ({ name, manifest }));
    const found = await wholeIndex(root, standing, wanted, life);
    if (found) {
      const manifest = { ...found.manifest, step };
      if (step !== found.manifest.step) {
        // These weights have not changed since: the index is as new as the step that asks for it.
        writeFileAtomic(join(root, found.name, MANIFEST), `${JSON.stringify(manifest, null, 2)}\n`);
      }
      publish(root, found.name);
      return { name: found.name, manifest };
    }
    const source = standing.find(({ manifest }) => VECTORS.every((key) => manifest[key] === wanted[key]));
    reuse =
      source && !published ? await openReuse(join(root, source.name), source.manifest, life) : undefined;
    const reused = reuse ? await countReused(reuse, corpus, life) : 0;
    const { weightsSha256, encoding } = wanted;
    const manifest = await buildIndex(
      join(root, name),
      {
        embeddings:
          published ??
          ((first) =>
            encodeBlocks(model, corpus, text.blockTokens, config.index.tokensPerBatch, first, reuse, life)),
        rows: corpus.blocks,
        corpusSha256: corpus.sha256,
        weightsSha256,
        encoding,
        step,
        blockHash: corpus.hash,
        reuse: reuse && reused > 0 ? { sha256: reuse.sha256, rows: reused } : undefined,
        onProgress,
        ...life,
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

/** The settings of the graphs of an index of so many rows: without any, none of them is told of or makes a difference. */
function shapeOf({ index }: Config, rows: number): Omit<BuildOptions, 'dimensions'> {
  const { kind, shards, connectivity, expansionAdd, expansionSearch, threads } = index;
  if (kind === 'exact') {
    return { shards: 0, scalar: 'f32', connectivity: 0, expansionAdd: 0, expansionSearch, threads };
  }
  const scalar = scalarOf(index.scalar, rows);
  return { shards, scalar, connectivity, expansionAdd, expansionSearch, threads };
}

/** The index that is wanted, where it stands undamaged. */
async function wholeIndex(
  root: string,
  standing: readonly MadeIndex[],
  wanted: Wanted,
  life: Life,
): Promise<MadeIndex | undefined> {
  for (const made of standing) {
    const has = { ...made.manifest, graphs: made.manifest.graphs.length };
    if (!(Object.keys(wanted) as (keyof Wanted)[]).every((key) => has[key] === wanted[key])) continue;
    let whole = true;
    for (const seal of sealsOf(made.manifest)) {
      whole &&= await isWhole(join(root, made.name), seal, life);
    }
    if (whole) return made;
  }
  return undefined;
}

/** Blocks counted between two breaths. */
const COUNTED_AT_ONCE = 1 << 16;

async function countReused(reuse: Reuse, corpus: Corpus, life: Life): Promise<number> {
  let count = 0;
  for (let block = 0; block < corpus.blocks; block++) {
    if (reuse.row(corpus.hash(block)) >= 0) count++;
    if (block % COUNTED_AT_ONCE === 0) await breathe(life);
  }
  return count;
}

/** How blocks become vectors, apart from the weights: see `IndexManifest.encoding`. */
function encodingOf({ tokenizer }: Corpus, { embedder }: Model, { text }: Config): string {
  const { layers, heads, gelu, layerNormEps, projectionLayerNormEps } = embedder;
  const hash = createHash('sha256');
  hash.update(JSON.stringify([text.blockTokens, tokenizer.lowercase, tokenizer.vocabulary]));
  hash.update(JSON.stringify([layers, heads, gelu, layerNormEps, projectionLayerNormEps]));
  return `1-${hash.digest('hex').slice(0, 16)}`;
}

/** Milliseconds between two looks at a lock that is held. */
const LOOK_EVERY = 200;

/**
 * Takes the right to build in `root`: two at once would write to the same files. The child of a trainer that was killed
 * may still be at it and ends within seconds, so that is waited for.
 * @param patience seconds
 * @returns gives it back
 */
export async function lockIndexes(root: string, life: Life, patience = 60): Promise<() => void> {
  const path = join(root, 'lock');
  const deadline = performance.now() + 1000 * patience;
  for (;;) {
    const lock = tryLock(root, path);
    if (!lock.holder) return lock.release;
    const { pid, host } = lock.holder;
    if (performance.now() > deadline) {
      throw new UserError(
        `${path}: process ${pid} on ${host} builds an index here and has not ended in ${patience} s; wait for it or end it, then run the same command again`,
      );
    }
    await new Promise((resolve) => setTimeout(resolve, LOOK_EVERY));
    await breathe(life);
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

/** Folder of the index that step `step`'s weights make: fine-tuning counts its steps anew. */
export function indexName(step: number, stage?: Stage): string {
  return `${stage === 'qa' ? QA : ''}step-${String(step).padStart(7, '0')}`;
}

const QA = 'qa-';

/** Whether fine-tuning's weights made the index of this name. */
export function isQaIndex(name: string): boolean {
  return name.startsWith(QA);
}

/** SHA-256 over the document tower's values: tells whether an index was made by these weights. */
export async function towerFingerprint(model: Model): Promise<string> {
  const hash = createHash('sha256');
  const shapes = embedderShapes(model.documentTower, model.embedder);
  for (const values of await read(...shapes.map(({ name }) => model.params.get(name)!))) {
    hash.update(new Uint8Array(values.buffer, values.byteOffset, values.byteLength));
  }
  return hash.digest('hex');
}
