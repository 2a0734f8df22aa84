import assert from 'node:assert/strict';
import { test } from 'node:test';
import { answerMetrics, comparisonLines, metricTable, rankingMetrics } from '../../src/eval/metric-table.ts';
import type { Interval } from '../../src/eval/statistics.ts';

const values = (metrics: Record<string, unknown>) =>
  Object.fromEntries(Object.entries(metrics).map(([name, metric]) => [name, (metric as Interval).value]));

test('recall@k and the mean reciprocal rank of four questions, by hand', () => {
  // First, second and sixth rank, and none.
  assert.deepEqual(values(rankingMetrics([0, 1, 5, Infinity], [1, 2, 5, 6], 1)), {
    'recall@1': 1 / 4,
    'recall@2': 2 / 4,
    'recall@5': 2 / 4,
    'recall@6': 3 / 4,
    mrr: (1 + 1 / 2 + 1 / 6) / 4,
  });
});

test('each metric of answers has its own scores, and regular expressions have no F1', () => {
  const scores = {
    exactMatch: [1, 0, 0, 0, 0],
    tokenExactMatch: [0, 0, 1, 0, 1],
    f1: [0.5, 0, 0, 0, 0],
    readerOracle: [1, 0, 1, 0, 1],
    spanOracle: [1, 1, 1, 0, 1],
  };
  const metrics = values(answerMetrics(scores, true, 1));
  assert.deepEqual(metrics, {
    exactMatch: 0.2,
    tokenExactMatch: 0.4,
    f1: 0.1,
    readerOracle: 0.6,
    spanOracle: 0.8,
  });
  assert.equal('f1' in answerMetrics(scores, false, 1), false);
});

test('shares are shown in percent, nats and perplexities as they are, differences in points', () => {
  assert.deepEqual(
    metricTable({
      run: {
        exactMatch: { value: 0.757, low: 0.708, high: 0.804 },
        perplexity: 11.7,
        retrievalUtility: 1.46,
        mrr: 0.84,
      },
    }).map((line) => line.split(/ {2,}/).join(' | ')),
    [
      'exact match, text | 75.7 % | (70.8 to 80.4)',
      'perplexity | 11.700',
      'retrieval utility (nats) | 1.460',
      'MRR | 0.840',
    ],
  );
  const difference = { value: -0.02, low: -0.041, high: 0.003 };
  assert.match(
    comparisonLines('f1', 'other', { questions: 9, difference, better: 1, worse: 3, pValue: 0.625 }).join(
      '\n',
    ),
    /against other, 9 questions:\n {2}F1 −2\.0 points {2}\(−4\.1 to \+0\.3\), 1 better, 3 worse, McNemar's exact test p = 0\.63/,
  );
});
