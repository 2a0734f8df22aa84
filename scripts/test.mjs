/**
 * npm test: every test file on the best engine, then those that compute (they import test/support/engine.ts)
 * once more on WebAssembly. `npm test -- FILE...` runs these files alone; REALM_ENGINE set runs that engine alone.
 */
import { spawnSync } from 'node:child_process';
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

const root = dirname(dirname(fileURLToPath(import.meta.url)));
const files = process.argv.length > 2 ? process.argv.slice(2) : testFiles('test');

const chosen = process.env.REALM_ENGINE;
const native = existsSync(join(root, 'node_modules', '.realm-engine', 'engine.json'));
let failed = run(chosen ?? 'auto', files);
if (!chosen && native) {
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
  // A test that hangs fails after ten minutes, which none needs on the slowest machine.
  const flags = [
    '--import',
    'tsx',
    '--test',
    '--test-reporter=spec',
    '--test-concurrency=2',
    '--test-timeout=600000',
  ];
  const env = { ...process.env, REALM_ENGINE: engine };
  const { status } = spawnSync(process.execPath, [...flags, ...names], { cwd: root, env, stdio: 'inherit' });
  return status !== 0;
}
