// Embeds all blocks of a corpus in a separate process, for prepare.ts: `embed-one.ts CORPUS` prints `Embedded`.
import { loadConfig } from '../src/config.ts';
import { openCorpus } from '../src/corpus/store/reader.ts';
import { startEngine } from '../src/engine.ts';
import { vectorLength } from '../src/model/head.ts';
import { describeModel, initialise, retrieverShapes } from '../src/model/model.ts';
import { random } from '../src/random.ts';
import { encodeBlocks } from '../src/retrieval/encode-blocks.ts';

export interface Embedded {
  blocks: number;
  seconds: number;
  /** Peak resident bytes. */
  peak: number;
}

/** A model so small that two million passages take minutes: it shows whether memory grows with the corpus. */
const SETTINGS = ['layers=1', 'hidden=64', 'heads=2', 'intermediate=256', 'dropout=0'];

await startEngine('auto', {});
const corpus = openCorpus(process.argv[2]);
const config = loadConfig(
  undefined,
  SETTINGS.map((setting) => `model.${setting}`),
);
const model = describeModel(config.model, corpus.tokenizer.vocabulary.length);
initialise(model, retrieverShapes(model), random(1));
const startTime = performance.now();
let blocks = 0;
const { blockTokens } = config.text;
const { tokensPerBatch } = config.index;
for await (const vectors of encodeBlocks(model, corpus, { blockTokens, tokensPerBatch })) {
  blocks += vectors.length / vectorLength(config.model);
}
const embedded: Embedded = {
  blocks,
  seconds: (performance.now() - startTime) / 1000,
  peak: process.resourceUsage().maxRSS * 1024,
};
console.log(JSON.stringify(embedded));
