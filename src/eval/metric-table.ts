import type { Part } from './breakdown.ts';
import type { Scores } from './evaluate.ts';
import { type Comparison, compare, type Interval, meanInterval } from './statistics.ts';

// Metrics of an evaluation by name, and the table for a person to read.

/** Metrics by their names, such as exactMatch: a number, or a mean with its interval of confidence. */
export type MetricValues = Record<string, number | Interval>;

/** Exact match, F1 and the oracles with their intervals. @param strings false if the answers are regular expressions, for which there is no F1 */
export function answerMetrics(scores: Omit<Scores, 'ranks'>, strings: boolean, seed: number): MetricValues {
  const { exactMatch, tokenExactMatch, f1, readerOracle, spanOracle } = scores;
  return {
    exactMatch: meanInterval(exactMatch, seed),
    tokenExactMatch: meanInterval(tokenExactMatch, seed),
    ...(strings ? { f1: meanInterval(f1, seed) } : {}),
    readerOracle: meanInterval(readerOracle, seed),
    spanOracle: meanInterval(spanOracle, seed),
  };
}

/**
 * Recall@k, the share of questions with an answer in the first k blocks, and the mean reciprocal rank of the first block
 * with an answer, 0 if no retrieved block has one.
 * @param ranks from 0; Infinity for none
 */
export function rankingMetrics(ranks: readonly number[], ks: readonly number[], seed: number): MetricValues {
  const metrics: MetricValues = {};
  for (const k of ks)
    metrics[`recall@${k}`] = meanInterval(
      ranks.map((rank) => Number(rank < k)),
      seed,
    );
  metrics.mrr = meanInterval(
    ranks.map((rank) => 1 / (rank + 1)),
    seed,
  );
  return metrics;
}

const NAMES: Record<string, string> = {
  exactMatch: 'exact match, text',
  tokenExactMatch: 'exact match, tokens',
  closedBook: 'exact match, closed book',
  f1: 'F1',
  readerOracle: 'reader oracle, answers',
  spanOracle: 'reader oracle, spans',
  mrr: 'MRR',
  perplexity: 'perplexity',
  nullPerplexity: 'perplexity, null document',
  retrievalUtility: 'retrieval utility (nats)',
  nullProbability: 'null document, p(z|x)',
};

/** Metrics that are not shares; shares are printed in percent. */
const NOT_SHARES = new Set(['mrr', 'perplexity', 'nullPerplexity', 'retrievalUtility']);

function formatMetric(name: string, metric: number | Interval): string {
  const plain = NOT_SHARES.has(name);
  const number = (value: number) => (plain ? value.toFixed(3) : (100 * value).toFixed(1));
  const { value, low, high } = typeof metric === 'number' ? { value: metric } : metric;
  const interval = low === undefined || high === undefined ? '' : `  (${number(low)} to ${number(high)})`;
  return `${number(value)}${plain ? '' : ' %'}${interval}`;
}

/** One line per metric, its 95 % interval in brackets; with several columns, one per system. */
export function metricTable(columns: Readonly<Record<string, MetricValues>>): string[] {
  const systems = Object.entries(columns);
  const names = [...new Set(systems.flatMap(([, metrics]) => Object.keys(metrics)))];
  const rows = names.map((name) => [
    NAMES[name] ?? name,
    ...systems.map(([, metrics]) => (metrics[name] === undefined ? '' : formatMetric(name, metrics[name]))),
  ]);
  return aligned(systems.length > 1 ? [['', ...systems.map(([name]) => name)], ...rows] : rows);
}

/** Exact match of parts of the questions. */
export function partTable(title: string, parts: readonly Part[]): string[] {
  if (parts.length === 0) return [];
  return [
    '',
    ...aligned([
      [title, 'questions', 'exact match'],
      ...parts.map(({ name, questions, exactMatch }) => [
        `  ${name}`,
        String(questions),
        formatMetric('exactMatch', exactMatch),
      ]),
    ]),
  ];
}

/** Recall and mean reciprocal rank of several settings, the best one marked. */
export function recallTable(
  title: string,
  rows: readonly { name: string; weight: number; recall: Record<number, number>; mrr: number }[],
  best: number,
): string[] {
  const names = Object.keys(rows[0]?.recall ?? {});
  return aligned([
    [title, ...names.map((k) => `recall@${k}`), 'MRR'],
    ...rows.map(({ name, weight, recall, mrr }) => [
      name,
      ...names.map((k) => formatMetric('recall', recall[Number(k)])),
      `${formatMetric('mrr', mrr)}${weight === best ? '  best' : ''}`,
    ]),
  ]);
}

/** One system compared with another. */
export function comparisonLines(name: string, against: string, c: Comparison): string[] {
  const { value, low, high } = c.difference;
  const chance = c.pValue === undefined ? '' : `, McNemar's exact test p = ${c.pValue.toPrecision(2)}`;
  return [
    '',
    `against ${against}, ${c.questions} questions:`,
    `  ${NAMES[name] ?? name} ${points(value)} points  (${points(low)} to ${points(high)}), ${c.better} better, ${c.worse} worse${chance}`,
  ];
}

/**
 * How much one system finds more than others, by k, its 95 % interval in brackets.
 * @param columns recall@k minus another system's, by the name of the difference
 */
export function differenceTable(title: string, columns: Readonly<Record<string, Differences>>): string[] {
  const systems = Object.values(columns);
  const cell = ({ difference: { value, low, high } }: Comparison) =>
    `${points(value)} points  (${points(low)} to ${points(high)})`;
  return [
    '',
    ...aligned([
      [title, ...Object.keys(columns)],
      ...Object.keys(systems[0] ?? {}).map((k) => [
        `  recall@${k}`,
        ...systems.map((differences) => cell(differences[Number(k)])),
      ]),
    ]),
  ];
}

/** Recall@k of a system minus that of another on the same questions, by k. */
export type Differences = Record<number, Comparison>;

/** @param ranks, others from 0; Infinity for none */
export function recallDifferences(
  ranks: readonly number[],
  others: readonly number[],
  ks: readonly number[],
  seed: number,
): Differences {
  const found = (list: readonly number[], k: number) => list.map((rank) => Number(rank < k));
  return Object.fromEntries(ks.map((k) => [k, compare(found(ranks, k), found(others, k), seed)]));
}

const points = (value: number) => `${value < 0 ? '−' : '+'}${Math.abs(100 * value).toFixed(1)}`;

/** Rows with aligned columns. */
export function aligned(rows: readonly string[][]): string[] {
  const columns = Math.max(0, ...rows.map((row) => row.length));
  const widths = Array.from({ length: columns }, (_, c) =>
    Math.max(...rows.map((row) => row[c]?.length ?? 0)),
  );
  return rows.map((row) =>
    row
      .map((cell, c) => cell.padEnd(widths[c]))
      .join('   ')
      .trimEnd(),
  );
}
