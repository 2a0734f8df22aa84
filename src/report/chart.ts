import * as Plot from '@observablehq/plot';
import { parseHTML } from 'linkedom';
import { whole } from './format.ts';
import { type Html, html, raw } from './html.ts';
import type { Look } from './look.ts';
import { evenly, type Point, type Series } from './thin.ts';

/** One run's metric over steps. */
export interface Line {
  look: Look;
  /** Name of the run. */
  name: string;
  series: Series;
}

/** A value that is not on the line, such as an evaluation's. */
export interface Mark {
  look: Look;
  x: number;
  y: number;
  low?: number;
  high?: number;
  /** What was measured. */
  name: string;
}

export interface Chart {
  title: string;
  /** Unit or meaning, shown after the title. */
  note?: string;
  lines: readonly Line[];
  marks?: readonly Mark[];
  /** Steps at which each run swapped in a new index. */
  refreshes?: readonly { look: Look; at: readonly number[] }[];
  format: (value: number) => string;
  /** The y axis includes zero. */
  zero?: boolean;
  /** Draws a moving average over the values; without it the values themselves. */
  smooth?: boolean;
  /** True if several runs are compared: lines then have letters and symbols. */
  letters: boolean;
}

const WIDTH = 386;
const HEIGHT = 200;
const MARGIN = { top: 12, right: 78, bottom: 26, left: 58 };
const LABEL_PIXELS = 14; // between the baselines of two labels

/** A chart of one metric over steps, with the same content as a description and a table for readers who cannot see it. */
export function chart(options: Chart): Html {
  const { title, note, lines, marks = [], format } = options;
  return html`<figure class="chart">
<figcaption><strong>${title}</strong>${note !== undefined && html` <span>${note}</span>`}</figcaption>
${draw(options)}
<details data-key="values of ${title}"><summary>Values<span class="hidden"> of ${title}</span></summary>
<div class="scroll" role="region" tabindex="0" aria-label="Values of ${title}"><table>
<thead><tr><th scope="col">Run</th><th scope="col">first</th><th scope="col">lowest</th><th scope="col">highest</th><th scope="col">last</th></tr></thead>
<tbody>${lines.map(({ name, series }) => {
    const { ends } = series;
    return (
      ends &&
      html`<tr><th scope="row">${name}</th>${[ends.first, ends.lowest, ends.highest, ends.last].map(
        ({ x, y }) => html`<td>${format(y)} <span class="at">at ${whole(x)}</span></td>`,
      )}</tr>`
    );
  })}${marks.map(
    (mark) =>
      html`<tr><th scope="row">${mark.name}</th><td colspan="4">${measured(mark, format)} <span class="at">at ${whole(mark.x)}</span></td></tr>`,
  )}</tbody></table></div></details>
</figure>`;
}

function measured({ y, low, high }: Mark, format: Chart['format']): string {
  const interval = low !== undefined && high !== undefined ? ` (${format(low)} to ${format(high)})` : '';
  return `${format(y)}${interval}`;
}

/** What the parts of a drawing share. */
interface Drawing extends Chart {
  drawn: readonly DrawnLine[];
  marks: readonly Mark[];
  refreshes: NonNullable<Chart['refreshes']>;
  /** Lowest and highest value of each axis. */
  x: Interval;
  y: Interval;
  /** Draws a value outside the y axis (one in fifty) at the frame's edge. */
  clamp: (value: number) => number;
}

interface DrawnLine extends Line {
  points: readonly Point[];
  /** Points averaged on each side; 0 for a line without a moving average. */
  width: number;
  /** The line itself: the points, or their moving average. */
  path: readonly { x: number; y: number }[];
}

type Interval = [low: number, high: number];

function draw(options: Chart): Html {
  const drawing = drawingOf(options);
  const svg = Plot.plot({
    document: parseHTML('<!doctype html><html><body></body></html>').document,
    width: WIDTH,
    height: HEIGHT,
    marginTop: MARGIN.top,
    marginRight: MARGIN.right,
    marginBottom: MARGIN.bottom,
    marginLeft: MARGIN.left,
    x: { domain: drawing.x, type: 'linear' },
    y: { domain: drawing.y, type: 'linear' },
    // From the back to the front.
    marks: [axes, refreshMarks, lineMarks, measuredMarks, endLabels].flatMap((part) => part(drawing)),
  });
  return picture(svg, described(options));
}

function drawingOf(options: Chart): Drawing {
  const { lines, marks = [], refreshes = [], smooth = false, zero = false } = options;
  const drawn = lines.map((line) => {
    const { points } = line.series;
    const width = smooth ? averaged(points) : 0;
    return { ...line, points, width, path: width > 0 ? movingAverage(points, width) : points };
  });
  const x = extent([...drawn.flatMap(({ points }) => points.map((p) => p.x)), ...marks.map((m) => m.x), 0]);
  const y = padded(
    extent([
      ...drawn.flatMap(({ path }) => path.map((p) => p.y)),
      ...drawn.flatMap(({ points, width }) =>
        width > 0 ? inner(points) : points.flatMap((p) => [p.low, p.high]),
      ),
      ...marks.flatMap((m) => [m.low ?? m.y, m.high ?? m.y]),
    ]),
    zero,
  );
  const clamp = (value: number) => Math.min(y[1], Math.max(y[0], value));
  return { ...options, drawn, marks, refreshes: refreshes.filter(({ at }) => at.length > 0), x, y, clamp };
}

function axes({ format }: Drawing): Plot.Markish[] {
  return [
    Plot.gridY({ ticks: 4, stroke: 'var(--rule)', strokeOpacity: 1 }),
    Plot.axisY({ ticks: 4, tickSize: 0, tickFormat: ticks(format), label: null }),
    Plot.axisX({
      ticks: 4,
      tickSize: 4,
      tickFormat: shortSteps,
      label: 'steps',
      labelArrow: 'none',
      labelOffset: 17,
    }),
  ];
}

/** Dotted lines across the chart for one run; for several, a row of ticks at the bottom for each. */
function refreshMarks({ refreshes, letters, y, clamp }: Drawing): Plot.Markish[] {
  if (refreshes.length === 1 && !letters) {
    return [Plot.ruleX(refreshes[0].at, { stroke: 'var(--soft)', strokeWidth: 1, strokeDasharray: '1 3' })];
  }
  const row = (y[1] - y[0]) * 0.04;
  return refreshes.map(({ look, at }, i) =>
    Plot.ruleX(at, {
      y1: clamp(y[0] + i * row),
      y2: clamp(y[0] + (i + 0.75) * row),
      stroke: look.colour,
      strokeWidth: 1.5,
    }),
  );
}

/** For each line: the range of its thinned points, the values behind a moving average, the line itself, and its symbols. */
function lineMarks({ drawn, letters, clamp }: Drawing): Plot.Markish[] {
  return drawn.flatMap(({ look, points, path, width }) => {
    const parts: Plot.Markish[] = [];
    if (points.some((p) => p.n > 1)) {
      parts.push(
        Plot.areaY(points, {
          x: 'x',
          y1: (p: Point) => clamp(p.low),
          y2: (p: Point) => clamp(p.high),
          fill: look.colour,
          fillOpacity: 0.18,
        }),
      );
    }
    if (width > 0) {
      parts.push(
        Plot.line(points, {
          x: 'x',
          y: (p: Point) => clamp(p.y),
          stroke: look.colour,
          strokeOpacity: 0.4,
          strokeWidth: 1,
        }),
      );
    }
    parts.push(
      Plot.line(path, {
        x: 'x',
        y: 'y',
        stroke: look.colour,
        strokeWidth: 2,
        ...(look.dash !== undefined ? { strokeDasharray: look.dash } : {}),
      }),
    );
    const few = path.length <= 12;
    if (letters || few) {
      const symbols = evenly(path, few ? 12 : 6);
      parts.push(Plot.dot(symbols, { x: 'x', y: 'y', r: 3, symbol: look.symbol, fill: look.colour }));
    }
    return parts;
  });
}

/** A diamond with its interval for each value that is not on a line. */
function measuredMarks({ marks }: Drawing): Plot.Markish[] {
  return marks.flatMap(({ look, low, high, ...mark }) => {
    const dx = shift(look, marks);
    const diamond = Plot.dot([mark], {
      x: 'x',
      y: 'y',
      dx,
      r: 3,
      symbol: 'diamond',
      fill: 'var(--paper)',
      stroke: look.colour,
      strokeWidth: 2,
    });
    if (low === undefined || high === undefined) return [diamond];
    const interval = { x: 'x', y1: low, y2: high, dx, stroke: look.colour, strokeWidth: 1.5 };
    return [Plot.ruleX([mark], interval), diamond];
  });
}

/** The last value of each line, to the right of the frame. */
function endLabels({ drawn, marks, letters, format, x, y }: Drawing): Plot.Markish[] {
  const ends = drawn.flatMap(({ look, path }) => {
    const end = path.at(-1);
    return end ? [{ look, end, text: `${letters ? `${look.letter} ` : ''}${format(end.y)}` }] : [];
  });
  const marksReach = Math.max(0, ...marks.map((m) => shift(m.look, marks)));
  return spread(ends, y).map(({ look, text, at }) =>
    Plot.text([text], {
      x: () => x[1],
      y: () => at,
      text: (t: string) => t,
      dx: 7 + (marks.length > 0 ? 4 : 0) + marksReach,
      textAnchor: 'start',
      fill: look.colour,
      fontWeight: 600,
    }),
  );
}

/** A drawn chart for a page, with its description: no style of its own, coordinates to a tenth of a pixel. */
export function picture(svg: ReturnType<typeof Plot.plot>, label: string): Html {
  const element = svg as unknown as {
    setAttribute(name: string, value: string): void;
    querySelectorAll(selector: string): Iterable<{ remove(): void; removeAttribute(name: string): void }>;
    outerHTML: string;
  };
  element.setAttribute('font-size', '12');
  element.setAttribute('font-family', 'inherit');
  for (const style of element.querySelectorAll('style')) style.remove();
  // Labels of parts help nobody, and are not allowed on elements without a role.
  for (const part of element.querySelectorAll('g')) part.removeAttribute('aria-label');
  const drawn = element.outerHTML.replace(/ (?:d|transform|[xy][12]?|cx|cy)="[^"]*"/g, (attribute) =>
    attribute.replace(/-?\d+\.\d{2,}/g, (number) => String(Math.round(10 * Number(number)) / 10)),
  );
  return html`<svg role="img" aria-label="${label}"${raw(drawn.replace(/^<svg/, ''))}`;
}

/** Points to average on each side; 0 if there are too few to need it. */
function averaged(points: readonly Point[]): number {
  return points.length < 30 ? 0 : Math.round(points.length / 40);
}

function movingAverage(points: readonly Point[], width: number): { x: number; y: number }[] {
  return points.map(({ x }, i) => {
    // The same number on both sides, so that the line's ends do not lag.
    const reach = Math.min(width, i, points.length - 1 - i);
    const part = points.slice(i - reach, i + reach + 1);
    return { x, y: part.reduce((sum, p) => sum + p.y, 0) / part.length };
  });
}

/** All but the lowest and the highest hundredth. */
function inner(points: readonly Point[]): number[] {
  const lows = points.map((p) => p.low).sort((a, b) => a - b);
  const highs = points.map((p) => p.high).sort((a, b) => a - b);
  return [
    lows[Math.floor(0.01 * lows.length)],
    highs[Math.min(highs.length - 1, Math.floor(0.99 * highs.length))],
  ];
}

function extent(values: readonly number[]): Interval {
  let [low, high] = [Infinity, -Infinity];
  for (const value of values) {
    if (value < low) low = value;
    if (value > high) high = value;
  }
  return low <= high ? [low, high] : [0, 1];
}

function padded([low, high]: Interval, zero: boolean): Interval {
  const room = 0.06 * (high - low || Math.abs(high) || 1);
  if (!zero) return [low - room, high + room];
  return [low < 0 ? low - room : 0, high > 0 ? high + room : 0];
}

/** The labels at the ends of lines, moved apart so that none covers another. */
function spread<T extends { end: { y: number } }>(
  ends: readonly T[],
  [low, high]: Interval,
): (T & { at: number })[] {
  const pixel = (high - low) / (HEIGHT - MARGIN.top - MARGIN.bottom);
  const placed = ends.map((end) => ({ ...end, at: end.end.y })).sort((a, b) => a.at - b.at);
  for (let i = 1; i < placed.length; i++) {
    placed[i].at = Math.max(placed[i].at, placed[i - 1].at + LABEL_PIXELS * pixel);
  }
  for (let i = placed.length - 1; i >= 0; i--) {
    const above = placed[i + 1]?.at ?? high + LABEL_PIXELS * pixel;
    placed[i].at = Math.min(placed[i].at, above - LABEL_PIXELS * pixel);
  }
  return placed;
}

/** Pixels between a run's marks and their step, so that the marks of several runs do not cover each other. */
function shift({ letter }: Look, marks: readonly Mark[]): number {
  const letters = [...new Set(marks.map((m) => m.look.letter))];
  return 7 * (letters.indexOf(letter) - (letters.length - 1) / 2);
}

/** A tick's value without trailing zeros: 80 % for a line's label of 80.0 %. */
function ticks(format: (value: number) => string): (value: number) => string {
  return (value) => format(value).replace(/(\.\d*?)0+(?=\D|$)/, (_, kept) => (kept === '.' ? '' : kept));
}

/** Large step numbers in thousands and millions. */
function shortSteps(step: number): string {
  if (step >= 1e6) return `${Number((step / 1e6).toPrecision(3))}M`;
  if (step >= 1e4) return `${Number((step / 1e3).toPrecision(3))}k`;
  return whole(step);
}

function described({ title, lines, marks = [], refreshes = [], format }: Chart): string {
  const sentences = lines.flatMap(({ name, series: { ends } }) =>
    ends
      ? [
          `${name}: from ${format(ends.first.y)} at step ${whole(ends.first.x)} to ${format(ends.last.y)} at step ${whole(ends.last.x)}`,
        ]
      : [],
  );
  const refreshed = refreshes.some(({ at }) => at.length > 0) ? ['Refreshes of the index are marked'] : [];
  return [
    `${title} over training steps`,
    ...sentences,
    ...marks.map((mark) => `${mark.name}: ${measured(mark, format)} at step ${whole(mark.x)}`),
    ...refreshed,
  ].join('. ');
}
