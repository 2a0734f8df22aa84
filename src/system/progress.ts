import cliProgress from 'cli-progress';
import { note, publish } from './journal.ts';
import { isQuiet } from './quiet.ts';

/** Progress of one long stage, on stderr: a bar on a terminal, else a plain line now and then. The run records it, too. */
export interface Progress {
  /** Sets how much is done, with a short remark such as `loss 3.21`. */
  at(done: number, remark?: string): void;
  end(): void;
}

export interface ProgressOptions {
  /** How much an earlier run has done already: it does not count in the speed and the time left. */
  from?: number;
  /** What the speed counts, such as `questions`; `bytes` are shown in MiB, and progress in per cent. */
  unit?: string;
  /** How many of `unit` are in one of `total`, such as examples in a step. */
  each?: number;
}

/** Seconds between two plain lines. */
const LINE_EVERY = 10;

export function progress(
  name: string,
  total: number,
  { from = 0, unit, each = 1 }: ProgressOptions = {},
  stream: NodeJS.WriteStream = process.stderr,
): Progress {
  if (isQuiet()) return { at() {}, end() {} };
  const started = performance.now();
  const seconds = () => (performance.now() - started) / 1000;
  /** `unit` per second; undefined while nothing is done. */
  const rate = (done: number) =>
    done > from && seconds() > 0 ? (each * (done - from)) / seconds() : undefined;
  const left = (done: number) =>
    done > from ? (seconds() / (done - from)) * Math.max(0, total - done) : undefined;
  const share = (done: number) =>
    unit === 'bytes' ? `${Math.floor((100 * done) / Math.max(1, total))} %` : `${done}/${total}`;
  const speed = (done: number) => {
    const perSecond = rate(done);
    if (perSecond === undefined || unit === undefined) return '';
    return unit === 'bytes' ? `${mebibytes(perSecond)}/s, ` : `${digits(perSecond)} ${unit}/s, `;
  };
  const memory = () => mebibytes(process.memoryUsage.rss());
  const record = (done: number, remark: string) =>
    publish(() => ({ name, done, total, unit, remark, rate: rate(done), left: left(done) }));
  const timeLeft = (done: number) => {
    const time = left(done);
    return time === undefined ? '?' : duration(time);
  };
  if (stream.isTTY) {
    const bar = new cliProgress.SingleBar(
      {
        stream,
        format: `${name.padEnd(14)} {bar} {share} {remark} ({speed}{memory}, {left} left)`,
        hideCursor: true,
        clearOnComplete: false,
      },
      cliProgress.Presets.shades_classic,
    );
    bar.start(total, from, { share: share(from), remark: '', speed: '', memory: memory(), left: '?' });
    return {
      at(done, remark = '') {
        record(done, remark);
        const shown = {
          share: share(done),
          remark,
          speed: speed(done),
          memory: memory(),
          left: timeLeft(done),
        };
        bar.update(done, shown);
      },
      end: () => bar.stop(),
    };
  }
  let last = 0;
  let ended = false;
  return {
    at(done, remark = '') {
      record(done, remark);
      const now = seconds();
      if (ended || (now - last < LINE_EVERY && done < total)) return;
      last = now;
      ended = done >= total;
      const time = ended ? `in ${duration(now)}` : `${timeLeft(done)} left`;
      stream.write(
        `${name}: ${share(done)}${remark ? ` ${remark}` : ''}, ${speed(done)}${memory()}, ${time}\n`,
      );
    },
    end() {},
  };
}

/** Three digits, whatever the size: `0.0412`, `12.3`, `4567`. */
function digits(value: number): string {
  return value >= 100 ? String(Math.round(value)) : String(Number(value.toPrecision(3)));
}

/** `512 MiB`, `1.3 GiB`. */
export function mebibytes(bytes: number): string {
  const mib = bytes / 2 ** 20;
  return mib >= 1024 ? `${(mib / 1024).toFixed(1)} GiB` : `${digits(mib)} MiB`;
}

/** A duration in its two largest units: `8 s`, `3 min 20 s`, `5 h 12 min`. */
export function duration(seconds: number): string {
  const s = Math.round(seconds);
  if (s < 60) return `${s} s`;
  if (s < 3600) return `${Math.floor(s / 60)} min ${s % 60} s`;
  return `${Math.floor(s / 3600)} h ${Math.floor((s % 3600) / 60)} min`;
}

/** Prints one line for the user, always to stderr, so that stdout stays machine-readable. */
export function say(line: string): void {
  if (isQuiet()) return;
  process.stderr.write(`${line}\n`);
  note(line, 'note');
}

/** Like `say`, for a warning: `realm status` shows the last one. */
export function warn(line: string): void {
  if (!isQuiet()) complain(line);
}

/** Like `warn`, for the error that ends the command: a quiet process prints it, too. */
export function complain(line: string): void {
  process.stderr.write(`${line}\n`);
  note(line, 'trouble');
}
