import * as Plot from '@observablehq/plot';
import { parseHTML } from 'linkedom';
import { verdict } from '../eval/ablation.ts';
import { picture } from './chart.ts';
import { clipped, figure, percent, whole } from './format.ts';
import { type Html, html } from './html.ts';
import type { NamedRun } from './named.ts';
import type { Ablation } from './record.ts';

/** Rows of a grid, and pairs of rows, that the page shows. */
const MAX_ROWS = 40;
const MAX_PAIRS = 100;

type Row = Ablation['rows'][number];
type Order = NonNullable<NonNullable<Ablation['order']>['exactMatch']>;
type Metric = 'exactMatch' | 'recall5';

/** The paper's Table 2, reproduced: each grid's table and charts, with the paper's own numbers. */
export function ablations(runs: readonly NamedRun[]): Html[] {
  return runs.flatMap((run) => {
    if (!run.ablation || run.ablation.rows.length === 0) return [];
    const { seeds, questions, order } = run.ablation;
    const rows = run.ablation.rows.slice(0, MAX_ROWS);
    return [
      html`${runs.length > 1 && html`<h3>${run.look.letter} ${run.name}</h3>`}
<p class="soft">${seeds > 0 && `${seeds} ${seeds === 1 ? 'seed' : 'seeds'}`}${questions !== undefined && `, ${whole(questions)} questions in all`}. The paper's values are for Natural Questions: compare the order of the rows, not the values. Intervals are 95 %, over questions; the values of single seeds show how much the seed matters.</p>
<div class="charts">${comparison(rows, 'exactMatch', 'Exact match')}${comparison(rows, 'recall5', 'Recall@5 before fine-tuning')}</div>
${table(rows)}
${agreement('exact match', order?.exactMatch, rows)}${agreement('recall@5', order?.recall5, rows)}`,
    ];
  });
}

/** Of a row, and from its marks up to its label. */
const ROW_PIXELS = 38;
const LABEL_PIXELS_ABOVE = 15;

/** The rows in the paper's order, best first, which shows whether ours agree; then the rows that the paper does not have. */
function comparison(all: readonly Row[], metric: Metric, title: string): Html | false {
  const rows = all
    .flatMap((row) => {
      const figure = row[metric];
      return figure ? [{ label: labelOf(row, 50), published: paper(row, metric), ...figure }] : [];
    })
    .sort((a, b) => (b.published ?? -1) - (a.published ?? -1))
    .map((row, at) => ({ ...row, at }));
  if (rows.length === 0) return false;
  const published = rows.filter((row) => row.published !== undefined);
  const most = Math.max(...rows.flatMap((r) => [r.mean, r.high ?? 0, ...r.bySeed, r.published ?? 0]));
  const svg = Plot.plot({
    document: parseHTML('<!doctype html><html><body></body></html>').document,
    width: 380,
    height: ROW_PIXELS * rows.length + 34,
    marginLeft: 18,
    marginRight: 24,
    marginTop: 4,
    marginBottom: 26,
    x: { domain: [0, Math.min(1, most + 0.03)] },
    y: { domain: [-0.7, rows.length - 0.6], reverse: true, axis: null },
    marks: [
      Plot.gridX({ ticks: 5, stroke: 'var(--rule)', strokeOpacity: 1 }),
      Plot.axisX({
        ticks: 5,
        tickSize: 0,
        tickFormat: (v: number) => `${Math.round(100 * v)} %`,
        label: null,
      }),
      Plot.text(rows, {
        x: () => 0,
        y: 'at',
        dy: -LABEL_PIXELS_ABOVE,
        text: 'label',
        textAnchor: 'start',
        fill: 'currentColor',
        stroke: 'var(--paper)',
        strokeWidth: 4,
      }),
      Plot.ruleY(
        rows.filter((r) => r.low !== undefined && r.high !== undefined),
        { y: 'at', x1: 'low', x2: 'high', stroke: 'var(--run-1)', strokeWidth: 2 },
      ),
      Plot.dot(rows, { y: 'at', x: 'mean', r: 4.5, fill: 'var(--run-1)' }),
      Plot.dot(
        rows.flatMap(({ at, bySeed }) => bySeed.map((value) => ({ at, value }))),
        { y: 'at', x: 'value', r: 2.5, fill: 'var(--paper)', stroke: 'var(--run-1)' },
      ),
      Plot.dot(published, {
        y: 'at',
        x: 'published',
        r: 4.5,
        symbol: 'diamond',
        fill: 'var(--paper)',
        stroke: 'var(--run-2)',
        strokeWidth: 2,
      }),
    ],
  });
  const descriptions = rows.map(
    ({ label, mean, published }) =>
      `${label} ${percent(mean)}${published === undefined ? '' : `, in the paper ${percent(published)}`}`,
  );
  return html`<figure class="chart">
<figcaption><strong>${title}</strong> <span>● ours with its interval, ○ each seed${published.length > 0 && '; ◇ the paper, in its order'}</span></figcaption>
${picture(svg, `${title} by row: ${descriptions.join('; ')}`)}
</figure>`;
}

function table(rows: readonly Row[]): Html {
  return html`<div class="scroll" role="region" tabindex="0" aria-label="Rows of the ablations"><table class="results">
<thead><tr><th scope="col">Row</th><th scope="col">Exact match</th><th scope="col">by seed</th><th scope="col">the paper's</th><th scope="col">Recall@5</th><th scope="col">by seed</th><th scope="col">the paper's</th></tr></thead>
<tbody>${rows.map(
    (row) =>
      html`<tr><th scope="row">${labelOf(row, 80)}${row.label !== undefined && row.label !== row.name && html` <span class="at">${clipped(row.name, 22)}</span>`}</th>${(['exactMatch', 'recall5'] as const).map((metric) => html`<td>${measured(row[metric])}</td><td>${seedsOf(row, metric)}</td><td>${published(row, metric)}</td>`)}</tr>`,
  )}</tbody></table></div>`;
}

function seedsOf(row: Row, metric: Metric): string {
  return (row[metric]?.bySeed ?? []).slice(0, 20).map(percent).join(' · ');
}

const VERDICTS = { reversed: 'the other way round', open: 'too close to tell' };

/** How many pairs of rows are in the paper's order, and which are not. */
function agreement(metric: string, order: Order | undefined, rows: readonly Row[]): Html | false {
  if (!order || order.tau === null || order.pairs.length === 0) return false;
  const judged = order.pairs.map((pair) => ({ ...pair, verdict: verdict(pair) }));
  const count = (wanted: string) => judged.filter((pair) => pair.verdict === wanted).length;
  const labelled = (name: string) => labelOf(rows.find((row) => row.name === name) ?? { name }, 50);
  const others = judged.flatMap((pair) =>
    pair.verdict === 'same' ? [] : [{ ...pair, verdict: VERDICTS[pair.verdict] }],
  );
  return html`<p>By ${metric}, of ${whole(judged.length)} pairs of rows that the paper tells apart, ${count('same')} are in its order, ${count('reversed')} the other way round, ${count('open')} too close to tell: the interval of their difference holds 0. Kendall's tau of the means, 1 where all pairs agree: ${figure(order.tau)}.</p>
${
  others.length > 0 &&
  html`<details data-key="pairs by ${metric}"><summary>The ${whole(others.length)} that are not<span class="hidden"> in the paper's order by ${metric}</span></summary>
<div class="scroll" role="region" tabindex="0" aria-label="Pairs not in the paper's order by ${metric}"><table class="results">
<thead><tr><th scope="col">Better in the paper</th><th scope="col">than</th><th scope="col">Ours, points</th><th scope="col">which is</th></tr></thead>
<tbody>${others
    .slice(0, MAX_PAIRS)
    .map(
      ({ better, worse, difference: { mean, low, high }, verdict }) =>
        html`<tr><th scope="row">${labelled(better)}</th><td>${labelled(worse)}</td><td>${points(mean)} <span class="at">${points(low)} to ${points(high)}</span></td><td>${verdict}</td></tr>`,
    )}</tbody></table></div></details>`
}`;
}

/** A difference of shares in percentage points. */
function points(share: number): string {
  const text = Math.abs(100 * share).toFixed(1);
  return share < 0 ? `−${text}` : `+${text}`;
}

function measured(found: Row[Metric]): Html {
  if (!found) return html`–`;
  const { mean, low, high } = found;
  return html`${percent(mean)}${low !== undefined && high !== undefined && html` <span class="at">${percent(low)} to ${percent(high)}</span>`}`;
}

function published(row: Row, metric: Metric): string {
  const value = paper(row, metric);
  return value === undefined ? '–' : percent(value);
}

function paper(row: Row, metric: Metric): number | undefined {
  const value = row.paper?.[metric];
  return value === null || value === undefined ? undefined : value / 100;
}

function labelOf({ name, label = name }: Pick<Row, 'name' | 'label'>, max: number): string {
  return clipped(label, max);
}
