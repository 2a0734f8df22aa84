import { createReadStream } from 'node:fs';
import { createInterface } from 'node:readline';
import type { Readable } from 'node:stream';
import { createGunzip } from 'node:zlib';
import { errorCode, UserError } from '../errors.ts';

/** One line of a JSONL file: its object and how errors name it, `FILE: line N`. */
export interface JsonLine {
  value: Record<string, unknown>;
  where: string;
}

/** Streams the objects of a JSONL file, plain or compressed (`.gz`). Blank lines are passed over. */
export async function* readJsonLines(path: string, what: string): AsyncGenerator<JsonLine> {
  const file = createReadStream(path, { highWaterMark: 1 << 18 });
  let source: Readable = file;
  let failure: unknown;
  if (path.endsWith('.gz')) {
    const unzipped = createGunzip();
    file.on('error', (error) => unzipped.destroy(error));
    source = file.pipe(unzipped);
  }
  // readline does not hand on the errors of its input.
  const lines = createInterface({ input: source, crlfDelay: Number.POSITIVE_INFINITY });
  source.on('error', (error) => {
    failure = error;
    lines.close();
  });
  let number = 0;
  try {
    for await (const text of lines) {
      const line = parseLine(text, path, ++number);
      if (line) yield line;
    }
    if (failure) throw failure;
  } catch (error) {
    // A line torn by a failure of the file is not the reader's to mend.
    throw explainRead(path, what, failure ?? error);
  } finally {
    lines.close();
    file.destroy();
    source.destroy();
  }
}

/** The same of a text at hand. */
export function parseJsonLines(text: string, path: string): JsonLine[] {
  return text.split(/\r?\n/).flatMap((line, i) => parseLine(line, path, i + 1) ?? []);
}

function parseLine(line: string, path: string, number: number): JsonLine | undefined {
  const text = number === 1 && line.startsWith('\uFEFF') ? line.slice(1) : line;
  if (text.trim() === '') return undefined;
  const where = `${path}: line ${number}`;
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch {
    throw new UserError(`${where}: is not JSON; every line must be one JSON object`);
  }
  if (typeof value !== 'object' || value === null || Array.isArray(value)) {
    throw new UserError(`${where}: is no JSON object; every line must be one, between { and }`);
  }
  return { value: value as Record<string, unknown>, where };
}

/** What a failed read means to whoever gave the path. */
export function explainRead(path: string, what: string, error: unknown): unknown {
  const code = errorCode(error);
  if (code === 'ENOENT') return new UserError(`${path}: no such file; give the path of ${what}`);
  if (code === 'EISDIR') return new UserError(`${path}: is a folder; give the path of ${what}`);
  if (code === 'EACCES') return new UserError(`${path}: may not be read; change its permissions`);
  if (code?.startsWith('Z_')) {
    return new UserError(`${path}: is not a whole gzip file; make or fetch it again`);
  }
  return error;
}

/** The string under `key`, or a `UserError` that says what is there instead. */
export function stringField({ value, where }: JsonLine, key: string): string {
  const field = value[key];
  if (typeof field === 'string') return field;
  const found = field === undefined ? `has no "${key}"` : `has "${key}" ${shown(field)}`;
  throw new UserError(`${where}: ${found}; "${key}" must be a string`);
}

function shown(value: unknown): string {
  const text = JSON.stringify(value);
  return text.length > 40 ? `${text.slice(0, 40)}…` : text;
}
