import { randomUUID } from 'node:crypto';
import { existsSync, readdirSync, renameSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { z } from 'zod';
import { UserError } from '../system/errors.ts';
import { explainWrite, sha256File } from '../system/files.ts';
import { VERSION } from '../system/version.ts';
import { readSafetensors, writeSafetensors } from '../weights/safetensors.ts';
import { PIECE_BLOCKS } from './encode-blocks.ts';
import type { VectorSource } from './ensure-index.ts';
import { digestFile, type TaskControl, yieldToEventLoop } from './task-control.ts';

// Shards: the vectors of a part of the blocks, which any number of processes and machines may make at once. One file holds
// one shard, `3-of-8-SHA256.safetensors`: its vectors [n, P], and in the metadata what they were made from. The name says
// the SHA-256 of the file. So a file under its final name is complete, to make a shard twice gives the same file, and where
// two machines round in other ways there are two files, each of them right.

/** Part `number`, from 1, of `of` parts. */
export interface Shard {
  number: number;
  of: number;
}

export const shardName = ({ number, of }: Shard) => `${number}/${of}`;

/** First block of a shard, and the block after its last: whole pieces, so that no vector depends on how the blocks are divided. */
export function shardRange({ number, of }: Shard, blocks: number): { first: number; end: number } {
  const pieces = Math.ceil(blocks / PIECE_BLOCKS);
  const edge = (i: number) => Math.min(blocks, Math.floor((i * pieces) / of) * PIECE_BLOCKS);
  return { first: edge(number - 1), end: edge(number) };
}

/** What the vectors of a shard were made from and by. */
export interface ShardOrigin extends VectorSource {
  /** Version of realm. */
  version: string;
  /** `engineIdentity`. */
  engine: string;
  dtype: 'f32';
}

/** The origin of a shard that this process makes. @param engine `engineIdentity` */
export function shardOrigin(source: VectorSource, engine: string): ShardOrigin {
  return { ...source, version: VERSION, engine, dtype: 'f32' };
}

const metadataSchema = z.object({
  corpusSha256: z.string(),
  weightsSha256: z.string(),
  encoding: z.string(),
  rows: z.int(),
  dimensions: z.int(),
  version: z.string(),
  engine: z.string(),
  dtype: z.literal('f32'),
});

/** A complete file of a shard. */
export interface ShardFile {
  shard: Shard;
  path: string;
  sha256: string;
  origin: ShardOrigin;
}

const NAME = /^(\d+)-of-(\d+)-([0-9a-f]{64})\.safetensors$/;
const TENSOR = 'embeddings';

/** The folder in `root` with the shards of these weights. */
export function shardFolder(root: string, { weightsSha256 }: Pick<VectorSource, 'weightsSha256'>): string {
  return join(root, weightsSha256.slice(0, 16));
}

/** What is the first difference between two origins, in words; undefined if vectors of the two may be in one index. */
export function difference(a: ShardOrigin, b: ShardOrigin): string | undefined {
  if (a.corpusSha256 !== b.corpusSha256) return 'another corpus';
  if (a.weightsSha256 !== b.weightsSha256) return 'other weights';
  if (a.encoding !== b.encoding || a.rows !== b.rows || a.dimensions !== b.dimensions)
    return 'other settings of text or model';
  if (a.version !== b.version) return `realm ${a.version}, not ${b.version}`;
  if (a.engine !== b.engine) return `the engine ${a.engine}, not ${b.engine}`;
  return undefined;
}

const fileName = ({ number, of }: Shard, sha256: string) => `${number}-of-${of}-${sha256}.safetensors`;

/** The shards in a folder by their names and headers; their vectors are not read. Files that are damaged are left out. */
export function listShards(folder: string, only?: Shard): ShardFile[] {
  if (!existsSync(folder)) return [];
  const start = only ? `${only.number}-of-${only.of}-` : '';
  return readdirSync(folder)
    .filter((name) => name.startsWith(start))
    .sort()
    .flatMap((name) => readHeader(folder, name) ?? []);
}

function readHeader(folder: string, name: string): ShardFile | undefined {
  const [, number, of, sha256] = NAME.exec(name) ?? [];
  if (sha256 === undefined) return undefined;
  const path = join(folder, name);
  try {
    const file = readSafetensors(path);
    file.close();
    const origin = metadataSchema.parse(JSON.parse(file.metadata.shard));
    const shard = { number: Number(number), of: Number(of) };
    const { first, end } = shardRange(shard, origin.rows);
    const shape = file.tensors.get(TENSOR)?.shape;
    if (shape?.join() !== [end - first, origin.dimensions].join()) return undefined;
    return { shard, path, sha256, origin };
  } catch {
    return undefined;
  }
}

/**
 * A complete and undamaged file of a shard of this origin, if there is one.
 * @param sha256 where it is known, the file is opened by its name: a file server may list new files later
 */
export async function findShard(
  folder: string,
  shard: Shard,
  origin: ShardOrigin,
  control: TaskControl = {},
  sha256?: string,
): Promise<ShardFile | undefined> {
  const named = sha256 === undefined ? undefined : readHeader(folder, fileName(shard, sha256));
  for (const found of named ? [named] : listShards(folder, shard)) {
    if (difference(found.origin, origin) === undefined && (await isUndamaged(found, control))) return found;
  }
  return undefined;
}

async function isUndamaged({ path, sha256 }: ShardFile, control: TaskControl): Promise<boolean> {
  return (await digestFile(path, control)).sha256 === sha256;
}

/**
 * Writes a shard under another name, reads it back, and renames it. Any number of processes may write the same one at once.
 * @param pieces its vectors in order, any whole number of rows each
 */
export async function writeShard(
  folder: string,
  shard: Shard,
  origin: ShardOrigin,
  pieces: AsyncIterable<Float32Array>,
): Promise<ShardFile> {
  const { first, end } = shardRange(shard, origin.rows);
  // Not the process id: on other machines, and in containers, other processes have the same one.
  const aside = join(folder, `${randomUUID()}.part`);
  try {
    const { sha256 } = await writeSafetensors(
      aside,
      [{ name: TENSOR, shape: [end - first, origin.dimensions], pieces }],
      { shard: JSON.stringify(origin) },
    );
    if (sha256File(aside) !== sha256)
      throw new UserError(
        `${folder}: a file that was just written reads back with other content; check the disk or file server`,
      );
    const path = join(folder, fileName(shard, sha256));
    renameSync(aside, path);
    return { shard, path, sha256, origin };
  } catch (error) {
    rmSync(aside, { force: true });
    throw explainWrite(folder, error);
  }
}

/** Shards of one division of the blocks that may be in one index, in order, and the numbers of those that are not there. */
export interface Division {
  of: number;
  files: ShardFile[];
  missing: number[];
}

/**
 * The most complete division of the blocks in a folder among shards of this source that agree in version and engine;
 * undefined if there are no such shards.
 */
export function bestDivision(files: readonly ShardFile[], source: VectorSource): Division | undefined {
  const divisions = new Map<string, Map<number, ShardFile>>();
  for (const file of files) {
    const { version, engine, dtype } = file.origin;
    if (difference({ ...source, version, engine, dtype }, file.origin) !== undefined) continue;
    const key = JSON.stringify([file.shard.of, version, engine]);
    if (!divisions.has(key)) divisions.set(key, new Map());
    divisions.get(key)!.set(file.shard.number, file);
  }
  return [...divisions.values()]
    .map((byNumber): Division => {
      const { of } = byNumber.values().next().value!.shard;
      const numbers = Array.from({ length: of }, (_, i) => i + 1);
      return {
        of,
        files: numbers.flatMap((number) => byNumber.get(number) ?? []),
        missing: numbers.filter((number) => !byNumber.has(number)),
      };
    })
    .sort((a, b) => a.missing.length / a.of - b.missing.length / b.of)[0];
}

/** Rows of a shard given at a time. */
const ROWS_AT_ONCE = 1 << 12;

/**
 * The vectors of complete shards from block `first` on. Each file is compared with its SHA-256 before a row of it is given;
 * a damaged one is a `UserError`.
 */
export async function* readShards(
  files: readonly ShardFile[],
  first: number,
  control: TaskControl = {},
): AsyncGenerator<Float32Array> {
  for (const file of files) {
    if (!(await isUndamaged(file, control)))
      throw new UserError(
        `${file.path}: is damaged, its SHA-256 is not the one in its name; remove it and make it again with "realm embed --shard ${shardName(file.shard)}"`,
      );
    yield* shardRows(file, first, control);
  }
}

/** The vectors of a shard from block `first` on, which may be after it. */
export async function* shardRows(
  { path, shard, origin }: ShardFile,
  first: number,
  control: TaskControl = {},
): AsyncGenerator<Float32Array> {
  const range = shardRange(shard, origin.rows);
  const { tensors, close } = readSafetensors(path);
  try {
    const embeddings = tensors.get(TENSOR)!;
    const P = origin.dimensions;
    for (let row = Math.max(first, range.first); row < range.end; row += ROWS_AT_ONCE) {
      const end = Math.min(row + ROWS_AT_ONCE, range.end);
      yield embeddings.read((row - range.first) * P, (end - range.first) * P);
      await yieldToEventLoop(control);
    }
  } finally {
    close();
  }
}
