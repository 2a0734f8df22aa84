import type { Command } from 'commander';
import type { CommonOptions } from '../pipeline/context.ts';
import type { EmbeddedShard } from '../pipeline/embed.ts';
import { GROUPS } from './help.ts';
import { atLeastOne, examples, runOptions } from './options.ts';
import { print } from './print.ts';

interface EmbedOptions extends CommonOptions {
  shard?: string;
  shards?: number;
  snapshot?: string;
}

export function registerEmbed(program: Command): void {
  const command = program
    .command('embed')
    .helpGroup(GROUPS.train)
    .description(
      'Embed one shard of the blocks, on any machine; build-index --assemble makes the index of them',
    )
    .option(
      '--shard <i/N>',
      'which one of how many, from 1 (default: the task of a Slurm array, the index of a Kubernetes job)',
    )
    .option('--shards <N>', 'how many there are, for a task that knows only its number', atLeastOne)
    .option(
      '--snapshot <name>',
      'retriever: initial, a stage, or a folder in snapshots/ (default: as build-index)',
    );
  runOptions(command);
  examples(command, 'embed --run runs/mine --shard 3/8', 'embed --run runs/mine --shards 64');
  command.action(async (options: EmbedOptions) => {
    const { openRun } = await import('../pipeline/context.ts');
    const { embedShard } = await import('../pipeline/embed.ts');
    const { whichShard } = await import('../pipeline/which-shard.ts');
    const shard = whichShard(options);
    const done = await embedShard(await openRun(options), shard, options.snapshot);
    print(options, done, shardLines(done));
  });
}

function shardLines({ shard, of, first, blocks, path, sha256, embedded }: EmbeddedShard): string[] {
  const range = blocks === 0 ? 'none, there are more shards than parts' : `${first} to ${first + blocks - 1}`;
  return [
    `shard    ${shard} of ${of}${embedded ? '' : ', was there already'}`,
    `blocks   ${range}`,
    `file     ${path}`,
    `SHA-256  ${sha256}`,
  ];
}
