import { statSync } from 'node:fs';
import { join } from 'node:path';
import { type FileDigest, readText, sha256File, writeFileAtomic } from './files.ts';

// Remembers which files of a folder have been compared with their SHA-256: hashing gigabytes for every question would take
// longer than the answer. A file counts as unchanged while its length, times and inode stay the same; no program can set
// back the time of its last change (ctime).

const NAME = 'verified.json';

/** Milliseconds after a change in which a file may change again without a different time. */
const RECENT = 1000;

/** An index of 1,000 graphs, the most there can be, has a note of 160 kB. */
const MAX_NOTE_BYTES = 1 << 20;

/** Length, times and inode of a file, and the SHA-256 that its content had. */
type Fingerprint = string;

/**
 * The name of the first file that differs from its digest; undefined if all are unchanged. All files must exist.
 * The result is remembered in the folder, if it can be written.
 */
export function changedFile(dir: string, digests: Record<string, FileDigest>): string | undefined {
  const known = remembered(dir);
  const fingerprints: Record<string, Fingerprint> = {};
  let isNew = false;
  for (const [name, { bytes, sha256 }] of Object.entries(digests)) {
    const path = join(dir, name);
    const stat = statSync(path);
    const { size, mtimeMs, ctimeMs, ino } = stat;
    if (!stat.isFile() || size !== bytes) return name;
    const fingerprint = [size, mtimeMs, ctimeMs, ino, sha256].join(' ');
    if (known[name] !== fingerprint) {
      if (sha256File(path) !== sha256) return name;
      isNew = true;
    }
    if (Date.now() - ctimeMs >= RECENT) fingerprints[name] = fingerprint;
  }
  if (isNew && Object.keys(fingerprints).length > 0) {
    try {
      writeFileAtomic(join(dir, NAME), JSON.stringify(fingerprints));
    } catch {} // the note only saves time
  }
  return undefined;
}

function remembered(dir: string): Record<string, unknown> {
  try {
    const found = JSON.parse(readText(join(dir, NAME), 'note', '', MAX_NOTE_BYTES));
    return typeof found === 'object' && found !== null ? found : {};
  } catch {
    return {};
  }
}
