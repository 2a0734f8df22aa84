import { join } from 'node:path';
import { loadConfig } from '../../src/config.ts';
import { openCorpus } from '../../src/corpus/store/reader.ts';
import { engineIdentity, startEngine } from '../../src/engine.ts';
import { embedderShapes } from '../../src/model/embedder.ts';
import { describeModel } from '../../src/model/model.ts';
import { queuedEmbeddings, shardCount } from '../../src/queue/hand-out.ts';
import { encodeBlocks } from '../../src/retrieval/encode-blocks.ts';
import { makeIndex, vectorSource } from '../../src/retrieval/ensure-index.ts';
import { shardOrigin } from '../../src/retrieval/shards.ts';
import { runFolder } from '../../src/run/folder.ts';
import { loadWeights } from '../../src/weights/checkpoint.ts';

// CHILD-PROCESS ENTRY. Makes the index of a snapshot by the queue, as the refresher does, with other times, and perhaps as
// another version of realm. Its arguments as JSON:

const { dir, snapshot, url, engine, times, version } = JSON.parse(process.argv[2]) as {
  dir: string;
  snapshot: string;
  url: string;
  engine: string;
  times: { poll: number; patience: number };
  version?: string;
};
await startEngine(engine as 'auto');
const run = runFolder(dir);
const config = loadConfig(run.config, []);
const corpus = openCorpus(run.corpus);
const model = describeModel(config.model, corpus.tokenizer.size);
loadWeights(join(run.snapshots, snapshot), model, embedderShapes(model.documentTower, model.embedder), '');
const source = await vectorSource(model, corpus, config);
const origin = { ...shardOrigin(source, engineIdentity()), ...(version && { version }) };
const { blockTokens } = config.text;
const { tokensPerBatch } = config.index;
const handOut = {
  url: new URL(url),
  run,
  snapshot,
  origin,
  shards: shardCount(corpus.blocks, config.refresh.shards),
  embed: (first: number, end: number) =>
    encodeBlocks(model, corpus, { blockTokens, tokensPerBatch, first, end }),
  say: (sentence: string) => process.stderr.write(`${sentence}\n`),
};
await makeIndex(run.index, snapshot, {
  model,
  corpus,
  config,
  step: 1,
  queued: (first) => queuedEmbeddings(handOut, first, {}, times),
});
