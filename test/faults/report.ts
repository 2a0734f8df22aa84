/** What a part was asked for. */
export interface FaultOptions {
  /** A few minutes' worth, for every change; else the whole campaign. */
  short: boolean;
  /** Of whatever a part draws by chance. */
  seed: number;
}

/** What a part has to tell. */
export interface Report {
  lines: string[];
  failed: boolean;
}

/** Characters told of one failure. */
const LONGEST = 1200;

/** Counts and failures of one part, told as they come (stderr) and at the end (lines). */
export function tally(part: string) {
  const counts = new Map<string, number>();
  const notes: string[] = [];
  const failures = new Map<string, number>();
  return {
    count(what: string, n = 1): void {
      counts.set(what, (counts.get(what) ?? 0) + n);
    },
    counted: (what: string) => counts.get(what) ?? 0,
    /** A figure or a part left out, for the table. */
    note(what: string, value: string | number): void {
      notes.push(row(what, value));
      tell(`${part}: ${what}: ${value}`);
    },
    fail(what: string): void {
      const failure = what.slice(0, LONGEST);
      const before = failures.get(failure) ?? 0;
      failures.set(failure, before + 1);
      if (before === 0) tell(`${part}: FAILED: ${failure}`);
    },
    /** Fails unless `right`; tells whether it was. */
    check(right: boolean, what: string): boolean {
      if (!right) this.fail(what);
      return right;
    },
    say: (line: string) => tell(`${part}: ${line}`),
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

function tell(line: string): void {
  process.stderr.write(`${line}\n`);
}
