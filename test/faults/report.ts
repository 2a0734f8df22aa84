/** Options of a part. */
export interface FaultOptions {
  /** A few minutes, to run on every change; otherwise the whole campaign. */
  short: boolean;
  /** Of all random choices of a part. */
  seed: number;
}

/** The result of a part. */
export interface Report {
  lines: string[];
  failed: boolean;
}

/** Characters printed of one failure. */
const MAX_FAILURE_CHARACTERS = 1200;

/** Counts and failures of one part, printed as they happen (stderr) and at the end (lines). */
export function tally(part: string) {
  const counts = new Map<string, number>();
  const notes: string[] = [];
  const failures = new Map<string, number>();
  return {
    count(what: string, n = 1): void {
      counts.set(what, (counts.get(what) ?? 0) + n);
    },
    counted: (what: string) => counts.get(what) ?? 0,
    /** A value, or a part that was left out, for the table. */
    note(what: string, value: string | number): void {
      notes.push(row(what, value));
      print(`${part}: ${what}: ${value}`);
    },
    fail(what: string): void {
      const failure = what.slice(0, MAX_FAILURE_CHARACTERS);
      const before = failures.get(failure) ?? 0;
      failures.set(failure, before + 1);
      if (before === 0) print(`${part}: FAILED: ${failure}`);
    },
    /** Fails unless `right`; returns `right`. */
    check(right: boolean, what: string): boolean {
      if (!right) this.fail(what);
      return right;
    },
    say: (line: string) => print(`${part}: ${line}`),
    report(): Report {
      return {
        lines: [
          ...[...counts].map(([what, n]) => row(what, n)),
          ...notes,
          ...[...failures].map(([failure, n]) => `  FAILED  ${failure}${n > 1 ? ` (${n} times)` : ''}`),
        ],
        failed: failures.size > 0,
      };
    },
  };
}

export type Tally = ReturnType<typeof tally>;

function row(what: string, value: string | number): string {
  return `  ${what.padEnd(58)} ${String(value).padStart(8)}`;
}

function print(line: string): void {
  process.stderr.write(`${line}\n`);
}
