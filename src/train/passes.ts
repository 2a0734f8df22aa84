import type { Ranks } from '../engine/ranks.ts';
import type { Random } from '../random.ts';

// How the work of one step is divided: a rank takes its part of the batch, in passes of a micro-batch. The gradients of all
// passes, on all ranks, add up to those of the batch. Random numbers belong to a pass and follow from its place among all
// passes of all ranks; so N ranks compute what one process computes with the same passes.

/** One pass: the examples [from, to) of the batch, which belong to one rank. */
export interface Pass {
  rank: number;
  from: number;
  to: number;
}

/** The passes of all ranks over `n` examples, in the order of the examples. */
export function allPasses({ size }: Ranks, n: number, microBatch: number): Pass[] {
  const passes: Pass[] = [];
  for (let rank = 0; rank < size; rank++) {
    const [first, end] = partOf(size, rank, n);
    for (let from = first; from < end; from += microBatch)
      passes.push({ rank, from, to: Math.min(from + microBatch, end) });
  }
  return passes;
}

/**
 * The passes of this rank, each with its random numbers.
 * @param random of the step; it is used up. Undefined without dropout
 */
export function ownPasses(
  ranks: Ranks,
  n: number,
  microBatch: number,
  random: Random | undefined,
): (Pass & { random?: Random })[] {
  return (
    allPasses(ranks, n, microBatch)
      // The first pass draws from the source itself, when the others have got theirs.
      .map((pass, i) => ({ ...pass, random: i === 0 ? random : random?.fork() }))
      .filter(({ rank }) => rank === ranks.rank)
  );
}

/** The part [from, to) of `n` examples that a rank has: as equal as possible, in order. */
function partOf(size: number, rank: number, n: number): [from: number, to: number] {
  return [Math.floor((n * rank) / size), Math.floor((n * (rank + 1)) / size)];
}
