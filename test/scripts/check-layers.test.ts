import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { cpSync, mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { after, before, test } from 'node:test';
import { upwardImports } from '../../scripts/check-layers.ts';

const ROOT = join(import.meta.dirname, '../..');
let dir: string;
before(() => {
  dir = mkdtempSync(join(tmpdir(), 'realm-lint-'));
});
after(() => rmSync(dir, { recursive: true, force: true }));

function write(files: Record<string, string>): string {
  const src = mkdtempSync(join(dir, 'src-'));
  for (const [path, text] of Object.entries(files)) {
    mkdirSync(dirname(join(src, path)), { recursive: true });
    writeFileSync(join(src, path), text);
  }
  return src;
}

test('no import of src goes up', () => {
  assert.deepEqual(upwardImports(join(ROOT, 'src')), []);
});

test('an import of a higher folder is reported, whatever its form', () => {
  const src = write({
    'high/a.ts': "import { b } from '../low/b.ts';\nimport './c.ts';\nexport const a = b;\n",
    'high/c.ts': '',
    'low/b.ts': "import type { A } from '../high/a.ts';\nexport const b = 1;\n",
    'low/d.ts': "const a = await import('../high/a.ts');\n",
    'low/e.ts': "export { a } from '../high/a.ts';\n",
    'low/f.ts': "new Worker(new URL('../high/c.ts', import.meta.url));\n",
    'cli.ts': "import { a } from './high/a.ts';\n",
  });
  assert.deepEqual(upwardImports(src, ['low', 'high', 'cli.ts']), [
    'low/b.ts imports high/a.ts, which is in a higher layer',
    'low/d.ts imports high/a.ts, which is in a higher layer',
    'low/e.ts imports high/a.ts, which is in a higher layer',
    'low/f.ts imports high/c.ts, which is in a higher layer',
  ]);
});

test('a folder without a layer is reported', () => {
  const src = write({ 'attic/a.ts': '' });
  assert.match(upwardImports(src, ['low']).join(), /^attic\/a\.ts: attic has no layer/);
});

/** What `biome lint` says of files beside a copy of the project's own configuration. */
function lint(files: Record<string, string>): { status: number | null; output: string } {
  const project = mkdtempSync(join(dir, 'project-'));
  cpSync(join(ROOT, 'biome.json'), join(project, 'biome.json'));
  symlinkSync(join(ROOT, 'node_modules'), join(project, 'node_modules'));
  for (const [path, text] of Object.entries(files)) {
    mkdirSync(dirname(join(project, path)), { recursive: true });
    writeFileSync(join(project, path), text);
  }
  const biome = join(ROOT, 'node_modules/@biomejs/biome/bin/biome');
  const run = spawnSync(process.execPath, [biome, 'lint', '--error-on-warnings', 'src'], {
    cwd: project,
    encoding: 'utf8',
  });
  return { status: run.status, output: run.stdout + run.stderr };
}

test('the linter refuses a circle of imports, of types alone too', () => {
  const { status, output } = lint({
    'src/a.ts': "import type { B } from './b.ts';\nexport type A = { b?: B };\n",
    'src/b.ts': "import type { A } from './a.ts';\nexport type B = { a?: A };\n",
  });
  assert.equal(status, 1);
  assert.match(output, /noImportCycles/);
});

test('the linter refuses a seventh parameter, and six pass', () => {
  const declare = (names: string) =>
    `export function f(${names
      .split('')
      .map((name) => `${name}: number`)
      .join(', ')}) {\n  return ${names.split('').join(' + ')};\n}\n`;
  assert.equal(lint({ 'src/six.ts': declare('abcdef') }).status, 0);
  const { status, output } = lint({ 'src/seven.ts': declare('abcdefg') });
  assert.equal(status, 1);
  assert.match(output, /useMaxParams/);
});
