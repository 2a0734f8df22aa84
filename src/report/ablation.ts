import * as Plot from '@observablehq/plot';
import { parseHTML } from 'linkedom';
import { picture } from './chart.ts';
import { clipped, figure, percent } from './format.ts';
import { type Html, html } from './html.ts';
import type { NamedRun } from './named.ts';
import type { Ablation } from './record.ts';

/** Rows shown. */
const ROWS = 40;

type Row = Ablation['rows'][number];
type Figure = 'exactMatch' | 'recall5';

/** The paper's Table 2 over again: each grid's table and figure, beside the paper's own numbers. */
export function ablations(runs: readonly NamedRun[]): Html[] {
  return runs.flatMap((run) => {
    if (!run.ablation || run.ablation.rows.length === 0) return [];
    const { seeds, questions, order } = run.ablation;
    const taus = [
      { name: 'exact match', tau: order?.exactMatch?.tau },
      { name: 'recall@5', tau: order?.recall5?.tau },
    ].flatMap(({ name, tau }) => (typeof tau === 'number' ? [`${figure(tau)} by ${name}`] : []));
    const rows = run.ablation.rows.slice(0, ROWS);
    return [
      html`${runs.length > 1 && html`<h3>${run.look.letter} ${run.name}</h3>`}
<p class="soft">${seeds > 0 && `${seeds} ${seeds === 1 ? 'seed' : 'seeds'}`}${questions !== undefined && ` · ${questions} questions`} · the paper's figures are of Natural Questions: compare the order of the rows, not their heights.${taus.length > 0 && html` How ours and the paper's order agree (Kendall's tau over the pairs of rows that the paper tells apart, 1 where all do): ${taus.join(', ')}.`}</p>
<div class="charts">${comparison(rows, 'exactMatch', 'Exact match')}${comparison(rows, 'recall5', 'Recall@5 before fine-tuning')}</div>
${table(rows)}`,
    ];
  });
}

const HEIGHT = 26;

function comparison(rows: readonly Row[], metric: Figure, title: string): Html | false {
  const points = rows.flatMap((row) => {
    const found = row[metric];
    return found ? [{ label: labelOf(row), ...found }] : [];
  });
  if (points.length === 0) return false;
  const published = rows.flatMap((row) => {
    const value = paper(row, metric);
    return value === undefined ? [] : [{ label: labelOf(row), value }];
  });
  const svg = Plot.plot({
    document: parseHTML('<!doctype html><html><body></body></html>').document,
    width: 380,
    height: HEIGHT * rows.length + 44,
    marginLeft: 138,
    marginRight: 16,
    marginTop: 8,
    marginBottom: 34,
    x: {
      domain: domain([
        ...points.flatMap((p) => [p.mean, p.low ?? p.mean, p.high ?? p.mean, ...p.bySeed]),
        ...published.map((p) => p.value),
      ]),
    },
    y: { type: 'point', domain: rows.map(labelOf), padding: 0.6 },
    marks: [
      Plot.gridX({ ticks: 4, stroke: 'var(--rule)', strokeOpacity: 1 }),
      Plot.axisX({
        ticks: 4,
        tickSize: 0,
        tickFormat: (v: number) => `${Math.round(100 * v)} %`,
        label: null,
      }),
      Plot.axisY({ tickSize: 0, label: null }),
      Plot.ruleY(
        points.filter((p) => p.low !== undefined && p.high !== undefined),
        { y: 'label', x1: 'low', x2: 'high', stroke: 'var(--run-1)', strokeWidth: 2 },
      ),
      Plot.dot(
        points.flatMap(({ label, bySeed }) => bySeed.map((value) => ({ label, value }))),
        { y: 'label', x: 'value', r: 2.5, fill: 'var(--paper)', stroke: 'var(--run-1)' },
      ),
      Plot.dot(points, { y: 'label', x: 'mean', r: 4.5, fill: 'var(--run-1)' }),
      Plot.dot(published, {
        y: 'label',
        x: 'value',
        r: 4.5,
        symbol: 'diamond',
        fill: 'var(--paper)',
        stroke: 'var(--run-2)',
        strokeWidth: 2,
      }),
    ],
  });
  return html`<figure class="chart">
<figcaption><strong>${title}</strong> <span>● ours with its interval, ○ each seed${published.length > 0 && ', ◇ the paper'}</span></figcaption>
${picture(svg, `${title} by row: ${points.map((p) => `${p.label} ${percent(p.mean)}`).join(', ')}`)}
</figure>`;
}

function table(rows: readonly Row[]): Html {
  return html`<div class="scroll" role="region" tabindex="0" aria-label="Rows of the ablations"><table class="results">
<thead><tr><th scope="col">Row</th><th scope="col">Exact match</th><th scope="col">by seed</th><th scope="col">Recall@5</th><th scope="col">the paper's exact match</th><th scope="col">its recall@5</th></tr></thead>
<tbody>${rows.map(
    (row) =>
      html`<tr><th scope="row">${clipped(row.label ?? row.name, 80)}${row.label !== undefined && row.label !== row.name && html` <span class="at">${labelOf(row)}</span>`}</th><td>${measured(row.exactMatch)}</td><td>${row.exactMatch?.bySeed
        .slice(0, 20)
        .map((v) => percent(v))
        .join(
          ' · ',
        )}</td><td>${measured(row.recall5)}</td><td>${published(row, 'exactMatch')}</td><td>${published(row, 'recall5')}</td></tr>`,
  )}</tbody></table></div>`;
}

function measured(found: Row[Figure]): Html {
  if (!found) return html`–`;
  const { mean, low, high } = found;
  return html`${percent(mean)}${low !== undefined && high !== undefined && html` <span class="at">${percent(low)} to ${percent(high)}</span>`}`;
}

function published(row: Row, metric: Figure): string {
  const value = paper(row, metric);
  return value === undefined ? '–' : percent(value);
}

function paper(row: Row, metric: Figure): number | undefined {
  const value = row.paper?.[metric];
  return value === null || value === undefined ? undefined : value / 100;
}

/** Rows of one chart must differ in their labels. */
function labelOf({ name }: Row): string {
  return clipped(name, 22);
}

function domain(values: readonly number[]): [number, number] {
  const low = Math.max(0, Math.min(...values) - 0.03);
  return [low, Math.min(1, Math.max(...values) + 0.03)];
}
