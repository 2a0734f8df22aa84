/**
 * npm test: runs every test file on the best engine, then those that compute (they import test/support/engine.ts)
 * again on WebAssembly. `npm test -- FILE...` runs only these files; --engine NAME, or REALM_ENGINE, uses only that
 * engine; --watch runs the files on the best engine again when they change.
 */
import { spawnSync } from 'node:child_process';
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { availableParallelism } from 'node:os';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';

const root = dirname(dirname(fileURLToPath(import.meta.url)));
const { values, positionals } = parseArgs({
  options: { engine: { type: 'string' }, watch: { type: 'boolean', default: false } },
  allowPositionals: true,
});
const files = positionals.length > 0 ? positionals : testFiles('test');

const chosen = values.engine ?? process.env.REALM_ENGINE;
const native = existsSync(join(root, 'node_modules', '.realm-engine', 'engine.json'));
let failed = run(chosen ?? 'auto', files);
if (!chosen && native && !values.watch) {
  const computing = files.filter((file) =>
    /support\/engine\.ts'/.test(readFileSync(join(root, file), 'utf8')),
  );
  failed = run('wasm', computing) || failed;
}
process.exitCode = failed ? 1 : 0;

function testFiles(folder) {
  return readdirSync(join(root, folder), { recursive: true })
    .filter((name) => name.endsWith('.test.ts'))
    .sort()
    .map((name) => join(folder, name));
}

function run(engine, names) {
  if (names.length === 0) return false;
  console.log(`\n${names.length} test files, engine ${engine}`);
  const flags = [
    '--import',
    'tsx',
    '--test',
    `--test-concurrency=${Math.max(2, availableParallelism())}`,
    // A test or a file that hangs fails after half an hour. None takes ten minutes, even on two cores with four busy loops.
    '--test-timeout=1800000',
    '--test-reporter=spec',
    '--test-reporter-destination=stdout',
  ];
  if (values.watch) flags.push('--watch');
  else flags.push('--test-reporter=./scripts/slowest.mjs', '--test-reporter-destination=stdout');
  const env = { ...process.env, REALM_ENGINE: engine };
  const { status } = spawnSync(process.execPath, [...flags, ...names], { cwd: root, env, stdio: 'inherit' });
  return status !== 0;
}
