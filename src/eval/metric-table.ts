import type { Part } from './breakdown.ts';
import type { Scores } from './evaluate.ts';
import { type Comparison, type Interval, meanInterval } from './statistics.ts';

// Figures of an evaluation by their names, and the table that a person reads.

export type MetricValues = Record<string, number | Interval>;

/** Exact match, F1 and the oracles with their intervals. @param strings false where the answers are expressions, which have no F1 */
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
 * Recall@k, the share of questions with an answer in the first k blocks, and the mean reciprocal rank of the first such
 * block, 0 beyond those retrieved.
 * @param ranks from 0; Infinity for none
 */
export function rankingMetrics(ranks: readonly number[], ks: readonly number[], seed: number): MetricValues {
  const figures: MetricValues = {};
  for (const k of ks)
    figures[`recall@${k}`] = meanInterval(
      ranks.map((rank) => Number(rank < k)),
      seed,
    );
  figures.mrr = meanInterval(
    ranks.map((rank) => 1 / (rank + 1)),
    seed,
  );
  return figures;
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

/** Shares are printed in per cent. */
const PLAIN = new Set(['mrr', 'perplexity', 'nullPerplexity', 'retrievalUtility']);

function shownFigure(name: string, figure: number | Interval): string {
  const plain = PLAIN.has(name);
  const number = (value: number) => (plain ? value.toFixed(3) : (100 * value).toFixed(1));
  const { value, low, high } = typeof figure === 'number' ? { value: figure } : figure;
  const interval = low === undefined || high === undefined ? '' : `  (${number(low)} to ${number(high)})`;
  return `${number(value)}${plain ? '' : ' %'}${interval}`;
}

/** A line a figure, its 95 % interval in brackets; with several columns, one for each system. */
export function metricTable(columns: Readonly<Record<string, MetricValues>>): string[] {
  const systems = Object.entries(columns);
  const names = [...new Set(systems.flatMap(([, figures]) => Object.keys(figures)))];
  const rows = names.map((name) => [
    NAMES[name] ?? name,
    ...systems.map(([, figures]) => (figures[name] === undefined ? '' : shownFigure(name, figures[name]))),
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
        shownFigure('exactMatch', exactMatch),
      ]),
    ]),
  ];
}

/** How a system stands against another. */
export function comparisonLines(name: string, against: string, c: Comparison): string[] {
  const points = (value: number) => `${value < 0 ? '−' : '+'}${Math.abs(100 * value).toFixed(1)}`;
  const { value, low, high } = c.difference;
  const chance = c.pValue === undefined ? '' : `, McNemar's exact test p = ${c.pValue.toPrecision(2)}`;
  return [
    '',
    `against ${against}, ${c.questions} questions:`,
    `  ${NAMES[name] ?? name} ${points(value)} points  (${points(low)} to ${points(high)}), ${c.better} better, ${c.worse} worse${chance}`,
  ];
}

/** Columns side by side. */
function aligned(rows: readonly string[][]): string[] {
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
