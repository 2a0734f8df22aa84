/** Blocks with their scores, of equal lengths. */
export interface Scored {
  blocks: Int32Array;
  scores: Float64Array;
}

/**
 * Collects the `k` best of blocks that are added in ascending order: by score, then by number. Memory for 2 k; sorted only
 * when that is full, so a block costs a comparison.
 */
export function bestOf(k: number) {
  const blocks = new Int32Array(2 * k);
  const scores = new Float64Array(2 * k);
  let held = 0;
  let least = 0;
  function keepBest(): void {
    const order = Uint32Array.from(blocks.subarray(0, held).keys()).sort(
      (a, b) => scores[b] - scores[a] || blocks[a] - blocks[b],
    );
    const best = order.subarray(0, k);
    const kept = {
      blocks: Int32Array.from(best, (i) => blocks[i]),
      scores: Float64Array.from(best, (i) => scores[i]),
    };
    blocks.set(kept.blocks);
    scores.set(kept.scores);
    held = best.length;
    if (held === k) least = scores[k - 1];
  }
  return {
    /** A block with this score or less is not among the best; 0 until `k` are known. */
    least: () => least,
    add(block: number, score: number): void {
      if (held === 2 * k) keepBest();
      if (score <= least) return;
      blocks[held] = block;
      scores[held++] = score;
    },
    sorted(): Scored {
      keepBest();
      return { blocks: blocks.slice(0, held), scores: scores.slice(0, held) };
    },
  };
}
