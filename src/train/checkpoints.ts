import { existsSync, readdirSync, rmSync } from 'node:fs';
import { basename, dirname, join } from 'node:path';
import { z } from 'zod';
import type { Shape } from '../model/bert.ts';
import type { Model } from '../model/model.ts';
import { errorCode, UserError } from '../system/errors.ts';
import {
  type FileDigest,
  isAside,
  readJson,
  readText,
  recoverFolders,
  removeFolder,
  sha256File,
  writeFileAtomic,
  writeFolderAtomic,
} from '../system/files.ts';
import { changedFile } from '../system/verified.ts';
import { saveWeights, WEIGHTS } from '../weights/checkpoint.ts';
import { type TensorToWrite, writeSafetensors } from '../weights/safetensors.ts';

// The checkpoints of one stage: a folder that holds
//   step-0000500/     model.safetensors, optimizer.safetensors, and state.json, written last, with the digests of both
//   latest, best      one line each: the name of a checkpoint
//   before-skipping   the same, if a step was skipped because of an invalid loss: the weights before that step

/** Which checkpoint: by a pointer's name, or by its step. */
export type Which = 'latest' | 'best' | number;

const POINTERS = ['latest', 'best', 'before-skipping'] as const;
type Pointer = (typeof POINTERS)[number];

const STATE = 'state.json';
const OPTIMIZER = 'optimizer.safetensors';

const digest: z.ZodType<FileDigest> = z.object({ bytes: z.int().nonnegative(), sha256: z.string() });
const sums = z.record(z.string(), z.tuple([z.number(), z.number()]));
const metrics = z.record(z.string(), z.number());
const stateSchema = z.object({
  format: z.literal(2),
  /** Steps done. Data order and random numbers follow from it and the seed only (sampler.ts). */
  step: z.int().nonnegative(),
  /** Length of the whole schedule. */
  steps: z.int().nonnegative(),
  /** What the stage read: weights are useless with another vocabulary, and the data order with another corpus. */
  vocabularySha256: z.string(),
  corpusSha256: z.string(),
  /** The settings it was trained with, to find out which have changed since. */
  settings: z.record(z.string(), z.unknown()),
  /** Folder of the index in use, if the stage trains the document tower: in pretraining, and in fine-tuning with refreshes. */
  index: z.string().nullable(),
  /** In fine-tuning: the stage that its retriever comes from, and also its document tower if that is frozen. */
  retriever: z.enum(['initial', 'ict-warmup', 'pretrain']).optional(),
  /** Larger is better; null if it was not measured. */
  score: z.number().nullable(),
  /** Sums and counts of metrics since the last line of metrics, and of the loss since the last checkpoint with a score. */
  averages: sums,
  sinceSave: sums,
  /** The largest loss of the first steps; a later loss that is many times larger counts as exploded. */
  firstLoss: z.number(),
  /** Steps skipped since the start of the stage. */
  skipped: z.int().nonnegative(),
  /** Metrics on dev questions before the first step and after the last, and the fingerprint of these questions. */
  evaluated: z.object({ sha256: z.string(), start: metrics.optional(), end: metrics.optional() }).optional(),
  files: z.strictObject({ [WEIGHTS]: digest, [OPTIMIZER]: digest }),
});

/** Everything except weights and moments that the next process needs to resume the stage exactly. */
export type State = z.infer<typeof stateSchema>;

export interface Checkpoint {
  dir: string;
  state: State;
  weights: string;
  optimizer: string;
}

function nameOf(step: number): string {
  return `step-${String(step).padStart(7, '0')}`;
}

const NAME = /^step-\d{7,}$/;

/** The contents of a checkpoint. */
interface Contents {
  model: Model;
  shapes: readonly Shape[];
  /** The optimizer's; none for imported weights. */
  moments: readonly TensorToWrite[];
  state: Omit<State, 'format' | 'files'>;
}

/**
 * Writes a checkpoint and points `latest` to it (and `best` if its score is the best so far), then removes all but
 * the newest `keep` and those pointed to. The files are read back and compared before the checkpoint gets its name.
 * @param as `before-skipping` sets only that pointer; a checkpoint of this step that exists already is not written again
 */
export async function saveCheckpoint(
  root: string,
  { model, shapes, moments, state }: Contents,
  keep: number,
  as?: 'before-skipping',
): Promise<void> {
  const name = nameOf(state.step);
  if (as && existsSync(join(root, name))) return point(root, as, name);
  await writeFolderAtomic(join(root, name), async (aside) => {
    const files = {
      [WEIGHTS]: await saveWeights(aside, model.params, shapes),
      [OPTIMIZER]: await writeSafetensors(join(aside, OPTIMIZER), moments),
    };
    for (const [file, written] of Object.entries(files)) {
      if (sha256File(join(aside, file)) === written.sha256) continue;
      throw new UserError(
        `${join(root, name, file)}: the bytes read back differ from those written; the disk is failing or full, choose another with --run`,
      );
    }
    writeFileAtomic(
      join(aside, STATE),
      `${JSON.stringify({ format: 2, ...state, files } satisfies State)}\n`,
    );
  });
  if (as) point(root, as, name);
  else {
    const best = pointed(root, 'best');
    if (!best || best === name || scoreOf(root, best) <= (state.score ?? -Infinity))
      point(root, 'best', name);
    point(root, 'latest', name);
  }
  const held = new Set([...POINTERS.map((p) => pointed(root, p)), ...names(root).slice(-keep)]);
  for (const old of names(root)) if (!held.has(old)) removeFolder(join(root, old));
}

/** Minus infinity if it is unknown: then any other checkpoint is better. */
function scoreOf(root: string, name: string): number {
  try {
    return readState(join(root, name)).score ?? -Infinity;
  } catch (error) {
    if (error instanceof UserError) return -Infinity;
    throw error;
  }
}

function point(root: string, pointer: Pointer, name: string): void {
  writeFileAtomic(join(root, pointer), `${name}\n`);
}

/** The name in a pointer file; undefined if there is none. */
function pointed(root: string, pointer: Pointer): string | undefined {
  const path = join(root, pointer);
  if (!existsSync(path)) return undefined;
  const name = readText(path, 'pointer to a checkpoint', `remove ${root} to train the stage again`).trim();
  if (NAME.test(name)) return name;
  const others = names(root);
  throw new UserError(
    `${path}: names no checkpoint; ${
      others.length > 0
        ? `write ${others.at(-1)} into it, or another that exists`
        : `remove ${root} to train the stage again`
    }`,
  );
}

/** Names of the existing checkpoints, oldest first. */
function names(root: string): string[] {
  try {
    return readdirSync(root)
      .filter((name) => NAME.test(name) && !isAside(name))
      .sort((a, b) => Number(a.slice(5)) - Number(b.slice(5)));
  } catch (error) {
    if (errorCode(error) === 'ENOENT') return [];
    throw error;
  }
}

/**
 * True if the stage has a checkpoint: the same command resumes from it. First cleans up what a killed process left.
 * @param recover false if another process may be at work, perhaps on another host: its temporary folders are not touched
 */
export function hasCheckpoint(root: string, recover = true): boolean {
  if (recover) recoverFolders(root);
  if (existsSync(join(root, STATE))) {
    throw new UserError(
      `${root}: was trained by an older version of realm; remove it to train the stage again`,
    );
  }
  return existsSync(join(root, 'latest')) || names(root).length > 0;
}

/** The state of the stage's latest checkpoint, without reading its weights; undefined without a checkpoint. */
export function latestState(root: string, recover = true): State | undefined {
  return stateOf(root, 'latest', recover);
}

/** Steps done in a checkpoint of the stage; undefined if the stage has no checkpoint. */
export function stepsDone(root: string, which: Which = 'latest'): number | undefined {
  return stateOf(root, which)?.step;
}

/** The state of a checkpoint of the stage; undefined if the stage has no checkpoint. */
export function stateOf(root: string, which: Which, recover = true): State | undefined {
  return hasCheckpoint(root, recover) ? readState(locate(root, which, recover)) : undefined;
}

/** Opens a checkpoint of the stage, after checking the lengths and SHA-256 of its files. */
export function openCheckpoint(root: string, which: Which, recover = true): Checkpoint {
  const dir = locate(root, which, recover);
  const state = readState(dir);
  for (const file of Object.keys(state.files)) {
    const path = join(dir, file);
    if (!existsSync(path)) throw new UserError(`${path}: is missing; ${remedy(root, dir)}`);
  }
  const changed = changedFile(dir, state.files);
  if (changed)
    throw new UserError(
      `${join(dir, changed)}: is damaged (its SHA-256 is not state.json's); ${remedy(root, dir)}`,
    );
  return { dir, state, weights: join(dir, WEIGHTS), optimizer: join(dir, OPTIMIZER) };
}

function locate(root: string, which: Which, recover = true): string {
  if (recover) recoverFolders(root);
  // A kill between writing the first checkpoint and its pointer leaves a checkpoint without a pointer.
  const name =
    typeof which === 'number'
      ? nameOf(which)
      : (pointed(root, which) ?? (which === 'latest' ? names(root).at(-1) : undefined));
  if (name !== undefined && existsSync(join(root, name))) return join(root, name);
  const there = names(root);
  const wanted = typeof which === 'number' ? `step ${which}` : which;
  throw new UserError(
    `${root}: has no checkpoint "${wanted}"; ${
      there.length > 0
        ? `choose one of ${there.map((n) => Number(n.slice(5))).join(', ')} with --resume`
        : 'train the stage first'
    }`,
  );
}

/** What to do about a broken checkpoint: use another one, or train the stage again. */
function remedy(root: string, dir: string): string {
  const others = names(root).filter((name) => join(root, name) !== dir);
  return others.length > 0
    ? `go back to another checkpoint with --resume ${others.map((n) => Number(n.slice(5))).join(' or ')}`
    : `remove ${root} to train the stage again`;
}

function readState(dir: string): State {
  const path = join(dir, STATE);
  const root = dirname(dir);
  const json = readJson(path, 'training state', remedy(root, dir));
  const parsed = stateSchema.safeParse(json);
  if (parsed.success && nameOf(parsed.data.step) !== basename(dir)) {
    throw new UserError(`${path}: is the state of step ${parsed.data.step}; ${remedy(root, dir)}`);
  }
  if (parsed.success) return parsed.data;
  const { path: field, message } = parsed.error.issues[0];
  throw new UserError(
    `${path}: is not a training state of this version (${field.join('.') || 'all of it'}: ${message}); ${remedy(root, dir)}`,
  );
}

/** Points `latest` to another checkpoint and removes those of later steps: training resumes from there. */
export function goBackTo(root: string, which: Which): void {
  const { state } = openCheckpoint(root, which);
  point(root, 'latest', nameOf(state.step));
  const later = names(root).filter((name) => Number(name.slice(5)) > state.step);
  if (later.includes(pointed(root, 'best') ?? '')) {
    const kept = names(root).filter((name) => !later.includes(name));
    point(root, 'best', kept.sort((a, b) => scoreOf(root, b) - scoreOf(root, a))[0]);
  }
  if (later.includes(pointed(root, 'before-skipping') ?? ''))
    rmSync(join(root, 'before-skipping'), { force: true });
  for (const name of later) removeFolder(join(root, name));
}
