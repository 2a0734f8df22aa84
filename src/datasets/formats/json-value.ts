import { isUtf8 } from 'node:buffer';

/**
 * A value of Parquet or Arrow as JSON would have it: whole numbers above 2^53 and times become strings, NaN becomes null, bytes
 * that are UTF-8 become text.
 */
export function jsonValue(value: unknown): unknown {
  if (typeof value === 'string') return value;
  if (value === undefined || value === null) return null;
  if (typeof value === 'bigint')
    return value >= Number.MIN_SAFE_INTEGER && value <= Number.MAX_SAFE_INTEGER
      ? Number(value)
      : String(value);
  if (typeof value === 'number') return Number.isFinite(value) ? value : null;
  if (value instanceof Date) return Number.isNaN(value.getTime()) ? null : value.toISOString();
  if (value instanceof Uint8Array)
    return isUtf8(value) ? Buffer.from(value.buffer, value.byteOffset, value.length).toString('utf8') : value;
  if (Array.isArray(value)) return value.map(jsonValue);
  if (typeof value === 'object')
    return Object.fromEntries(Object.entries(value).map(([key, item]) => [key, jsonValue(item)]));
  return value;
}
