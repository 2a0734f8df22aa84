import { createHash } from 'node:crypto';
import {
  createReadStream,
  existsSync,
  readFileSync,
  renameSync,
  rmSync,
  statfsSync,
  statSync,
  truncateSync,
  writeFileSync,
} from 'node:fs';
import { open } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { setTimeout as wait } from 'node:timers/promises';
import { errorCode, UserError } from '../system/errors.ts';
import {
  explainRead,
  explainWrite,
  gitOid,
  makeFolder,
  sha256File,
  writeStreamAtomic,
} from '../system/files.ts';
import { progress, warn } from '../system/progress.ts';
import type { DataFile } from './catalogue.ts';

// A file is fetched into `NAME.part` and renamed when it is whole and right. `NAME.part.of` holds the address and the
// server's mark of the version (ETag or date), so that a later run goes on only with the same one.

/** Attempts in a row that bring nothing new, after which a fetch gives up. */
const ATTEMPTS = 4;
/** Milliseconds without a byte after which a connection counts as broken. */
const SILENCE = 60_000;

/** A file to fetch, and what its server and the messages need besides. */
export interface Source extends DataFile {
  /** What messages call it, where `name` says nothing to a reader. */
  label?: string;
  /** Sent with the request, but by `fetch` to no other server that it is sent on to. */
  headers?: Record<string, string>;
  /** Git's name of the content, where no SHA-256 is published. */
  gitOid?: string;
  /** What to do where the server has nothing for us. */
  remedy?: string;
  /** What an answer means by which the server refuses the file; without it the message names the status. */
  refusal?: (response: Response) => UserError;
}

const REMEDY = 'name another place with --mirror, or a file that you have with --from';

/** How a file came, and its SHA-256. */
export interface Placed {
  path: string;
  how: 'there already' | 'copied' | 'fetched';
  sha256: string;
}

/** Fetches a file into `dir`, or goes on with what an earlier run has fetched of it. */
export async function fetchFile(file: Source, dir: string, pause = 1000): Promise<Placed> {
  const path = join(dir, file.name);
  const there = placedAlready(file, path);
  if (there) return there;
  const part = `${path}.part`;
  try {
    makeFolder(dirname(path));
    needRoom(file, dir, sizeOf(part));
    for (let failed = 0, before = sizeOf(part); !(await fetchSome(file, part)); before = sizeOf(part)) {
      // Whatever broke the connection, the next one goes on behind what has come.
      if (sizeOf(part) > before) failed = 0;
      if (++failed === ATTEMPTS) {
        throw new UserError(
          `${file.url}: the connection breaks again and again; ${sizeOf(part)} bytes are kept in ${part}, and the same command goes on there`,
        );
      }
      await wait(pause * 2 ** (failed - 1));
    }
  } catch (error) {
    throw explainWrite(path, error);
  }
  const sha256 = sha256File(part);
  const wrong = differs(file, sizeOf(part), sha256) ?? differsFromGit(file, part);
  if (wrong) {
    rmSync(part);
    rmSync(`${part}.of`, { force: true });
    throw new UserError(
      `${file.url}: what came ${wrong}; it is removed, run the same command again or ${file.remedy ?? 'name another place with --mirror'}`,
    );
  }
  renameSync(part, path);
  rmSync(`${part}.of`, { force: true });
  return { path, how: 'fetched', sha256 };
}

/** Puts a file that is here already in its place, when it is the published one. */
export async function placeFile(file: DataFile, from: string, dir: string): Promise<Placed> {
  const path = join(dir, file.name);
  const there = placedAlready(file, path);
  if (there) return there;
  const hash = createHash('sha256');
  await writeStreamAtomic(path, async (write) => {
    let bytes = 0;
    try {
      for await (const piece of createReadStream(from, { highWaterMark: 1 << 20 })) {
        hash.update(piece as Buffer);
        bytes += (piece as Buffer).length;
        write(piece as Buffer);
      }
    } catch (error) {
      throw explainRead(from, 'a file', error, `give the path of ${file.name} with --from`);
    }
    const wrong = differs(file, bytes, hash.copy().digest('hex'));
    if (wrong) throw new UserError(`${from}: ${wrong}; see whether it is ${file.name} as published`);
  });
  return { path, how: 'copied', sha256: hash.digest('hex') };
}

function placedAlready(file: Source, path: string): Placed | undefined {
  if (!existsSync(path)) return undefined;
  const sha256 = sha256File(path);
  const wrong = differs(file, sizeOf(path), sha256) ?? differsFromGit(file, path);
  if (!wrong) return { path, how: 'there already', sha256 };
  throw new UserError(`${path}: is there already and ${wrong}; move it away`);
}

/** What sets a file apart from the published one; undefined when nothing is known to. */
function differs({ bytes, sha256 }: DataFile, found: number, hash: string): string | undefined {
  if (bytes !== undefined && bytes !== found) return `is ${found} bytes long, not ${bytes} as published`;
  if (sha256 !== undefined && sha256 !== hash) return `has the SHA-256 ${hash}, not ${sha256} as published`;
  return undefined;
}

function differsFromGit({ gitOid: published }: Source, path: string): string | undefined {
  if (published === undefined) return undefined;
  const found = gitOid(path);
  return found === published ? undefined : `has the Git checksum ${found}, not ${published} as published`;
}

function needRoom({ bytes = 0, name, label = name, remedy }: Source, dir: string, have: number): void {
  const { bavail, bsize } = statfsSync(dir);
  if (bytes - have <= bavail * bsize) return;
  throw new UserError(
    `${dir}: has ${bavail * bsize} bytes free, too few for ${label} (${bytes}); free some, or ${remedy ?? 'name another folder with --to'}`,
  );
}

const sizeOf = (path: string) => statSync(path, { throwIfNoEntry: false })?.size ?? 0;

/** One connection. True when the file is whole, false when the connection broke. */
async function fetchSome(file: Source, part: string): Promise<boolean> {
  let have = sizeOf(part);
  const [address, version] = existsSync(`${part}.of`) ? readFileSync(`${part}.of`, 'utf8').split('\n') : [];
  if (have > 0 && (address !== file.url || !version)) {
    rmSync(part);
    have = 0;
  }
  const silence = new AbortController();
  let alarm = setTimeout(() => silence.abort(), SILENCE);
  try {
    const response = await fetch(file.url, {
      // Packed on the way, a file would be counted in other bytes than it has.
      headers: {
        ...file.headers,
        'accept-encoding': 'identity',
        ...(have > 0 ? { range: `bytes=${have}-`, 'if-range': version } : {}),
      },
      signal: silence.signal,
    });
    const total = totalOf(response, file);
    if (response.status === 416 && have > 0) {
      await response.body?.cancel();
      if (have === total) return true;
      rmSync(part);
      return false;
    }
    refuse(response, file);
    if (response.status === 206) {
      const start = /^bytes (\d+)-/.exec(response.headers.get('content-range') ?? '')?.[1];
      if (Number(start) !== have)
        throw new UserError(
          `${file.url}: the server sends another part than was asked for; ${file.remedy ?? 'name another place with --mirror'}`,
        );
    } else {
      if (have > 0) truncateSync(part, 0);
      have = 0;
    }
    const now = response.headers.get('etag') ?? response.headers.get('last-modified') ?? '';
    // A weak ETag does not tell that the bytes are the same, and If-Range takes none.
    writeFileSync(`${part}.of`, `${file.url}\n${now.startsWith('W/') ? '' : now}\n`);
    const out = await open(part, 'a');
    const bar =
      total === undefined
        ? undefined
        : progress(file.label ?? file.name, total, { from: have, unit: 'bytes' });
    try {
      for await (const piece of response.body ?? []) {
        clearTimeout(alarm);
        alarm = setTimeout(() => silence.abort(), SILENCE);
        await out.write(piece);
        have += piece.length;
        bar?.at(have);
      }
      await out.sync();
    } finally {
      bar?.end();
      await out.close();
    }
    return total === undefined || have === total;
  } catch (error) {
    if (!isNetworkTrouble(error)) throw error;
    const cause = errorCode((error as Error).cause);
    if (cause === 'ENOTFOUND' || cause === 'ECONNREFUSED' || cause === 'EAI_AGAIN') {
      throw new UserError(
        `${file.url}: cannot be reached (${cause}); check the network, or ${file.remedy ?? REMEDY}`,
      );
    }
    warn(`${file.label ?? file.name}: the connection broke at ${sizeOf(part)} bytes`);
    return false;
  } finally {
    clearTimeout(alarm);
  }
}

/** fetch() throws a TypeError for whatever happens on the way, and an AbortError for our own alarm. */
function isNetworkTrouble(error: unknown): boolean {
  return error instanceof TypeError || (error as Error)?.name === 'AbortError';
}

/** Bytes of the whole file, as the answer tells. */
function totalOf({ status, headers }: Response, { bytes }: DataFile): number | undefined {
  const range = /\/(\d+)$/.exec(headers.get('content-range') ?? '')?.[1];
  const length = status === 200 ? headers.get('content-length') : null;
  const told = range ?? length;
  return told === null || told === undefined ? bytes : Number(told);
}

/** Answers that another attempt would not change; those that it may count as a broken connection. */
function refuse(response: Response, file: Source): void {
  const { ok, status, url } = response;
  if (status === 429 || status >= 500) throw new TypeError(`the server answers ${status}`);
  if (!ok) {
    throw (
      file.refusal?.(response) ??
      new UserError(`${file.url}: the server answers ${status}; ${file.remedy ?? REMEDY}`)
    );
  }
  if (file.url.startsWith('https:') && !url.startsWith('https:')) {
    throw new UserError(
      `${file.url}: leads to ${new URL(url).origin}, which is not encrypted; ${file.remedy ?? 'name another place with --mirror'}`,
    );
  }
}
