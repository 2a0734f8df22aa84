import { existsSync, readdirSync, rmSync } from 'node:fs';
import { basename, join } from 'node:path';
import { UserError } from '../system/errors.ts';
import {
  inside,
  isAside,
  PART,
  readText,
  recoverFolders,
  removeFolder,
  syncFolder,
  writeFileAtomic,
} from '../system/files.ts';
import { type IndexManifest, REBUILD, readManifest } from './manifest.ts';

const CURRENT = 'current';

// ---------------------------------------------------------------- publish

/** Makes the index folder `name` in `indexRoot` the current one, by an atomic change of the pointer file `current`. */
export function publish(indexRoot: string, name: string): void {
  readManifest(inside(indexRoot, name));
  writeFileAtomic(join(indexRoot, CURRENT), `${name}\n`);
  clearIndexes(indexRoot, name);
  syncFolder(indexRoot);
}

/**
 * Removes all but the newest `keep` indexes, the current one and those named `inUse`. Readers of a removed
 * index keep their open files.
 */
export function pruneIndexes(indexRoot: string, keep: number, inUse: readonly string[]): void {
  const current = currentIndex(indexRoot);
  const held = new Set([...inUse, ...(current ? [basename(current)] : [])]);
  const folders = indexFolders(indexRoot);
  for (const { name } of folders.slice(keep)) {
    if (!held.has(name)) removeFolder(join(indexRoot, name));
  }
}

/** Cleans up after interrupted builds, except for the index `name`: its next build resumes from its files. */
export function clearIndexes(indexRoot: string, name: string): void {
  recoverFolders(indexRoot);
  for (const entry of readdirSync(indexRoot)) {
    if (entry.endsWith(PART) && entry !== `${name}${PART}`) {
      rmSync(join(indexRoot, entry), { recursive: true, force: true });
    }
  }
}

/** The folder that `current` points to, or undefined if nothing was published yet. */
export function currentIndex(indexRoot: string): string | undefined {
  const path = join(indexRoot, CURRENT);
  if (!existsSync(path)) return undefined;
  return inside(indexRoot, readText(path, 'pointer to an index', REBUILD).trim());
}

/** Index folders with a readable manifest, newest first; anything else in `indexRoot` is not ours to touch. */
export function indexFolders(indexRoot: string): (IndexManifest & { name: string })[] {
  const found: (IndexManifest & { name: string })[] = [];
  for (const entry of readdirSync(indexRoot, { withFileTypes: true })) {
    if (!entry.isDirectory() || isAside(entry.name) || entry.name.endsWith(PART)) continue;
    try {
      found.push({ name: entry.name, ...readManifest(join(indexRoot, entry.name)) });
    } catch (error) {
      if (!(error instanceof UserError)) throw error;
    }
  }
  return found.sort((a, b) =>
    a.createdAt < b.createdAt ? 1 : a.createdAt > b.createdAt ? -1 : a.name < b.name ? 1 : -1,
  );
}
