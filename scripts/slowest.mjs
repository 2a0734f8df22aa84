import { relative, resolve } from 'node:path';

/** An additional reporter of node:test: prints the ten slowest test files at the end. */
export default async function* slowest(events) {
  const seconds = {};
  for await (const { type, data } of events) {
    // The process that runs all files reports each file as a test named by its path.
    if (type === 'test:complete' && data.nesting === 0 && resolve(data.name) === data.file)
      seconds[relative(process.cwd(), data.file)] = data.details.duration_ms / 1000;
  }
  const longest = Object.entries(seconds).sort(([, a], [, b]) => b - a);
  const total = longest.reduce((sum, [, s]) => sum + s, 0);
  yield `\nslowest test files, of ${total.toFixed(0)} s in all:\n`;
  for (const [file, s] of longest.slice(0, 10)) yield `${s.toFixed(1).padStart(7)} s  ${file}\n`;
}
