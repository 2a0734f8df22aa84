/**
 * The largest difference between two answers' numbers, where all else is the same; Infinity where it is not. A product of
 * matrices is summed in another order for another number of rows, so that a question asked among others gets the same
 * answers with shares that differ in the last bits of a float.
 */
export function difference(a: unknown, b: unknown): number {
  if (typeof a === 'number' && typeof b === 'number') return Math.abs(a - b);
  if (typeof a !== 'object' || typeof b !== 'object' || a === null || b === null) {
    return a === b ? 0 : Number.POSITIVE_INFINITY;
  }
  const [left, right] = [Object.entries(a), Object.entries(b)];
  if (left.length !== right.length) return Number.POSITIVE_INFINITY;
  return left.reduce(
    (most, [name, value]) => Math.max(most, difference(value, (b as Record<string, unknown>)[name])),
    0,
  );
}
