import { join } from 'node:path';
import { openCorpus } from '../../src/corpus/store/reader.ts';
import { retrieverShapes } from '../../src/model/model.ts';
import type { Context } from '../../src/pipeline/context.ts';
import { prepareCorpus } from '../../src/pipeline/prepare.ts';
import { runConfig, runFolder } from '../../src/run/folder.ts';
import { generateWorld, writeWorld } from '../../src/world/world.ts';
import { startTestEngine } from './engine.ts';
import { TINY } from './tiny.ts';
import { leaveUntrained } from './untrained.ts';

/**
 * A run in `folder`/run with random weights of the warm-up and no index. Its documents make three pieces of blocks,
 * which can be divided into shards.
 */
export async function retrieverRun(folder: string, ...more: string[]): Promise<Context> {
  const { name: engine } = await startTestEngine();
  const world = generateWorld({ seed: 1, documents: 1300, heldOut: 0.2 });
  writeWorld(world, folder);
  const run = runFolder(join(folder, 'run'));
  const set = [...TINY, `data.documents=${join(folder, 'documents.jsonl')}`, 'index.threads=1', ...more];
  const context = { run, config: runConfig(run, { set }), engine };
  await prepareCorpus(run, context.config);
  const corpus = openCorpus(run.corpus);
  await leaveUntrained(context, corpus, 'ict-warmup', retrieverShapes);
  corpus.close();
  return context;
}
