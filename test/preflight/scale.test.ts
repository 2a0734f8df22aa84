import assert from 'node:assert/strict';
import { test } from 'node:test';
import { loadConfig } from '../../src/config.ts';
import { preflightInput, preflightLines } from '../../src/pipeline/preflight.ts';
import { preflight } from '../../src/preflight/needs.ts';
import { DOUBLING, scaledCores, scaledIndex, scaledStages } from '../../src/preflight/scale.ts';
import type { Counts } from '../../src/preflight/types.ts';
import { MACHINE, WIKIPEDIA } from '../support/preflight.ts';

/** 21 million passages of 100 words. */
const COUNTS: Counts = {
  ...WIKIPEDIA,
  documents: 5_000_000,
  blocks: 21_000_000,
  body: { mean: 130, max: 200 },
  blockBytes: 600,
  blockSentences: 4,
};
const config = loadConfig('nq', []);
const near = (actual: number, expected: number, share: number) =>
  assert.ok(Math.abs(actual / expected - 1) <= share, `${actual}, expected about ${expected}`);

test('workers divide the embedding; the shared folder and the graph stay', () => {
  const one = scaledIndex(config, COUNTS, MACHINE, 1);
  near(
    one.embedding + one.graph,
    preflight(config, COUNTS, MACHINE).stages.find((s) => s.stage === 'build-index')!.seconds,
    1e-9,
  );
  // By hand: 12 layers of 7.08 M weights, twice a token, at 100 GFLOPS, for 137 tokens of 21 M blocks; and some for attention.
  near(one.embedding, (2 * 85e6 * 137 * 21e6) / 100e9, 0.25);
  // The vectors twice, 128 floats a block, and 110 M weights once.
  near(one.folder, (2 * 21e6 * 128 * 4 + 4 * 109.6e6) / 500e6, 1e-2);
  assert.equal(one.limit, 'compute');
  const many = scaledIndex(config, COUNTS, MACHINE, 64);
  near(many.embedding, one.embedding / 64, 1e-9);
  assert.equal(many.graph, one.graph);
  near(many.seconds, many.embedding + many.folder + many.graph, 1e-9);
  assert.equal(scaledIndex(config, COUNTS, MACHINE, 100_000).limit, 'disk');
});

test('ranks divide a step and pay for the sum; a batch that cannot be shared has no estimate', () => {
  const stage = (ranks: number, of = config) => scaledStages(of, COUNTS, MACHINE, ranks)[1];
  const one = stage(1);
  const wanted = preflight(config, COUNTS, MACHINE).stages.find((s) => s.stage === 'pretrain')!;
  assert.equal(one.stage, 'pretrain');
  near(one.step!, wanted.stepSeconds!, 1e-9);
  assert.equal(one.sum, 0);
  const four = stage(4);
  // 219.8 M gradients of 4 bytes, 3/2 times over 1.25 GB/s, and six copies of each in memory.
  near(four.sum!, (1.5 * 4 * 219.8e6) / 1.25e9 + (24 * 219.8e6) / 25e9, 0.01);
  assert.ok(four.step! < 0.3 * one.step!);
  near(four.seconds!, config.pretrain.steps * four.step!, 1e-9);
  assert.deepEqual(stage(3), { stage: 'pretrain', ranks: 3, limit: 'batch' });
  // On a machine that computes a thousand times faster the network is left.
  const fast = { ...MACHINE, dense: 1e14, attention: 1e14, elementwise: 1e13, kernel: 1e-9 };
  assert.equal(scaledStages(config, COUNTS, fast, 16)[1].limit, 'network');
  const contrastive = { ...config, qa: { ...config.qa, contrastive: 1 } };
  assert.equal(scaledStages(contrastive, COUNTS, MACHINE, 2)[2].limit, 'batch');
});

test('each doubling of the cores is as much faster as the second core, prepare up to eight; stages without steps are left out', () => {
  const own = { ...config, pretrain: { ...config.pretrain, steps: 0 } };
  const { stages } = preflight(own, COUNTS, MACHINE);
  const secondsOf = (cores: number, name: string) =>
    scaledCores(stages, 2, cores).stages.find(({ stage }) => stage === name)?.seconds;
  for (const name of ['ict-warmup', 'build-index', 'finetune-qa']) {
    const here = secondsOf(2, name)!;
    near(here, stages.find(({ stage }) => stage === name)!.seconds, 1e-9);
    near(secondsOf(8, name)!, here / DOUBLING ** 2, 1e-9);
    near(secondsOf(32, name)!, here / DOUBLING ** 4, 1e-9);
  }
  assert.equal(secondsOf(32, 'prepare'), secondsOf(8, 'prepare'));
  assert.equal(secondsOf(8, 'pretrain'), undefined);
  const { seconds, stages: on8 } = scaledCores(stages, 2, 8);
  near(
    seconds,
    on8.reduce((sum, s) => sum + s.seconds, 0),
    1e-9,
  );
});

test('the warm-up of the reader has its row where it has steps', () => {
  const stagesOf = (steps: number) =>
    scaledStages({ ...config, readerWarmup: { ...config.readerWarmup, steps } }, COUNTS, MACHINE, 2).map(
      ({ stage }) => stage,
    );
  assert.deepEqual(stagesOf(0), ['ict-warmup', 'pretrain', 'finetune-qa']);
  assert.deepEqual(stagesOf(600), ['ict-warmup', 'reader-warmup', 'pretrain', 'finetune-qa']);
});

test('the data can be a sample of a larger corpus, and the lines show both tables', async () => {
  const options = { config: 'world', set: [] };
  const { config, census } = await preflightInput(options);
  const { census: larger } = await preflightInput({ ...options, blocks: 10 * census.counts.blocks });
  assert.equal(larger.counts.blocks, 10 * census.counts.blocks);
  assert.equal(larger.counts.sentences, 10 * census.counts.sentences);
  assert.deepEqual(larger.counts.body, census.counts.body);
  assert.match(larger.source, /as a sample of 5,000 blocks$/);
  const scaled = {
    indexes: [scaledIndex(config, larger.counts, MACHINE, 8)],
    stages: scaledStages(config, larger.counts, MACHINE, 3),
  };
  const lines = preflightLines({
    ...preflight(config, larger.counts, MACHINE),
    ...larger,
    machine: MACHINE,
    scaled,
    byCores: [8, 32].map((n) => scaledCores(preflight(config, larger.counts, MACHINE).stages, 2, n)),
  }).join('\n');
  assert.match(lines, /^ {2}8 .* (compute|graph|disk)$/m);
  assert.match(lines, /^ {2}ict-warmup +3 +- +- +- +batch$/m); // 64 examples
  assert.match(lines, /^ {2}finetune-qa +3 +[\d.]+ +[\d.]+ .* (compute|network)$/m); // 12 questions
  assert.match(lines, /^ {2}cores +8 +32$/m);
  assert.match(lines, /^ {2}pretrain( +[\d.]+ (s|min|h|days)){2}$/m);
  assert.match(lines, /^Assumes {3}network: 10 Gbit/m);
});
