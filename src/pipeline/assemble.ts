import { rmSync } from 'node:fs';
import type { Corpus } from '../corpus/store/reader.ts';
import { engineIdentity } from '../engine.ts';
import type { Model } from '../model/model.ts';
import { type VectorSource, vectorSource } from '../retrieval/ensure-index.ts';
import {
  bestDivision,
  difference,
  listShards,
  readShards,
  type ShardFile,
  shardFolder,
  shardName,
  shardOrigin,
} from '../retrieval/shards.ts';
import type { BuildInput } from '../retrieval/write-index.ts';
import { UserError } from '../system/errors.ts';
import type { Context } from './context.ts';

/** The vectors of a run's blocks that `realm embed` has made. */
export interface RunShards {
  /** Looks for the files when it is called; a `UserError` if some are missing. */
  embeddings: BuildInput['embeddings'];
  /** Removes all shards of these weights. */
  remove(): void;
}

/** The shards of the model's document tower in the run folder. */
export async function runShards({ run, config }: Context, model: Model, corpus: Corpus): Promise<RunShards> {
  const source = await vectorSource(model, corpus, config);
  const folder = shardFolder(run.shards, source);
  return {
    embeddings: (first) => readShards(completeShards(folder, run.dir, source), first),
    remove: () => rmSync(folder, { recursive: true, force: true }),
  };
}

function completeShards(folder: string, run: string, source: VectorSource): ShardFile[] {
  const all = listShards(folder);
  const division = bestDivision(all, source);
  if (division?.missing.length === 0) return division.files;
  const embed = (shard: string) => `"realm embed --run ${run} --shard ${shard}"`;
  const expected = division?.files[0].origin ?? shardOrigin(source, engineIdentity());
  const other = all.find(({ origin }) => difference(origin, expected) !== undefined);
  const unusable = other
    ? `; ${shardName(other.shard)} cannot be used, because it was made with ${difference(other.origin, expected)}`
    : '';
  if (!division)
    throw new UserError(
      `${folder}: has no shards of the current corpus, settings and weights${unusable}; make N of them with ${embed('1/N')} to ${embed('N/N')}`,
    );
  const { missing, of } = division;
  const one = missing.length === 1;
  throw new UserError(
    `${folder}: ${one ? 'shard' : 'shards'} ${ranges(missing)} of ${of} ${one ? 'is' : 'are'} missing${unusable}; ` +
      `make ${one ? 'it' : 'each of them'} with ${embed(`${one ? missing[0] : 'NUMBER'}/${of}`)}`,
  );
}

/** Ascending numbers as `1, 4-7, 9`. */
export function ranges(numbers: readonly number[]): string {
  const runs: [number, number][] = [];
  for (const n of numbers) {
    const last = runs.at(-1);
    if (last && n === last[1] + 1) last[1] = n;
    else runs.push([n, n]);
  }
  return runs.map(([a, b]) => (a === b ? a : b === a + 1 ? `${a}, ${b}` : `${a}-${b}`)).join(', ');
}
