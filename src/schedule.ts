/**
 * The steps after which something is due: a number n for every n steps, or `FROM-TO:N` parts separated by commas. For
 * example `0-1000:500,1000-:2000`: every 500 steps up to step 1000, then every 2000. The steps of a part are counted from
 * its start. TO is inclusive; the last part may leave it out.
 */
export type Schedule = number | string;

interface Part {
  from: number;
  to: number;
  every: number;
}

const PART = /^(\d{1,15})-(\d{1,15})?:(\d{1,15})$/;

export const SCHEDULE_FORM =
  'expected a number of steps, or parts like 0-1000:500,1000-:2000 (from-to:every), where each part starts at the end of the one before';

/** True for a valid schedule: each part has steps, and starts at the end of the one before. */
export function isSchedule(text: string): boolean {
  return parse(text) !== undefined;
}

function parse(text: string): Part[] | undefined {
  const parts: Part[] = [];
  for (const written of text.split(',')) {
    const found = PART.exec(written.trim());
    if (!found) return undefined;
    const [from, every] = [Number(found[1]), Number(found[3])];
    const to = found[2] === undefined ? Infinity : Number(found[2]);
    const before = parts.at(-1);
    if (every < 1 || to <= from || (before && before.to !== from)) return undefined;
    parts.push({ from, to, every });
  }
  return parts;
}

/** The same parts, each with `times` as many steps between. */
export function everyTimes(schedule: Schedule, times: number): Schedule {
  if (typeof schedule === 'number') return schedule * times;
  return partsOf(schedule)
    .map(({ from, to, every }) => `${from}-${to === Infinity ? '' : to}:${every * times}`)
    .join(',');
}

function partsOf(schedule: Schedule): Part[] {
  const parts = typeof schedule === 'number' ? [{ from: 0, to: Infinity, every: schedule }] : parse(schedule);
  if (!parts) throw new Error(`not a schedule: ${schedule}`);
  return parts;
}

/** True when something is due after `done` steps, counted from 1. */
export function dueAt(schedule: Schedule): (done: number) => boolean {
  const parts = partsOf(schedule);
  return (done) => parts.some((p) => done > p.from && done <= p.to && (done - p.from) % p.every === 0);
}

/** How often a schedule is due within the first `steps` steps. */
export function timesDue(schedule: Schedule, steps: number): number {
  const parts = partsOf(schedule);
  return parts.reduce((n, p) => n + Math.max(0, Math.floor((Math.min(p.to, steps) - p.from) / p.every)), 0);
}
