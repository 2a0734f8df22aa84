// Logs of any length in memory, and on a page, that does not grow with them.

/** Some of the items it is given, evenly chosen, and the last one. */
export interface Thinned<T> {
  add(item: T): void;
  readonly count: number;
  items(): T[];
}

/** Keeps at most `most` items besides the last: when that many are held, every second one goes. */
export function thinned<T>(most: number): Thinned<T> {
  let held: T[] = [];
  let every = 1;
  let count = 0;
  let last: { item: T; at: number } | undefined;
  return {
    add(item) {
      if (count % every === 0) {
        if (held.length === most) {
          held = held.filter((_, i) => i % 2 === 0);
          every *= 2;
        }
        if (count % every === 0) held.push(item);
      }
      last = { item, at: count++ };
    },
    get count() {
      return count;
    },
    items: () => (last && last.at % every !== 0 ? [...held, last.item] : [...held]),
  };
}

/** At most `n` of the items at even distances, the first and the last among them. */
export function evenly<T>(items: readonly T[], n: number): T[] {
  if (items.length <= n) return [...items];
  if (n === 1) return [items[items.length - 1]];
  return Array.from({ length: n }, (_, i) => items[Math.round((i * (items.length - 1)) / (n - 1))]);
}

/** Neighbouring values of a log as one point: their mean, at their mean step, with the lowest and the highest. */
export interface Point {
  x: number;
  y: number;
  low: number;
  high: number;
  /** Values in it. */
  n: number;
}

export interface Series {
  add(x: number, y: number): void;
  readonly points: Point[];
  /** Values that one point stands for; the last point may hold fewer. */
  readonly per: number;
  readonly count: number;
  /** Undefined while there is no value. */
  readonly ends: { first: Value; last: Value; lowest: Value; highest: Value } | undefined;
}

interface Value {
  x: number;
  y: number;
}

/** Points of a line: more than a chart has pixels to tell apart. */
const MOST = 500;

/** Gathers one figure of a log in at most `most` points: when that many are full, each two neighbours become one. */
export function series(most = MOST): Series {
  let points: Point[] = [];
  let per = 1;
  let count = 0;
  let ends: { first: Value; last: Value; lowest: Value; highest: Value } | undefined;
  return {
    add(x, y) {
      const value = { x, y };
      ends = {
        first: ends?.first ?? value,
        last: value,
        lowest: ends && ends.lowest.y <= y ? ends.lowest : value,
        highest: ends && ends.highest.y >= y ? ends.highest : value,
      };
      count++;
      const point = { x, y, low: y, high: y, n: 1 };
      const open = points.at(-1);
      if (open && open.n < per) {
        points[points.length - 1] = joined(open, point);
        return;
      }
      if (points.length === most) {
        points = Array.from({ length: Math.ceil(most / 2) }, (_, i) =>
          2 * i + 1 < most ? joined(points[2 * i], points[2 * i + 1]) : points[2 * i],
        );
        per *= 2;
      }
      const end = points.at(-1);
      if (end && end.n < per) points[points.length - 1] = joined(end, point);
      else points.push(point);
    },
    get points() {
      return points;
    },
    get per() {
      return per;
    },
    get count() {
      return count;
    },
    get ends() {
      return ends;
    },
  };
}

function joined(a: Point, b: Point): Point {
  const n = a.n + b.n;
  return {
    x: (a.n * a.x + b.n * b.x) / n,
    y: (a.n * a.y + b.n * b.y) / n,
    low: Math.min(a.low, b.low),
    high: Math.max(a.high, b.high),
    n,
  };
}
