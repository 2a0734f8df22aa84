// npm run test:faults: kills, full disks, stuck children and damaged files, through real processes of bin/realm. Each
// part counts what it did and fails if anything ended in the wrong way. Linux only: it reads /proc.
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import type { FaultOptions, Report } from './report.ts';

const PARTS = ['kills', 'signals', 'surroundings', 'disk', 'refresh', 'workers', 'hostile'];

const { values } = parseArgs({
  options: {
    /** About two minutes, to run on every change. */
    short: { type: 'boolean', default: false },
    /** Only this part; repeatable. */
    only: { type: 'string', multiple: true, default: [] },
    seed: { type: 'string', default: String(Date.now() % 1_000_000) },
  },
});
const wrong = values.only.filter((part) => !PARTS.includes(part));
if (wrong.length > 0 || !/^\d+$/.test(values.seed)) {
  console.error(`faults: --only takes one of ${PARTS.join(', ')}, --seed a whole number`);
  process.exit(2);
}
if (process.platform !== 'linux') {
  console.log('faults: left out, as they read what Linux tells of processes under /proc');
  process.exit(0);
}

const options: FaultOptions = { short: values.short, seed: Number(values.seed) };
const reports: [name: string, report: Report, seconds: number][] = [];
for (const name of PARTS) {
  if (values.only.length > 0 && !values.only.includes(name)) continue;
  const file = join(import.meta.dirname, `${name}.ts`);
  if (!existsSync(file)) continue;
  const began = performance.now();
  const part = (await import(file))[name] as (options: FaultOptions) => Promise<Report>;
  let report: Report;
  try {
    report = await part(options);
  } catch (error) {
    report = { lines: [`  FAILED  ${(error as Error).stack}`], failed: true };
  }
  reports.push([name, report, (performance.now() - began) / 1000]);
}

console.log(`\nfaults, seed ${options.seed}${options.short ? ', short' : ''}`);
for (const [name, { lines, failed }, seconds] of reports) {
  console.log(`\n${name}: ${failed ? 'FAILED' : 'passed'} in ${seconds.toFixed(0)} s`);
  for (const line of lines) console.log(line);
}
process.exit(reports.some(([, { failed }]) => failed) ? 1 : 0);
