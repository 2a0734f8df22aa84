import {
  appendFileSync,
  cpSync,
  existsSync,
  mkdirSync,
  readFileSync,
  rmSync,
  symlinkSync,
  truncateSync,
  writeFileSync,
} from 'node:fs';
import { dirname, join } from 'node:path';
import { type Random, random } from '../../../src/random.ts';
import type { Mutation } from './mutations.ts';
import { filesOf, type Target } from './targets.ts';

/** One file, the mutation of it, and the command that then reads it. */
export interface Case {
  target: Target;
  number: number;
  seed: number;
  /** Path in the state's folder. */
  file: string;
  mutation: string;
  argv: string[];
}

/** Mutations of a file as a whole. `other` is the folder of another run. */
const WHOLE: Record<string, (path: string, file: string, other: string) => void> = {
  'a folder in its place': (path) => {
    rmSync(path);
    mkdirSync(path);
  },
  missing: (path) => rmSync(path),
  'that of another run': (path, file, other) => {
    // The other run may have other checkpoints.
    if (existsSync(join(other, file))) cpSync(join(other, file), path);
    else appendFileSync(path, 'another');
  },
  'a file in place of its folder': (path) => {
    rmSync(dirname(path), { recursive: true });
    writeFileSync(dirname(path), 'a file\n');
  },
  'a link to itself': (path) => {
    rmSync(path);
    symlinkSync(path, path);
  },
  '3 GiB of holes behind it': (path) => truncateSync(path, 3 * 2 ** 30),
};

const CAMPAIGN_SEED = 20;

/** Case `number` of a target: always the same. */
export function caseOf(target: Target, number: number, root: string): Case {
  const files = filesOf(target, root);
  if (files.length === 0) throw new Error(`no file of ${target.name} in ${target.state}`);
  const file = files[number % files.length];
  const round = Math.floor(number / files.length);
  const ways = waysOf(target, file);
  // Cycles through the mutations, and through the commands at another pace.
  const mutation = ways[(round + (number % files.length) * 7) % ways.length];
  const command =
    target.commands[(round + Math.floor(round / target.commands.length)) % target.commands.length];
  const argv = command[0] === 'doctor' ? command : [...command, '--run', 'run'];
  let seed = CAMPAIGN_SEED + number * 7919;
  for (const c of target.name) seed = (Math.imul(seed, 31) + c.charCodeAt(0)) >>> 0;
  return { target, number, seed, file, mutation, argv };
}

function waysOf({ mutations, state }: Target, file: string): string[] {
  const whole = Object.keys(WHOLE).filter(
    (way) =>
      (way !== 'a file in place of its folder' || file.includes('/')) &&
      // Zeros after a gzip file are padding.
      (way !== '3 GiB of holes behind it' || !file.endsWith('.gz')) &&
      (way !== 'that of another run' || (file.includes('run/') && state !== 'demo')),
  );
  return [...whole, ...Object.keys(mutations)];
}

/** Corrupts the case's file in `dir`, a copy of its state. Returns the bytes before and after; none if no file is left. */
export function spoil(
  { target, file, mutation, seed }: Case,
  dir: string,
  root: string,
): { before: Buffer; after?: Buffer } {
  const path = join(dir, file);
  const before = readFileSync(path);
  if (WHOLE[mutation]) {
    WHOLE[mutation](path, file, join(root, 'other'));
    return { before, after: mutation === 'that of another run' ? readFileSync(path) : undefined };
  }
  const after = changed(target.mutations[mutation], before, random(seed));
  writeFileSync(path, after);
  return { before, after };
}

/** The bytes after the mutation; if it finds nothing to change, a bit is flipped. */
function changed(mutation: Mutation, before: Buffer, random: Random): Buffer {
  for (let tries = 0; tries < 20; tries++) {
    const after = mutation(before, random);
    if (after && !after.equals(before)) return after;
  }
  const after = Buffer.from(before);
  if (after.length === 0) return Buffer.from('?');
  after[random.int(after.length)] ^= 1 << random.int(8);
  return after;
}
