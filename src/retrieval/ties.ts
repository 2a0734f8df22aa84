// Equal scores are ordered by block number in every search, so that the result of a smaller k is the beginning of that of a
// larger one, on every machine. usearch, like faiss, leaves them in any order, and keeps any of them as the last ones.

/** Orders equal scores [from, to) of a search, sorted best first, by block number. */
export function orderTies(
  { blocks, scores }: { blocks: Int32Array; scores: Float32Array },
  from: number,
  to: number,
): void {
  for (let start = from; start < to; ) {
    let end = start + 1;
    while (end < to && scores[end] === scores[start]) end++;
    if (end > start + 1) blocks.subarray(start, end).sort();
    start = end;
  }
}
