import assert from 'node:assert/strict';
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { gunzipSync } from 'node:zlib';
import { readQrels } from '../../src/datasets/qrels.ts';
import {
  firstOfEach,
  fourDigits,
  JUDGED_MEASURES,
  judgedMeasures,
  judgedValues,
  trecOrder,
} from '../../src/eval/judged.ts';
import { readRunFile } from '../../src/eval/run-files.ts';
import { mean } from '../../src/eval/statistics.ts';
import { temporaryFolder } from '../support/tiny.ts';

const folder = temporaryFolder('judged');
const near = (actual: number, expected: number) =>
  assert.ok(Math.abs(actual - expected) < 1e-12, `${actual}, not ${expected}`);

test('the measures of one query, by hand', () => {
  const grades = new Map([
    ['a', 2],
    ['b', 1],
    ['c', 0],
    ['d', -1],
    ['e', 3],
  ]);
  // Gains 0 0 1 2 0: relevant at ranks 3 and 4 of three relevant documents; d, judged below 0, gains nothing.
  const measures = judgedMeasures(['d', 'unjudged', 'b', 'a', 'c'], grades);
  near(measures.MAP, (1 / 3 + 2 / 4) / 3);
  near(measures.MRR, 1 / 3);
  near(measures['R-precision'], 1 / 3);
  near(measures['recall@1'], 0);
  near(measures['recall@5'], 2 / 3);
  near(measures['recall@100'], 2 / 3);
  near(measures['P@5'], 2 / 5);
  near(measures['P@20'], 2 / 20);
  near(measures['nDCG@1'], 0);
  const gained = 1 / 2 + 2 / Math.log2(5);
  near(measures['nDCG@5'], gained / (3 + 2 / Math.log2(3) + 1 / 2));
  near(measures['nDCG@100'], measures['nDCG@5']);
  assert.deepEqual(Object.keys(measures).sort(), [...JUDGED_MEASURES].sort());
  assert.ok(Object.values(judgedMeasures(['c'], new Map([['c', 0]]))).every((value) => value === 0));
  assert.ok(Object.values(judgedMeasures([], grades)).every((value) => value === 0));
});

test('documents in the order of scores of 32 bits; of equal ones the greater id by bytes first', () => {
  const order = (ids: string[], scores: number[]) => trecOrder(ids, scores).map((i) => ids[i]);
  assert.deepEqual(order(['a', 'b', 'c'], [1, 3, 2]), ['b', 'c', 'a']);
  assert.deepEqual(order(['d9', 'd10', 'D1', 'é'], [1, 1, 1, 1]), ['é', 'd9', 'd10', 'D1']);
  assert.deepEqual(order(['a', 'b'], [1 + 1e-9, 1]), ['b', 'a'], 'equal in 32 bits');
  // By UTF-16 units the emoji (D83D …) would come before the wide tilde (FF5E).
  assert.deepEqual(order(['～', '😀'], [1, 1]), ['😀', '～']);
  assert.deepEqual(firstOfEach(['x', 'y', 'x', 'z', 'y']), [0, 1, 3]);
});

interface Case {
  lines: string[];
  printed: [measure: string, query: string, value: string][];
  values: Record<string, Record<string, number>>;
  means: Record<string, number>;
}

// scripts/protocols/judged.py made these runs and their values.
const { qrels, runs }: { qrels: string[]; runs: Case[] } = JSON.parse(
  gunzipSync(readFileSync(new URL('../fixtures/judged/runs.json.gz', import.meta.url))).toString(),
);

/** trec_eval's and ir_measures' names of our measures. */
const THEIRS: Record<string, string> = {
  map: 'MAP',
  recip_rank: 'MRR',
  Rprec: 'R-precision',
  AP: 'MAP',
  RR: 'MRR',
};
function ours(name: string): string {
  return (
    THEIRS[name] ??
    name
      .replace(/^ndcg_cut_/, 'nDCG@')
      .replace(/^(recall_|R@)/, 'recall@')
      .replace(/^P_/, 'P@')
  );
}

test('20 runs with ties: every value equals trec_eval, pytrec_eval and ir_measures', async () => {
  writeFileSync(join(folder, 'qrels'), qrels.join('\n'));
  const judgements = await readQrels(join(folder, 'qrels'));
  assert.equal(runs.length, 20);
  let missing = 0;
  let compared = 0;
  for (const { lines, printed, values, means } of runs) {
    writeFileSync(join(folder, 'run.trec'), lines.join('\n'));
    const judged = judgedValues(await readRunFile(join(folder, 'run.trec')), judgements);
    const at = new Map(judged.queries.map((query, i) => [query, i]));
    for (const [name, query, value] of printed) {
      const own = judged.values[ours(name)];
      const found = query === 'all' ? mean(own) : own[at.get(query)!];
      assert.equal(fourDigits(found), value, `${name} ${query}`);
      compared++;
    }
    for (const [query, measures] of Object.entries(values)) {
      for (const [name, value] of Object.entries(measures)) {
        near(judged.values[ours(name)][at.get(query)!], value);
        compared++;
      }
    }
    for (const [name, value] of Object.entries(means)) near(mean(judged.values[ours(name)]), value);
    const answered = new Set(lines.map((line) => line.split(/\s/)[0]));
    assert.equal(judged.missing, judged.queries.filter((query) => !answered.has(query)).length);
    assert.equal(judged.unjudged, Number(answered.has('unjudged')));
    missing += judged.missing;
    // JSON as ranx, pytrec_eval and BEIR write it is the same run.
    const tree: Record<string, Record<string, number>> = {};
    for (const line of lines) {
      const [query, , document, , score] = line.split(/\s/);
      tree[query] = { ...tree[query], [document]: Number(score) };
    }
    writeFileSync(join(folder, 'run.json'), JSON.stringify(tree));
    assert.deepEqual(judgedValues(await readRunFile(join(folder, 'run.json')), judgements), judged);
  }
  assert.ok(missing > 10 && compared > 6000, `${missing} missing, ${compared} compared`);
});

test('four digits as C prints them', () => {
  const printed = [0.03125, 0.09375, 0.5, 1, 2 / 3, 0.00005].map(fourDigits);
  assert.deepEqual(printed, ['0.0312', '0.0938', '0.5000', '1.0000', '0.6667', '0.0001']);
  assert.equal(fourDigits(-0.03125), '-0.0312');
});
