import type { Config } from '../config.ts';
import { random } from '../random.ts';
import { everyTimes } from '../schedule.ts';

// The paper's Table 2 (ablation): what each part of REALM contributes, measured by removing it. Rows and statistics.

/** Percent on the dev questions of Natural Questions; recall@5 is that of the retriever before fine-tuning. */
export interface PaperMetrics {
  exactMatch: number;
  recall5: number;
}

export interface Row {
  name: string;
  label: string;
  /** How the row's settings differ from the given ones. */
  change(config: Config): Config;
  /** Pretraining of the row: its own, that of the row realm, or none. */
  pretraining: 'own' | 'realm' | 'none';
  /** Null if Table 2 has no such row. */
  paper: PaperMetrics | null;
}

const pretrain =
  (change: Partial<Config['pretrain']>) =>
  (config: Config): Config => ({ ...config, pretrain: { ...config.pretrain, ...change } });
const startsWith =
  (change: Partial<Config['qa']>) =>
  (config: Config): Config => ({ ...config, qa: { ...config.qa, ...change } });

/** In the order of the table; `realm` comes before the rows that share its pretraining. */
export const ROWS: readonly Row[] = [
  {
    name: 'realm',
    label: 'REALM',
    change: (config) => config,
    pretraining: 'own',
    paper: { exactMatch: 38.2, recall5: 38.5 },
  },
  {
    name: 'realm-retriever',
    label: 'REALM retriever, baseline encoder',
    change: startsWith({ reader: 'initial' }),
    pretraining: 'realm',
    paper: { exactMatch: 37.4, recall5: 38.5 },
  },
  {
    name: 'realm-reader',
    label: 'baseline retriever, REALM encoder',
    change: startsWith({ retriever: 'ict-warmup' }),
    pretraining: 'realm',
    paper: { exactMatch: 35.3, recall5: 13.9 },
  },
  {
    name: 'baseline',
    label: 'baseline (inverse cloze task alone)',
    change: startsWith({ retriever: 'ict-warmup', reader: 'initial' }),
    pretraining: 'none',
    paper: { exactMatch: 31.3, recall5: 13.9 },
  },
  {
    name: 'tokens',
    label: 'random uniform masks',
    change: pretrain({ masking: 'tokens' }),
    pretraining: 'own',
    paper: { exactMatch: 32.3, recall5: 24.2 },
  },
  {
    name: 'spans',
    label: 'random span masks',
    change: pretrain({ masking: 'spans' }),
    pretraining: 'own',
    paper: { exactMatch: 35.3, recall5: 26.1 },
  },
  {
    name: 'stale',
    label: 'index 30 times staler',
    change: (config) => ({
      ...config,
      refresh: { ...config.refresh, every: everyTimes(config.refresh.every, 30) },
    }),
    pretraining: 'own',
    paper: { exactMatch: 28.7, recall5: 15.1 },
  },
  {
    name: 'no-null',
    label: 'no null document',
    change: pretrain({ nullDocument: false }),
    pretraining: 'own',
    paper: null,
  },
  {
    name: 'trivial',
    label: 'trivial candidates kept',
    change: pretrain({ dropTrivial: false }),
    pretraining: 'own',
    paper: null,
  },
  {
    name: 'marginal',
    label: 'the other marginal (token, or span)',
    change: (config) =>
      pretrain({ marginalize: config.pretrain.marginalize === 'span' ? 'token' : 'span' })(config),
    pretraining: 'own',
    paper: null,
  },
];

/** Results of a row: for every seed and every question of the seed, whether it was right. All rows have the same questions. */
export interface Outcomes {
  name: string;
  label: string;
  paper: PaperMetrics | null;
  /** The best answer is an accepted one. */
  correct: boolean[][];
  /** One of the five best blocks contains an answer. */
  recalled: boolean[][];
}

/** Shares from 0 to 1: the mean over the seeds, and its 95 % bootstrap interval over questions. */
export interface Metric {
  mean: number;
  low: number;
  high: number;
  bySeed: number[];
}

/** Two rows that differ in the paper, and our values: `difference` is the metric of `better` minus that of `worse`. */
export interface Pair {
  /** Names of the rows; `better` is better in the paper. */
  better: string;
  worse: string;
  difference: Omit<Metric, 'bySeed'>;
}

export interface Order {
  pairs: Pair[];
  /**
   * Kendall's tau of the means over `pairs`: pairs in the paper's order minus reversed pairs, as a share of all; null
   * without pairs. Rows that are equal in the paper make no pair, so strictly this is Somers' D of our order given the paper's.
   */
  tau: number | null;
}

/** `ablation/table.json` of a run folder. */
export interface AblationTable {
  /** Number of seeds. */
  seeds: number;
  /** Number of questions, summed over all seeds. */
  questions: number;
  rows: { name: string; label: string; exactMatch: Metric; recall5: Metric; paper: PaperMetrics | null }[];
  order: { exactMatch: Order; recall5: Order };
}

const METRICS = { exactMatch: 'correct', recall5: 'recalled' } as const;

/** The table of rows that were all measured with the same seeds. */
export function ablationTable(rows: readonly Outcomes[]): AblationTable {
  const measured = {
    exactMatch: metricsOf(rows.map((row) => row.correct)),
    recall5: metricsOf(rows.map((row) => row.recalled)),
  };
  const order = (metric: keyof typeof METRICS) => orderOf(rows, measured[metric], metric);
  const [first] = rows;
  return {
    seeds: first?.correct.length ?? 0,
    questions: first?.correct.flat().length ?? 0,
    rows: rows.map(({ name, label, paper }, i) => ({
      name,
      label,
      exactMatch: measured.exactMatch[i].metric,
      recall5: measured.recall5[i].metric,
      paper,
    })),
    order: { exactMatch: order('exactMatch'), recall5: order('recall5') },
  };
}

const RESAMPLES = 2000;

interface Resampled {
  metric: Metric;
  /** The mean over the questions of each resample: [RESAMPLES]. */
  means: Float64Array;
}

/**
 * Metrics of rows [row][seed][question]. The interval is a bootstrap: each seed's questions are resampled with
 * replacement, the same ones for every row, so that the difference of two rows has an interval too. It shows how much
 * the mean would vary with other questions. For other seeds see `bySeed`: there are too few seeds to resample.
 */
function metricsOf(rows: readonly (readonly (readonly boolean[])[])[]): Resampled[] {
  const rng = random(1);
  const means = rows.map(() => new Float64Array(RESAMPLES));
  const seeds = rows[0]?.length ?? 0;
  for (let seed = 0; seed < seeds; seed++) {
    const n = rows[0][seed].length;
    const drawn = new Uint32Array(n);
    for (let r = 0; r < RESAMPLES; r++) {
      for (let i = 0; i < n; i++) drawn[i] = rng.int(n);
      rows.forEach((row, at) => {
        const right = row[seed];
        let sum = 0;
        for (const question of drawn) if (right[question]) sum++;
        means[at][r] += sum / n / seeds;
      });
    }
  }
  return rows.map((row, at) => {
    const bySeed = row.map((right) => right.filter(Boolean).length / right.length);
    return {
      metric: { mean: bySeed.reduce((a, b) => a + b, 0) / seeds, ...interval(means[at]), bySeed },
      means: means[at],
    };
  });
}

/** The middle 95 % of values. */
function interval(values: Float64Array): { low: number; high: number } {
  const sorted = values.slice().sort();
  return {
    low: sorted[Math.floor(0.025 * (sorted.length - 1))],
    high: sorted[Math.ceil(0.975 * (sorted.length - 1))],
  };
}

/** All pairs of rows that differ in the paper by `metric`, the largest difference first. */
function orderOf(
  rows: readonly Outcomes[],
  measured: readonly Resampled[],
  metric: keyof PaperMetrics,
): Order {
  const differing: (Pair & { apart: number })[] = [];
  rows.forEach((a, i) => {
    rows.forEach((b, j) => {
      if (!a.paper || !b.paper || a.paper[metric] <= b.paper[metric]) return;
      const [x, y] = [measured[i], measured[j]];
      differing.push({
        better: a.name,
        worse: b.name,
        difference: {
          mean: x.metric.mean - y.metric.mean,
          ...interval(x.means.map((mean, r) => mean - y.means[r])),
        },
        apart: a.paper[metric] - b.paper[metric],
      });
    });
  });
  differing.sort((a, b) => b.apart - a.apart);
  const pairs = differing.map(({ apart: _, ...pair }) => pair);
  const signs = pairs.map(({ difference }) => Math.sign(difference.mean));
  return { pairs, tau: pairs.length > 0 ? signs.reduce((a, b) => a + b, 0) / pairs.length : null };
}

/** Our order of a pair: the same as in the paper, reversed, or open (too close to tell). */
export function verdict({ difference: { low, high } }: Pair): 'same' | 'reversed' | 'open' {
  return low > 0 ? 'same' : high < 0 ? 'reversed' : 'open';
}

/** The table for a person to read, in percent. */
export function ablationLines(table: AblationTable): string[] {
  const { seeds, questions, rows, order } = table;
  const percent = (share: number) => (100 * share).toFixed(1);
  const cells = ({ mean, low, high }: Metric, paper: number | undefined) =>
    percent(mean).padStart(7) +
    `${percent(low)}-${percent(high)}`.padStart(13) +
    (paper?.toFixed(1) ?? '').padStart(7);
  const wide = Math.max(0, ...rows.map(({ label }) => label.length));
  return [
    `${seeds} ${seeds === 1 ? 'seed' : 'seeds'}, ${questions} questions; 95 % intervals over questions; recall before fine-tuning; the paper's results are for Natural Questions`,
    '',
    `${''.padEnd(wide)}${'exact match'.padStart(16)}${'paper'.padStart(11)}${'recall@5'.padStart(14)}${'paper'.padStart(13)}`,
    ...rows.map(
      ({ label, exactMatch, recall5, paper }) =>
        label.padEnd(wide) + cells(exactMatch, paper?.exactMatch) + cells(recall5, paper?.recall5),
    ),
    '',
    ...orderLines('exact match', order.exactMatch, rows),
    ...orderLines('recall@5', order.recall5, rows),
  ];
}

function orderLines(what: string, { pairs, tau }: Order, rows: AblationTable['rows']): string[] {
  if (tau === null) return [];
  const labelOf = (name: string) => rows.find((row) => row.name === name)!.label;
  const of = (wanted: ReturnType<typeof verdict>) => pairs.filter((pair) => verdict(pair) === wanted);
  const listed = (pair: Pair) => {
    const { mean, low, high } = pair.difference;
    const [d, l, h] = [mean, low, high].map((x) => `${x < 0 ? '' : '+'}${(100 * x).toFixed(1)}`);
    return `    ${labelOf(pair.better)} over ${labelOf(pair.worse)}: ${d} (${l} to ${h})`;
  };
  const [reversed, open] = [of('reversed'), of('open')];
  return [
    `${what}: of ${pairs.length} pairs of rows that differ in the paper, ${of('same').length} are in the same order here, ${reversed.length} reversed, ${open.length} too close to tell (Kendall's tau of the means over these pairs ${tau.toFixed(2)})`,
    ...(reversed.length > 0 ? ['  reversed compared with the paper:', ...reversed.map(listed)] : []),
    ...(open.length > 0 ? ['  too close to tell:', ...open.map(listed)] : []),
  ];
}
