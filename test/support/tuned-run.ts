import { join } from 'node:path';
import { openCorpus } from '../../src/corpus/store/reader.ts';
import type { Shape } from '../../src/model/bert.ts';
import { type Model, modelShapes, pretrainedShapes, retrieverShapes } from '../../src/model/model.ts';
import { buildRunIndex } from '../../src/pipeline/build-index.ts';
import type { Context } from '../../src/pipeline/context.ts';
import { prepareCorpus } from '../../src/pipeline/prepare.ts';
import { runConfig, runFolder } from '../../src/run/folder.ts';
import type { Stage } from '../../src/run/stages.ts';
import { generateWorld, type World, writeWorld } from '../../src/world/world.ts';
import { startTestEngine } from './engine.ts';
import { TINY } from './tiny.ts';
import { leaveUntrained } from './untrained.ts';

const LEFT: [Stage, (model: Model) => Shape[]][] = [
  ['ict-warmup', retrieverShapes],
  ['pretrain', pretrainedShapes],
  ['finetune-qa', modelShapes],
  ['closed-book', pretrainedShapes],
];

/**
 * A run in `folder`/run with weights of every stage, the index of pretraining's weights, and its world. No stage is trained:
 * each has its own large random weights, with which results differ much from text to text.
 */
export async function tunedRun(
  folder: string,
  ...more: string[]
): Promise<{ context: Context; world: World }> {
  const { name: engine } = await startTestEngine();
  const world = generateWorld({ seed: 1, documents: 40, heldOut: 0.2 });
  writeWorld(world, folder);
  const run = runFolder(join(folder, 'run'));
  const set = [
    ...TINY,
    `data.documents=${join(folder, 'documents.jsonl')}`,
    `data.train=${join(folder, 'questions.train.jsonl')}`,
    `data.test=${join(folder, 'questions.test.jsonl')}`,
    'model.temperature=2',
    'qa={readerBlocks: 3, readerTokens: 104}',
    ...more,
  ];
  const context = { run, config: runConfig(run, { set }), engine };
  await prepareCorpus(run, context.config);
  const corpus = openCorpus(run.corpus);
  for (const [seed, [stage, shapesOf]] of LEFT.entries()) {
    await leaveUntrained(context, corpus, stage, shapesOf, seed);
  }
  corpus.close();
  await buildRunIndex(context);
  return { context, world };
}
