/**
 * The largest difference between the numbers of two answers; Infinity if anything else differs. A matrix product is summed
 * in another order for another number of rows, so a question asked together with others gets the same answers, with
 * probabilities that differ in the last bits of a float.
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
