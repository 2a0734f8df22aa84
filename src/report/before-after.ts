import { percent } from './format.ts';
import type { Evaluated } from './record.ts';

/** Metrics on dev questions before and after a stage, in words: `recall@5`, `55.6 % to 78.8 %`. */
export function beforeAndAfter({ start, end }: Evaluated): { name: string; text: string }[] {
  return Object.entries(end ?? start ?? {}).map(([metric, value]) => ({
    name: metric === 'devExactMatch' ? 'exact match' : metric.replace(/^devRecall/, 'recall'),
    text:
      end === undefined
        ? `${percent(value)} at the start`
        : start?.[metric] === undefined
          ? percent(value)
          : `${percent(start[metric])} to ${percent(value)}`,
  }));
}
