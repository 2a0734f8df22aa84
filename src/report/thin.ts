// Keeps a sample of logs of any length, so that neither memory nor a page grows with them.

/** An evenly spaced sample of the items added, and the last one. */
export interface Thinned<T> {
  add(item: T): void;
  readonly count: number;
  items(): T[];
}

/** Keeps at most `max` items and the last one: when it is full, every second item is dropped. */
export function thinned<T>(max: number): Thinned<T> {
  let held: T[] = [];
  let every = 1;
  let count = 0;
  let last: { item: T; at: number } | undefined;
  return {
    add(item) {
      if (count % every === 0) {
        if (held.length === max) {
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

/** At most `n` evenly spaced items, including the first and the last. */
export function evenly<T>(items: readonly T[], n: number): T[] {
  if (items.length <= n) return [...items];
  if (n === 1) return [items[items.length - 1]];
  return Array.from({ length: n }, (_, i) => items[Math.round((i * (items.length - 1)) / (n - 1))]);
}

/** Neighbouring values of a log as one point: their mean value at their mean step, their lowest and their highest value. */
export interface Point {
  x: number;
  y: number;
  low: number;
  high: number;
  /** Number of values. */
  n: number;
}

export interface Series {
  add(x: number, y: number): void;
  readonly points: Point[];
  /** Values of each point; the last point may have fewer. */
  readonly per: number;
  readonly count: number;
  /** Undefined while there is no value. */
  readonly ends: { first: Value; last: Value; lowest: Value; highest: Value } | undefined;
}

interface Value {
  x: number;
  y: number;
}

/** More points than a chart has pixels across. */
const MAX_POINTS = 500;

/** Collects one metric of a log in at most `max` points: when all are full, each two neighbours become one. */
export function series(max = MAX_POINTS): Series {
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
      if (points.length === max) {
        points = Array.from({ length: Math.ceil(max / 2) }, (_, i) =>
          2 * i + 1 < max ? joined(points[2 * i], points[2 * i + 1]) : points[2 * i],
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
