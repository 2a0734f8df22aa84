import { gunzipSync } from 'node:zlib';
import { parse } from 'yaml';

/**
 * Why a corrupted file may be accepted: the judge of each kind of file reads it in its own way and says why it is as good
 * as the original, or returns undefined if it must be refused.
 */
export type Judge = (before: Buffer, after: Buffer) => string | undefined;

/** Files with a recorded SHA-256: no other byte is as good. */
export const sealed: Judge = () => undefined;

function text(bytes: Buffer): string | undefined {
  try {
    return new TextDecoder('utf-8', { fatal: true }).decode(bytes); // drops a byte order mark
  } catch {
    return undefined;
  }
}

function json(bytes: Buffer): unknown {
  try {
    return JSON.parse(text(bytes)!);
  } catch {
    return undefined;
  }
}

type Line = Record<string, unknown>;
const isText = (value: unknown) => typeof value === 'string' && !/\p{Surrogate}/u.test(value);
const isTextOr = (value: unknown, other: (value: unknown) => boolean) => isText(value) || other(value);
const absent = (value: unknown) => value === undefined;

const jsonLines =
  (fits: (line: Line) => boolean): Judge =>
  (_, after) => {
    const whole = text(after);
    if (whole === undefined) return undefined;
    for (const line of whole.split('\n')) {
      if (line.trim() === '') continue;
      if (line.length > 16 << 20) return undefined;
      let value: unknown;
      try {
        value = JSON.parse(line);
      } catch {
        return undefined;
      }
      if (typeof value !== 'object' || value === null || Array.isArray(value) || !fits(value as Line))
        return undefined;
    }
    return 'is valid JSONL of the right fields: nobody can know that the text was another';
  };

export const documents = jsonLines(
  ({ id, title, text }) =>
    isText(text) &&
    isTextOr(title, absent) &&
    isTextOr(id, (value) => absent(value) || (typeof value === 'number' && Math.abs(value) <= 2 ** 53 - 1)),
);

export const sentences = jsonLines(({ text, spans }) => {
  if (!isText(text)) return false;
  if (spans === undefined || spans === null) return true;
  return (
    Array.isArray(spans) &&
    spans.every(
      (span) =>
        Array.isArray(span) &&
        span.length === 2 &&
        span.every(Number.isInteger) &&
        span[0] >= 0 &&
        span[0] < span[1] &&
        span[1] <= (text as string).length,
    )
  );
});

export const questions = jsonLines(({ question, answer, answers, passage_id }) => {
  const given = answer ?? answers;
  const list = typeof given === 'string' ? [given] : given;
  return (
    isText(question) &&
    isTextOr(passage_id, absent) &&
    Array.isArray(list) &&
    list.length > 0 &&
    list.every(isText)
  );
});

/** A tree with the keys of every object in order. */
function sorted(value: unknown): unknown {
  if (Array.isArray(value)) return value.map(sorted);
  if (typeof value !== 'object' || value === null) return value;
  const keys = Object.keys(value).sort();
  return keys.map((key) => [key, sorted((value as Line)[key])]);
}

/** JSON with the same content, except for keys that only inform. */
export const sameJson =
  (...informing: string[]): Judge =>
  (before, after) => {
    const told = (bytes: Buffer) => {
      const value = json(bytes);
      if (typeof value !== 'object' || value === null) return undefined;
      const kept = Object.entries(value).filter(([key]) => !informing.includes(key));
      return JSON.stringify(sorted(Object.fromEntries(kept)));
    };
    if (told(after) === undefined || told(after) !== told(before)) return undefined;
    return 'says the same in other JSON, or differs in what only informs';
  };

/** The manifest of an index, which is read completely only if it names the current weights. */
export const indexManifest: Judge = (before, after) => {
  const [old, now] = [json(before), json(after)] as ({ weightsSha256?: unknown } | undefined)[];
  if (now && now.weightsSha256 !== old?.weightsSha256) return 'is of other weights: the index is made anew';
  return sameJson('createdAt', 'recall10', 'step', 'efConstruction', 'm')(before, after);
};

/** JSON with the same values in the named fields; others are ignored. */
export const sameFields =
  (...fields: string[]): Judge =>
  (before, after) => {
    const [old, now] = [json(before), json(after)] as (Line | undefined)[];
    if (typeof now !== 'object' || now === null) return undefined;
    if (fields.some((field) => JSON.stringify(old?.[field]) !== JSON.stringify(now[field]))) return undefined;
    return 'says the same in the fields that are read';
  };

/** A settings file that is valid YAML in UTF-8; other tests check names and values of settings. */
export const settings: Judge = (_, after) => {
  const whole = text(after);
  if (whole === undefined || after.length > 64 << 10) return undefined;
  try {
    const tree = parse(whole, { maxAliasCount: 0, logLevel: 'silent' }) ?? {};
    return typeof tree === 'object' && !Array.isArray(tree)
      ? 'is valid YAML, and every setting in it one that may be'
      : undefined;
  } catch {
    return undefined;
  }
};

export const vocabulary: Judge = (_, after) => {
  const lines = text(after)
    ?.replace(/\r?\n$/, '')
    .split(/\r?\n/);
  if (!lines || new Set(lines).size < lines.length || lines.some((line) => line === '' || line.length > 1000))
    return undefined;
  if (!['[PAD]', '[UNK]', '[CLS]', '[SEP]', '[MASK]'].every((token) => lines.includes(token)))
    return undefined;
  return 'is a vocabulary of its own: the special tokens are there, no piece is there twice';
};

type Entry = { dtype: string; shape: number[]; data_offsets: [number, number] };

function tensors(bytes: Buffer): Map<string, { dtype: string; shape: string; data: Buffer }> | undefined {
  try {
    const length = Number(bytes.readBigUInt64LE(0));
    const header = JSON.parse(text(bytes.subarray(8, 8 + length))!) as Record<string, Entry>;
    const data = bytes.subarray(8 + length);
    return new Map(
      Object.entries(header)
        .filter(([name]) => name !== '__metadata__')
        .map(
          ([
            name,
            {
              dtype,
              shape,
              data_offsets: [begin, end],
            },
          ]) => [name, { dtype, shape: shape.join(), data: data.subarray(begin, end) }],
        ),
    );
  } catch {
    return undefined;
  }
}

/** Weights with the same tensors, all of them finite floats. `optional` names those that may be missing. */
export const weights =
  (optional = /^$/): Judge =>
  (before, after) => {
    const [old, now] = [tensors(before)!, tensors(after)];
    if (!now) return undefined;
    for (const [name, { shape }] of old) {
      const found = now.get(name);
      if (!found) {
        if (optional.test(name)) continue;
        return undefined;
      }
      if (found.shape !== shape || !/^(F64|F32|F16|BF16)$/.test(found.dtype)) return undefined;
      if (found.dtype === 'F32')
        for (let at = 0; at + 4 <= found.data.length; at += 4)
          if (!Number.isFinite(found.data.readFloatLE(at))) return undefined;
    }
    return 'holds other finite numbers in the same shapes, and no sum of the whole is published with it';
  };

/** Lines of metrics for people; a line that a kill has cut short is skipped. */
export const log: Judge = () =>
  'is a log of figures: lines that are broken are left out, training does not rest on them';

/** The current index: any existing one. One made by other weights is rebuilt. */
export const pointer: Judge = (_, after) =>
  /^step-\d{7}$/.test(after.toString().trim()) ? 'names an index that is there' : undefined;

/** The latest checkpoint: any existing one, with its hashes. */
export const checkpointPointer: Judge = (_, after) =>
  /^step-\d{7}$/.test(after.toString().trim()) ? 'names a checkpoint that is there' : undefined;

/** The content of a gzip file, up to the size of any file here; undefined if it is not a gzip file. */
export function unpacked(bytes: Buffer): Buffer | undefined {
  try {
    return gunzipSync(bytes, { maxOutputLength: 300 << 20 });
  } catch {
    return undefined;
  }
}

/** The demo's record of each stage: its time and an object. A number of the right kind in it is accepted unchecked. */
export const results: Judge = (_, after) => {
  const value = json(after);
  if (typeof value !== 'object' || value === null || Array.isArray(value)) return undefined;
  const sound = Object.values(value).every(
    (kept) => typeof kept?.seconds === 'number' && typeof kept.result === 'object' && kept.result !== null,
  );
  return sound ? 'keeps results of the right form; a stage that it does not keep is run again' : undefined;
};
