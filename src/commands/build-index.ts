import type { Command } from 'commander';
import type { CommonOptions, Context } from '../pipeline/context.ts';
import type { IndexManifest } from '../retrieval/manifest.ts';
import { RETRIEVER_SOURCES, type RetrieverSource } from '../run/stages.ts';
import { GROUPS } from './help.ts';
import {
  examples,
  queueOption,
  renamedOption,
  runOptions,
  settingsOptions,
  stageOption,
  yesOption,
} from './options.ts';
import { print, printNext } from './print.ts';

interface BuildOptions extends CommonOptions {
  stage?: RetrieverSource;
  assemble: boolean;
  yes: boolean;
}

export function registerBuildIndex(program: Command): void {
  const command = program
    .command('build-index')
    .helpGroup(GROUPS.train)
    .description('Embed all blocks and build the index for maximum inner product search');
  stageOption(
    command,
    'stage whose retriever to use; initial: the encoder as it was published (default: the newest)',
    RETRIEVER_SOURCES,
  );
  command.option('--assemble', 'take the vectors from the shards that "realm embed" has made', false);
  queueOption(command);
  renamedOption(command, '--from', '--stage');
  runOptions(settingsOptions(yesOption(command)));
  examples(
    command,
    'build-index --run runs/mine',
    'build-index --run runs/mine --stage ict-warmup',
    'build-index --run runs/mine --assemble',
  );
  command.action(async (options: BuildOptions) => {
    const { openRunForWork } = await import('../pipeline/context.ts');
    const { buildRunIndex } = await import('../pipeline/build-index.ts');
    const { checkNeeds } = await import('../pipeline/gate.ts');
    const needs =
      options.yes || options.assemble ? undefined : (context: Context) => checkNeeds(context, 'build-index');
    const context = await openRunForWork(options, 'build-index', { needs });
    const manifest = await buildRunIndex(context, options.stage, options.assemble);
    print(options, manifest, manifestLines(manifest));
    const { latestState } = await import('../train/checkpoints.ts');
    const later = (['finetune-qa', 'pretrain'] as const).find((s) => latestState(context.run.checkpoint(s)));
    await printNext(context, later ?? 'build-index');
  });
}

function manifestLines({ rows, reused, recall10, graphs, dtype }: IndexManifest): string[] {
  const blocks = `blocks             ${rows}${reused > 0 ? `, ${reused} with vectors of an earlier index` : ''}`;
  if (!recall10) return [blocks, 'search             exact, without a graph'];
  const bytes = graphs.reduce((sum, graph) => sum + graph.bytes, 0);
  const count = graphs.length > 1 ? `${graphs.length} graphs` : 'graph';
  return [
    blocks,
    `recall@10 of exact ${recall10.value.toFixed(3)} (${recall10.probes} probes)`,
    `${count.padEnd(19)}${dtype}, ${(bytes / 2 ** 20).toFixed(1)} MiB`,
  ];
}
