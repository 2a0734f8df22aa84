import cliProgress from 'cli-progress';

/** Progress of one long stage, on stderr: a bar on a terminal, else a plain line now and then. */
export interface Progress {
  /** Sets how much is done, with a short remark such as `loss 3.21`. */
  at(done: number, remark?: string): void;
  end(): void;
}

/** Seconds between two plain lines. */
const LINE_EVERY = 10;

/** @param from how much an earlier run has done already: it does not count in the time that is left */
export function progress(
  name: string,
  total: number,
  from = 0,
  stream: NodeJS.WriteStream = process.stderr,
): Progress {
  const started = performance.now();
  const seconds = () => (performance.now() - started) / 1000;
  const timeLeft = (done: number) =>
    done <= from ? '?' : duration((seconds() / (done - from)) * (total - done));
  if (stream.isTTY) {
    const bar = new cliProgress.SingleBar(
      {
        stream,
        format: `${name.padEnd(14)} {bar} {value}/{total} {remark} ({left} left)`,
        hideCursor: true,
        clearOnComplete: false,
      },
      cliProgress.Presets.shades_classic,
    );
    bar.start(total, from, { remark: '', left: '?' });
    return {
      at: (done, remark = '') => bar.update(done, { remark, left: timeLeft(done) }),
      end: () => bar.stop(),
    };
  }
  let last = 0;
  let saidEnd = false;
  return {
    at(done, remark = '') {
      const now = seconds();
      if (saidEnd || (now - last < LINE_EVERY && done < total)) return;
      last = now;
      saidEnd = done >= total;
      const tail = saidEnd ? `in ${duration(now)}` : `${timeLeft(done)} left`;
      stream.write(`${name}: ${done}/${total}${remark ? ` ${remark}` : ''}, ${tail}\n`);
    },
    end() {},
  };
}

/** A duration a reader takes in at a glance: `8 s`, `3 min 20 s`, `5 h 12 min`. */
export function duration(seconds: number): string {
  const s = Math.round(seconds);
  if (s < 60) return `${s} s`;
  if (s < 3600) return `${Math.floor(s / 60)} min ${s % 60} s`;
  return `${Math.floor(s / 3600)} h ${Math.floor((s % 3600) / 60)} min`;
}

/** One plain line for the person at the terminal: always stderr, so that stdout stays machine-readable. */
export function say(line: string): void {
  process.stderr.write(`${line}\n`);
}
