import type { Config } from '../config.ts';
import { vectorLength } from '../model/head.ts';
import { dtypeOf } from '../retrieval/graph.ts';
import { graphCount, rowsOf } from '../retrieval/graphs.ts';

/** The refresher's share of the cores next to a trainer that never pauses, at nice 5: Linux weighs them 335 to 1024. */
export const REFRESHER_SHARE = 0.25;

/** How far a time may be from its estimate, either way: see docs/training.md, "What a run will need". */
export const TIME_FACTOR = 2;

/** Blocks retrieved for each question by `realm eval` (src/pipeline/evaluation.ts). */
export const EVAL_RETRIEVED_BLOCKS = 100;

/** How many graphs share the blocks, and the rows of the largest. */
export function sharing(
  { kind, subIndexes }: Config['index'],
  blocks: number,
): { graphs: number; rows: number } {
  const graphs = kind === 'exact' ? 0 : graphCount(blocks, subIndexes);
  return { graphs, rows: graphs === 0 ? 0 : rowsOf(0, graphs, blocks).count };
}

/** Bytes of an index folder: the vectors as floats, and the graphs with their own copy of the vectors, 20 bytes and 8 a link for each node. */
export function indexBytes(
  { index, model }: Config,
  blocks: number,
): { vectors: number; graph: number; hashes: number } {
  const kept = vectorLength(model) * (dtypeOf(index.dtype, blocks) === 'f16' ? 2 : 4);
  return {
    vectors: blocks * vectorLength(model) * 4,
    graph: index.kind === 'exact' ? 0 : blocks * (kept + 20 + 8 * index.m),
    hashes: 8 * blocks,
  };
}

/** `2.5 min`, `3 h`, `40 days`: no more digits than the estimate supports. */
export function about(seconds: number): string {
  if (seconds < 1) return 'less than 1 s';
  const [unit, name] = UNITS.find(([unit]) => seconds >= 1.5 * unit) ?? [1, 's'];
  const n = seconds / unit;
  return `${n < 10 ? Number(n.toFixed(1)) : Number(n.toPrecision(2)).toLocaleString('en')} ${name}`;
}

const UNITS: [number, string][] = [
  [365 * 86_400, 'years'],
  [86_400, 'days'],
  [3600, 'h'],
  [60, 'min'],
];
