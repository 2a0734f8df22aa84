import { statSync } from 'node:fs';
import { join } from 'node:path';
import { type FileDigest, readText, sha256File, writeFileAtomic } from './files.ts';

// Which files of a folder have been compared with their SHA-256 already: hashing gigabytes at every question asked would
// take longer than the answer. A file counts as the same while its length, times and inode are; no program can set back
// the time of its last change (ctime).

const NAME = 'verified.json';

/** A file changed within so many milliseconds might change again without another time to tell of it. */
const FRESH = 1000;

/** Bytes of a note. */
const LONGEST = 1 << 16;

/** Length, times, inode, and the SHA-256 that the content had. */
type Stamp = string;

/**
 * The first of the files, which are there, whose content is not the one sealed; undefined when all are whole.
 * What was found whole is remembered in the folder, where it can be written.
 */
export function changedFile(dir: string, seals: Record<string, FileDigest>): string | undefined {
  const known = remembered(dir);
  const stamps: Record<string, Stamp> = {};
  let news = false;
  for (const [name, { bytes, sha256 }] of Object.entries(seals)) {
    const path = join(dir, name);
    const stat = statSync(path);
    const { size, mtimeMs, ctimeMs, ino } = stat;
    if (!stat.isFile() || size !== bytes) return name;
    const stamp = [size, mtimeMs, ctimeMs, ino, sha256].join(' ');
    if (known[name] !== stamp) {
      if (sha256File(path) !== sha256) return name;
      news = true;
    }
    if (Date.now() - ctimeMs >= FRESH) stamps[name] = stamp;
  }
  if (news && Object.keys(stamps).length > 0) {
    try {
      writeFileAtomic(join(dir, NAME), JSON.stringify(stamps));
    } catch {} // it saves time, and nothing else
  }
  return undefined;
}

function remembered(dir: string): Record<string, unknown> {
  try {
    const found = JSON.parse(readText(join(dir, NAME), 'note', '', LONGEST));
    return typeof found === 'object' && found !== null ? found : {};
  } catch {
    return {};
  }
}
