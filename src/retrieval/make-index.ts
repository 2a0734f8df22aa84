import { createHash } from 'node:crypto';
import { join } from 'node:path';
import type { Config } from '../config.ts';
import type { Corpus } from '../corpus/store.ts';
import { embedderShapes } from '../model/embedder.ts';
import type { Model } from '../model/model.ts';
import { read } from '../model/read.ts';
import { encodeBlocks } from './encode-blocks.ts';
import { buildIndex, type IndexManifest, publish } from './search.ts';

/**
 * Embeds every block with the model's document tower, builds the index and publishes it as the run's current one:
 * the whole of `build-index`, and of one refresh in the child process.
 * @param name folder under `root`, such as `step-000500`
 */
export async function makeIndex(
  root: string,
  name: string,
  model: Model,
  corpus: Corpus,
  config: Config,
  step: number,
  onProgress?: (done: number, total: number) => void,
  signal?: AbortSignal,
): Promise<IndexManifest> {
  const { text, index } = config;
  // Embedding and adding take turns piece by piece, so the bar moves with the slower of the two.
  const embeddings = encodeBlocks(model, corpus, text.blockTokens, index.tokensPerBatch, (done) =>
    onProgress?.(done, corpus.blocks),
  );
  const manifest = await buildIndex(
    join(root, name),
    {
      embeddings,
      rows: corpus.blocks,
      corpusSha256: corpus.sha256,
      weightsSha256: await towerFingerprint(model),
      step,
      signal,
    },
    { ...index, dimensions: config.model.projection },
  );
  publish(root, name, config.refresh.keepIndexes);
  return manifest;
}

/** Folder of the index that step `step`'s weights make. */
export function indexName(step: number): string {
  return `step-${String(step).padStart(7, '0')}`;
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
