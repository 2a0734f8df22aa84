import type { Found } from './graph.ts';

/**
 * Merges two searches with the same queries: keeps the best k per query, in `best` [n*k]; of equal scores those in `best`
 * come first.
 * @param found [n*w], over blocks of larger numbers; both are sorted best first
 */
export function keepBest(best: Found, found: Found): void {
  const n = best.counts.length;
  const k = best.blocks.length / n;
  const w = found.blocks.length / n;
  const blocks = new Int32Array(k);
  const scores = new Float32Array(k);
  for (let q = 0; q < n; q++) {
    const held = best.counts[q];
    const more = found.counts[q];
    if (held === k && !(found.scores[q * w] > best.scores[q * k + k - 1])) continue;
    const count = Math.min(k, held + more);
    for (let to = 0, a = 0, b = 0; to < count; to++) {
      const old = b === more || (a < held && best.scores[q * k + a] >= found.scores[q * w + b]);
      blocks[to] = old ? best.blocks[q * k + a] : found.blocks[q * w + b];
      scores[to] = old ? best.scores[q * k + a++] : found.scores[q * w + b++];
    }
    best.blocks.set(blocks.subarray(0, count), q * k);
    best.scores.set(scores.subarray(0, count), q * k);
    best.counts[q] = count;
  }
}
