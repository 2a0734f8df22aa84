import { isUtf8 } from 'node:buffer';
import { errorCode, shown, UserError } from '../system/errors.ts';
import * as files from '../system/files.ts';
import { readPieces } from './bytes.ts';
import type { AnswerKind } from './types.ts';

/** One line of a JSONL file: its object, and its name in errors, `FILE: line N`. */
export interface JsonLine {
  value: Record<string, unknown>;
  where: string;
}

/**
 * Maximum bytes of a line, or of a record of any other format: ten times the longest document of Wikipedia. So neither a
 * line nor a small `.gz` of one can fill the memory.
 */
export const LINE_LIMIT = 16 << 20;

/** Maximum bytes of a `.gz` that is decompressed at once. */
export const UNPACKED_LIMIT = 64 << 20;

/**
 * Streams the objects of a JSONL file, plain or compressed. Skips blank lines.
 * @param lists a line may also be a list: `value` is that list
 */
export async function* readJsonLines(path: string, what: string, lists = false): AsyncGenerator<JsonLine> {
  const lines = lineParser(path, lists);
  try {
    for await (const piece of readPieces(path)) yield* lines.push(piece);
    yield* lines.end();
  } catch (error) {
    throw explainRead(path, what, error);
  }
}

/** The objects of a text in memory. */
export function parseJsonLines(text: Uint8Array, path: string): JsonLine[] {
  const lines = lineParser(path);
  return [...lines.push(Buffer.from(text.buffer, text.byteOffset, text.byteLength)), ...lines.end()];
}

/** A line of a text file, without its line end, and its number from 1. */
export interface Line {
  text: string;
  number: number;
}

/** Streams the lines of a text file, plain or compressed, including empty lines. */
export async function* readLines(path: string, what: string): AsyncGenerator<Line> {
  const lines = lineSplitter(path, true);
  try {
    for await (const piece of readPieces(path)) yield* lines.push(piece);
    yield* lines.end();
  } catch (error) {
    throw explainRead(path, what, error);
  }
}

function lineParser(path: string, lists = false) {
  const lines = lineSplitter(path, false);
  function* parsed(found: Iterable<Line>): Generator<JsonLine> {
    for (const line of found) {
      const object = parseLine(line, path, lists);
      if (object) yield object;
    }
  }
  return { push: (piece: Buffer) => parsed(lines.push(piece)), end: () => parsed(lines.end()) };
}

/**
 * Takes a file piece by piece and yields complete lines. Holds one line, of limited length.
 * @param empty also yield empty lines
 */
function lineSplitter(path: string, empty: boolean) {
  let number = 0;
  let held: Buffer[] = []; // the start of a line that continues in the next piece
  let heldBytes = 0;

  function hold(part: Buffer): void {
    heldBytes += part.length;
    if (heldBytes > LINE_LIMIT) {
      throw new UserError(
        `${path}: line ${number + 1}: is longer than ${LINE_LIMIT >> 20} MiB; split it into several lines`,
      );
    }
    if (part.length > 0) held.push(part);
  }

  function line(last: Buffer): Line {
    hold(last);
    const bytes = held.length === 1 ? held[0] : Buffer.concat(held);
    held = [];
    heldBytes = 0;
    number++;
    if (!isUtf8(bytes)) {
      throw new UserError(`${path}: line ${number}: is not UTF-8 text; save the file as UTF-8`);
    }
    const text = bytes.toString('utf8', 0, bytes.length - (bytes.at(-1) === 13 ? 1 : 0));
    return { text: number === 1 && text.startsWith('\uFEFF') ? text.slice(1) : text, number };
  }

  return {
    *push(piece: Buffer): Generator<Line> {
      let from = 0;
      // A file of only line feeds takes no longer than a simple loop.
      const skipBlank = () => {
        while (!empty && heldBytes === 0 && piece[from] === 10) {
          from++;
          number++;
        }
      };
      skipBlank();
      for (let at = piece.indexOf(10, from); at >= 0; at = piece.indexOf(10, from)) {
        const found = line(piece.subarray(from, at));
        from = at + 1;
        yield found;
        skipBlank();
      }
      hold(piece.subarray(from));
    },
    /** The last line, if no line feed ends it. */
    *end(): Generator<Line> {
      if (heldBytes > 0) yield line(Buffer.alloc(0));
    },
  };
}

function parseLine({ text, number }: Line, path: string, lists: boolean): JsonLine | undefined {
  if (text.trim() === '') return undefined;
  const where = `${path}: line ${number}`;
  const value = parseJson(text);
  if (value === undefined)
    throw new UserError(`${where}: is not valid JSON; expected one JSON object per line`);
  if (typeof value !== 'object' || value === null || (Array.isArray(value) && !lists)) {
    throw new UserError(`${where}: is not a JSON object; expected one JSON object per line`);
  }
  return { value: value as Record<string, unknown>, where };
}

/** The value of a JSON text, with null for Python's NaN and Infinity; undefined if it is not JSON. */
function parseJson(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    if (!/NaN|Infinity/.test(text)) return undefined;
  }
  try {
    return JSON.parse(
      text.replace(/"(?:[^"\\]|\\.)*"|-?(?:NaN|Infinity)/g, (found) => (found[0] === '"' ? found : 'null')),
    );
  } catch {
    return undefined;
  }
}

/** The `UserError` for a failed read. Bugs are returned as they are. */
export function explainRead(path: string, what: string, error: unknown): unknown {
  const code = errorCode(error);
  if (code === 'ENOENT') return new UserError(`${path}: no such file; give the path of ${what}`);
  if (code?.startsWith('Z_')) {
    return new UserError(`${path}: is not a complete gzip file; make or download it again`);
  }
  if (code === 'ERR_BUFFER_TOO_LARGE' || code === 'ERR_FS_FILE_TOO_LARGE') {
    return new UserError(
      `${path}: unpacks to more than ${UNPACKED_LIMIT >> 20} MiB; check that it is ${what}, and unpack it`,
    );
  }
  return files.explainRead(path, what, error, `give the path of ${what}`);
}

/** The string under `key`; else a `UserError` that shows what is there instead. */
export function stringField(line: JsonLine, key: string): string {
  const field = line.value[key];
  if (typeof field === 'string') return wholeText(line, field);
  const found = field === undefined ? `has no "${key}"` : `has "${key}" ${shown(field)}`;
  throw new UserError(`${line.where}: ${found}; "${key}" must be a string`);
}

/** Checks that a text can be written as UTF-8: JSON can contain half a character, which would be replaced silently. */
export function wholeText({ where }: JsonLine, text: string): string {
  const half = /\p{Surrogate}/u.exec(text);
  if (!half) return text;
  const code = `\\u${half[0].charCodeAt(0).toString(16)}`;
  throw new UserError(
    `${where}: holds ${code}, one half of a surrogate pair without the other; fix the text`,
  );
}

/** The objects of the list under `key`, each as a line of its own. */
export function objectsField({ value, where }: JsonLine, key: string): JsonLine[] {
  const list = value[key];
  if (!Array.isArray(list) || list.some((item) => typeof item !== 'object' || item === null)) {
    throw new UserError(`${where}: has "${key}" ${shown(list)}; "${key}" must be a list of objects`);
  }
  return list.map((item) => ({ value: item as Record<string, unknown>, where }));
}

/** The strings of the list under `key`; a lone string is a list of one. */
export function stringsField(line: JsonLine, key: string): string[] {
  const field = line.value[key];
  const list = typeof field === 'string' ? [field] : field;
  if (!Array.isArray(list) || list.some((item) => typeof item !== 'string')) {
    throw new UserError(`${line.where}: "${key}" must be a list of one or more strings`);
  }
  return list.map((item) => wholeText(line, item));
}

/** The question's own id under `key`, if it has one. */
export function questionId({ value }: JsonLine, key = 'id'): { id?: string } {
  const id = value[key];
  return typeof id === 'string' || typeof id === 'number' ? { id: String(id) } : {};
}

/** The kind of answers that a line in realm's own form states. */
export function answerKindOf({ value, where }: JsonLine): AnswerKind | undefined {
  const { answer_kind: kind } = value;
  if (kind === undefined || kind === 'string' || kind === 'regex') return kind;
  throw new UserError(`${where}: has "answer_kind" ${shown(kind)}; it must be "string" or "regex"`);
}
