import { rmSync } from 'node:fs';
import type { Config } from '../config.ts';
import type { Corpus } from '../corpus/store/reader.ts';
import { engineIdentity } from '../engine.ts';
import type { Model } from '../model/model.ts';
import { encodeBlocks } from '../retrieval/encode-blocks.ts';
import { vectorSource } from '../retrieval/ensure-index.ts';
import { shardFolder, shardOrigin } from '../retrieval/shards.ts';
import type { TaskControl } from '../retrieval/task-control.ts';
import type { BuildInput } from '../retrieval/write-index.ts';
import type { Run } from '../run/folder.ts';
import { queueAddress } from './address.ts';
import { queuedEmbeddings, shardCount } from './hand-out.ts';

/** A model whose vectors workers make. */
export interface Queued {
  /** Address of the server. */
  queue: string;
  run: Run;
  config: Config;
  corpus: Corpus;
  model: Model;
  /** Folder in `run.snapshots` with its weights. */
  snapshot: string;
  /** Prints one sentence for the user. */
  say(sentence: string): void;
}

export interface EmbeddingsByQueue {
  embeddings: BuildInput['embeddings'];
  /** Removes the files of the shards, once the index is published. */
  remove(): void;
}

/** The vectors of the blocks, by workers; see `queuedEmbeddings`. */
export async function embeddingsByQueue(
  { queue, run, config, corpus, model, snapshot, say }: Queued,
  control: TaskControl = {},
): Promise<EmbeddingsByQueue> {
  const url = queueAddress(queue);
  const source = await vectorSource(model, corpus, config);
  const origin = shardOrigin(source, engineIdentity());
  const { blockTokens } = config.text;
  const { tokensPerBatch } = config.index;
  const embed = (first: number, end: number) =>
    encodeBlocks(model, corpus, { blockTokens, tokensPerBatch, first, end, control });
  const shards = shardCount(corpus.blocks, config.refresh.shards);
  return {
    embeddings: (first) =>
      queuedEmbeddings({ url, run, snapshot, origin, shards, embed, say }, first, control),
    remove: () => rmSync(shardFolder(run.shards, source), { recursive: true, force: true }),
  };
}
