import { relative, resolve } from 'node:path';

/** A reporter of node:test beside another one: the ten test files that took longest, once all are done. */
export default async function* slowest(events) {
  const seconds = {};
  for await (const { type, data } of events) {
    // Each file is a test of its own in the process that runs them all, named by its path.
    if (type === 'test:complete' && data.nesting === 0 && resolve(data.name) === data.file)
      seconds[relative(process.cwd(), data.file)] = data.details.duration_ms / 1000;
  }
  const longest = Object.entries(seconds).sort(([, a], [, b]) => b - a);
  const total = longest.reduce((sum, [, s]) => sum + s, 0);
  yield `\nslowest test files, of ${total.toFixed(0)} s in all:\n`;
  for (const [file, s] of longest.slice(0, 10)) yield `${s.toFixed(1).padStart(7)} s  ${file}\n`;
}
