import { appendFileSync, readFileSync, renameSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { type Holder, thisProcess } from './lock.ts';

// What a command writes in its run folder for `realm status`: `progress.json` says how far it is, as long as it runs;
// `log.jsonl` has the lines that it printed, with their times. They must never stop the work: if they cannot be written, on
// a full disk or after the folder was moved away, the error is ignored.

/** How far the work is. */
export interface Published extends Holder {
  /** Time of writing, ISO 8601. */
  time: string;
  /** What is counted: a stage, or a part of it. */
  name: string;
  done: number;
  total: number;
  unit?: string;
  remark: string;
  /** `unit` per second. */
  rate?: number;
  /** Seconds left. */
  left?: number;
  /** Bytes of memory that the process holds. */
  memory: number;
}

/** One line of the log. */
export interface LogLine {
  time: string;
  /** The command. */
  work: string;
  kind: 'note' | 'trouble';
  line: string;
}

/** Bytes of the log. When it would be longer, its older half is dropped. */
export const MAX_LOG_BYTES = 256 << 10;
/** Characters of a line that are kept. */
const MAX_LINE_LENGTH = 2000;
/** Milliseconds between two writes of the progress. */
const PROGRESS_INTERVAL = 2000;

/** The last one is written: a command that works in a run inside its own (`ablate`) opens a second journal. */
const journals: { progress: string; log: string; holder: Holder; last: number; size: number }[] = [];

export const progressFile = (dir: string) => join(dir, 'progress.json');
export const logFile = (dir: string) => join(dir, 'log.jsonl');

/** Starts the journal of a command in the run folder `dir`, which it has locked. @returns a function that ends it */
export function openJournal(dir: string, work: string): () => void {
  const log = logFile(dir);
  const size = statSync(log, { throwIfNoEntry: false })?.size ?? 0;
  const mine = { progress: progressFile(dir), log, holder: thisProcess(work), last: -Infinity, size };
  journals.push(mine);
  return () => {
    const at = journals.indexOf(mine);
    if (at < 0) return;
    journals.splice(at, 1);
    trying(() => rmSync(mine.progress, { force: true }));
  };
}

/** Records how far the work is, at most once in `PROGRESS_INTERVAL`. */
export function publish(of: () => Omit<Published, keyof Holder | 'time' | 'memory'>): void {
  const open = journals.at(-1);
  if (!open || performance.now() - open.last < PROGRESS_INTERVAL) return;
  open.last = performance.now();
  const { progress, holder } = open;
  const published: Published = {
    ...holder,
    ...of(),
    time: new Date().toISOString(),
    memory: process.memoryUsage.rss(),
  };
  trying(() => {
    const aside = `${progress}.${holder.pid}.tmp`;
    writeFileSync(aside, `${JSON.stringify(published)}\n`);
    renameSync(aside, progress);
  });
}

/** Records a line that was printed. */
export function note(line: string, kind: LogLine['kind']): void {
  const mine = journals.at(-1);
  if (!mine || line.trim() === '') return;
  const { log, holder } = mine;
  const record: LogLine = {
    time: new Date().toISOString(),
    work: holder.work,
    kind,
    line: line.trim().slice(0, MAX_LINE_LENGTH),
  };
  const text = `${JSON.stringify(record)}\n`;
  trying(() => {
    if (mine.size + text.length > MAX_LOG_BYTES) mine.size = shorten(log);
    appendFileSync(log, text);
    mine.size += Buffer.byteLength(text);
  });
}

/** Drops the older half of a log's lines. @returns bytes left */
function shorten(log: string): number {
  const lines = readFileSync(log, 'utf8').trimEnd().split('\n');
  let bytes = 0;
  const kept = [];
  for (const line of lines.reverse()) {
    bytes += Buffer.byteLength(line) + 1;
    if (bytes > MAX_LOG_BYTES / 2) break;
    kept.unshift(`${line}\n`);
  }
  const text = kept.join('');
  const aside = `${log}.${process.pid}.tmp`;
  writeFileSync(aside, text);
  renameSync(aside, log);
  return Buffer.byteLength(text);
}

function trying(write: () => void): void {
  try {
    write();
  } catch {}
}
