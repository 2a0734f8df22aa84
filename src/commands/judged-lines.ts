import { fourDigits, JUDGED_MEASURES } from '../eval/judged.ts';
import { aligned } from '../eval/metric-table.ts';
import type { Interval } from '../eval/statistics.ts';
import type { JudgedDifference, JudgedEvaluation } from '../pipeline/evaluate-judged.ts';

// Measures by judgements as a person reads them: four digits, as trec_eval prints them.

/** The measures whose differences are printed; `--json` has all of them. */
const SHOWN = ['nDCG@10', 'MAP', 'MRR', 'recall@20', 'recall@100', 'P@10'];

export function judgedLines({ qrels, queries, figures, differences }: JudgedEvaluation): string[] {
  const systems = Object.entries(figures);
  const rows = JUDGED_MEASURES.map((name) => [
    name,
    ...systems.map(([, values]) => {
      const { value, low, high } = values[name] as Interval;
      return `${fourDigits(value)}  (${low.toFixed(3)} to ${high.toFixed(3)})`;
    }),
  ]);
  return [
    `${queries} queries of ${qrels}, measures as in trec_eval`,
    ...aligned([['', ...systems.map(([name]) => name)], ...rows]),
    ...differences.flatMap(differenceLines),
  ];
}

function differenceLines({ system, against, measures }: JudgedDifference): string[] {
  const signed = (value: number) => `${value < 0 ? '−' : '+'}${Math.abs(value).toFixed(4)}`;
  const rows = SHOWN.map((name) => {
    const { difference, better, worse, pValue } = measures[name];
    const { value, low, high } = difference;
    const interval = `${signed(value)}  (${signed(low)} to ${signed(high)})`;
    return [name, interval, String(better), String(worse), pValue!.toPrecision(2)];
  });
  return [
    '',
    `${system} against ${against}, p by the paired randomisation test`,
    ...aligned([['', 'difference', 'better', 'worse', 'p'], ...rows]),
  ];
}
