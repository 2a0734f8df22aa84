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
//   step-0000500/     model.safetensors, optimizer.safetensors, and state.json, which is written last and seals both
//   latest, best      one line each: the name of a checkpoint
//   before-skipping   the same, where a step was skipped because its loss made no sense: the weights that led there

/** Which checkpoint: by a pointer's name, or by its step. */
export type Which = 'latest' | 'best' | number;

const POINTERS = ['latest', 'best', 'before-skipping'] as const;
type Pointer = (typeof POINTERS)[number];

const STATE = 'state.json';
const OPTIMIZER = 'optimizer.safetensors';

const seal: z.ZodType<FileDigest> = z.object({ bytes: z.int().nonnegative(), sha256: z.string() });
const sums = z.record(z.string(), z.tuple([z.number(), z.number()]));
const stateSchema = z.object({
  format: z.literal(2),
  /** Steps done. Data order and random numbers follow from it and the seed alone (sampler.ts). */
  step: z.int().nonnegative(),
  /** Length of the whole schedule. */
  steps: z.int().nonnegative(),
  /** What the stage read: weights mean nothing to another vocabulary, and the data's order another corpus. */
  vocabularySha256: z.string(),
  corpusSha256: z.string(),
  /** The settings it was trained with, to tell which have changed since. */
  settings: z.record(z.string(), z.unknown()),
  /** Folder of the index in use, where it changes with the document tower: pretraining's, and fine-tuning's that trains it. */
  index: z.string().nullable(),
  /** Of fine-tuning: the stage whose retriever it began with, and whose document tower it searches with where it trains none. */
  retriever: z.enum(['ict', 'pretrain']).optional(),
  /** Larger is better; null where it was not measured. */
  score: z.number().nullable(),
  /** Sums and counts of metrics since the last line of metrics, and of the loss since the last checkpoint with a score. */
  averages: sums,
  sinceSave: sums,
  /** The largest loss of the first steps, by which a later one is said to explode. */
  firstLoss: z.number(),
  /** Steps skipped since the stage began. */
  skipped: z.int().nonnegative(),
  files: z.strictObject({ [WEIGHTS]: seal, [OPTIMIZER]: seal }),
});

/** Everything of a stage but weights and moments that the next process needs to go on as if it were this one. */
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

/** What a checkpoint is made of. */
interface Contents {
  model: Model;
  shapes: readonly Shape[];
  /** The optimizer's; none for imported weights. */
  moments: readonly TensorToWrite[];
  state: Omit<State, 'format' | 'files'>;
}

/**
 * Writes a checkpoint and points `latest` to it (and `best` where its score is the best so far), then removes all but
 * the newest `keep` and those pointed to. The files are read back and compared before the checkpoint gets its name.
 * @param as `before-skipping` sets that pointer alone, and to a checkpoint that is there already where it can
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
        `${join(root, name, file)}: reads back other bytes than were written; the disk is failing or full, choose another with --run`,
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

/** Minus infinity where it cannot be told: then any other checkpoint is better. */
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

/** The name that a pointer holds; undefined where there is no pointer. */
function pointed(root: string, pointer: Pointer): string | undefined {
  const path = join(root, pointer);
  if (!existsSync(path)) return undefined;
  const name = readText(path, 'pointer to a checkpoint', `remove ${root} to train the stage again`).trim();
  if (NAME.test(name)) return name;
  const others = names(root);
  throw new UserError(
    `${path}: names no checkpoint; ${
      others.length > 0
        ? `write ${others.at(-1)} into it, or another that is there`
        : `remove ${root} to train the stage again`
    }`,
  );
}

/** Names of the checkpoints that are there, oldest first. */
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
 * True when the stage has been begun: the same command goes on from there. Undoes first what a kill left behind.
 * @param recover false where another process may be at work, perhaps on another host: what it has aside is not touched
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

/** What the stage's latest checkpoint says of itself, its weights not looked at; undefined without one. */
export function latestState(root: string, recover = true): State | undefined {
  return stateOf(root, 'latest', recover);
}

/** Steps that a checkpoint of the stage has behind it; undefined where the stage has none. */
export function stepsDone(root: string, which: Which = 'latest'): number | undefined {
  return stateOf(root, which)?.step;
}

/** What a checkpoint of the stage says of itself; undefined where the stage has none. */
export function stateOf(root: string, which: Which, recover = true): State | undefined {
  return hasCheckpoint(root, recover) ? readState(locate(root, which, recover)) : undefined;
}

/** The stage's checkpoint, its files' lengths and SHA-256 checked before anything is made of them. */
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
  // A kill between the first checkpoint and its pointer leaves the checkpoint alone.
  const name =
    typeof which === 'number'
      ? nameOf(which)
      : (pointed(root, which) ?? (which === 'latest' ? names(root).at(-1) : undefined));
  if (name !== undefined && existsSync(join(root, name))) return join(root, name);
  const there = names(root);
  const asked = typeof which === 'number' ? `step ${which}` : which;
  throw new UserError(
    `${root}: has no checkpoint "${asked}"; ${
      there.length > 0
        ? `there are ${there.map((n) => Number(n.slice(5))).join(', ')}: name one with --resume`
        : 'train the stage first'
    }`,
  );
}

/** What to do about a broken checkpoint: the others, or the stage again. */
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

/** Points `latest` to another checkpoint and removes those of later steps: training goes on from there. */
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
