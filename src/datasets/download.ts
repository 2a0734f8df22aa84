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

// A file is downloaded to `NAME.part` and renamed when it is complete and verified. `NAME.part.of` holds the address and the
// server's version (ETag or date), so that a later run resumes only the same version.

/** A download gives up after this many attempts in a row that bring nothing new. */
const MAX_ATTEMPTS = 4;
/** Milliseconds without a byte after which a connection counts as broken. */
const MAX_SILENCE = 60_000;

/** A file to download, and what else its server and the messages need. */
export interface Source extends DataFile {
  /** The name in messages, if `name` means nothing to a reader. */
  label?: string;
  /** Sent with the request; after a redirect, `fetch` does not send them to another server. */
  headers?: Record<string, string>;
  /** Git's hash of the content, if no SHA-256 is published. */
  gitOid?: string;
  /** What to do if the server does not provide the file. */
  remedy?: string;
  /** The error for a response that refuses the file; without it the message names the status. */
  refusal?: (response: Response) => UserError;
}

const MIRROR = 'name another server with --mirror';
const REMEDY = `${MIRROR}, or a file that you have with --from`;

/** Where a file is, how it came there, and its SHA-256. */
export interface Placed {
  path: string;
  how: 'there already' | 'copied' | 'fetched';
  sha256: string;
}

/** Downloads a file to `dir`, or resumes the download of an earlier run. */
export async function fetchFile(file: Source, dir: string, pause = 1000): Promise<Placed> {
  const path = join(dir, file.name);
  const there = placedAlready(file, path);
  if (there) return there;
  const part = `${path}.part`;
  try {
    makeFolder(dirname(path));
    needRoom(file, dir, sizeOf(part));
    for (let failed = 0, before = sizeOf(part); !(await fetchSome(file, part)); before = sizeOf(part)) {
      // Whatever broke the connection, the next one resumes.
      if (sizeOf(part) > before) failed = 0;
      if (++failed === MAX_ATTEMPTS) {
        throw new UserError(
          `${file.url}: the connection broke ${MAX_ATTEMPTS} times in a row; ${sizeOf(part)} bytes are kept in ${part}, run the same command again to resume`,
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
      `${file.url}: the downloaded file ${wrong}; it was removed, run the same command again or ${file.remedy ?? MIRROR}`,
    );
  }
  renameSync(part, path);
  rmSync(`${part}.of`, { force: true });
  return { path, how: 'fetched', sha256 };
}

/** Copies a local file to `dir`, if it is the published one. */
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
    if (wrong) throw new UserError(`${from}: ${wrong}; check that it is ${file.name} as published`);
  });
  return { path, how: 'copied', sha256: hash.digest('hex') };
}

function placedAlready(file: Source, path: string): Placed | undefined {
  if (!existsSync(path)) return undefined;
  const sha256 = sha256File(path);
  const wrong = differs(file, sizeOf(path), sha256) ?? differsFromGit(file, path);
  if (!wrong) return { path, how: 'there already', sha256 };
  throw new UserError(`${path}: already exists and ${wrong}; move it away`);
}

/** How a file differs from the published one; undefined if it does not, as far as is known. */
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
    `${dir}: has ${bavail * bsize} bytes free, too few for ${label} (${bytes}); free some space, or ${remedy ?? 'name another folder with --to'}`,
  );
}

const sizeOf = (path: string) => statSync(path, { throwIfNoEntry: false })?.size ?? 0;

/** Downloads over one connection. True if the file is complete, false if the connection broke. */
async function fetchSome(file: Source, part: string): Promise<boolean> {
  let have = sizeOf(part);
  const [address, version] = existsSync(`${part}.of`) ? readFileSync(`${part}.of`, 'utf8').split('\n') : [];
  if (have > 0 && (address !== file.url || !version)) {
    rmSync(part);
    have = 0;
  }
  const silence = new AbortController();
  let alarm = setTimeout(() => silence.abort(), MAX_SILENCE);
  try {
    const response = await fetch(file.url, {
      // With compression, the bytes on the way would not be those of the file.
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
          `${file.url}: the server sends a different part than requested; ${file.remedy ?? MIRROR}`,
        );
    } else {
      if (have > 0) truncateSync(part, 0);
      have = 0;
    }
    const now = response.headers.get('etag') ?? response.headers.get('last-modified') ?? '';
    // A weak ETag does not guarantee the same bytes, and If-Range does not accept one.
    writeFileSync(`${part}.of`, `${file.url}\n${now.startsWith('W/') ? '' : now}\n`);
    const out = await open(part, 'a');
    const bar =
      total === undefined
        ? undefined
        : progress(file.label ?? file.name, total, { from: have, unit: 'bytes' });
    try {
      for await (const piece of response.body ?? []) {
        clearTimeout(alarm);
        alarm = setTimeout(() => silence.abort(), MAX_SILENCE);
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
    if (!isNetworkError(error)) throw error;
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

/** fetch() throws a TypeError for any network error, and an AbortError for our own alarm. */
function isNetworkError(error: unknown): boolean {
  return error instanceof TypeError || (error as Error)?.name === 'AbortError';
}

/** Bytes of the whole file, according to the response. */
function totalOf({ status, headers }: Response, { bytes }: DataFile): number | undefined {
  const range = /\/(\d+)$/.exec(headers.get('content-range') ?? '')?.[1];
  const length = status === 200 ? headers.get('content-length') : null;
  const stated = range ?? length;
  return stated === null || stated === undefined ? bytes : Number(stated);
}

/** Throws for an error response: a `UserError` if trying again would not help, else an error that counts as a broken connection. */
function refuse(response: Response, file: Source): void {
  const { ok, status, url } = response;
  if (status === 429 || status >= 500) throw new TypeError(`the server answered ${status}`);
  if (!ok) {
    throw (
      file.refusal?.(response) ??
      new UserError(`${file.url}: the server answered ${status}; ${file.remedy ?? REMEDY}`)
    );
  }
  if (file.url.startsWith('https:') && !url.startsWith('https:')) {
    throw new UserError(
      `${file.url}: redirects to ${new URL(url).origin}, which is not encrypted; ${file.remedy ?? MIRROR}`,
    );
  }
}
