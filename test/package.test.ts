import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, readdirSync, readFileSync, symlinkSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { before, test } from 'node:test';
import { shrinkwrap } from '../scripts/shrinkwrap.mjs';
import { presets } from '../src/presets.ts';
import { generateWorld, writeWorld } from '../src/world/world.ts';
import { temporaryFolder, tinyConfig } from './support/tiny.ts';

const root = join(import.meta.dirname, '..');
const folder = temporaryFolder('a package');
const home = join(folder, 'package');
const empty = join(folder, 'empty folder');

/** The files that the package may contain; the rest of the checkout is for developers. */
const ALLOWED = [
  /^(package\.json|LICENSE|(README|SECURITY|CHANGELOG|CONTRIBUTING)\.md|CITATION\.cff)$/,
  /^bin\/realm$/,
  /^src\/[\w/-]+\.(ts|mjs|js|css|cc|h)$/,
  /^src\/engine\/wasm\/kernels\.(json|wasm)$/,
  /^types\/[\w/-]+\.d\.m?ts$/,
  /^configs\/[\w-]+\.yaml$/,
  /^deploy\/[\w/-]+\.(sbatch|yaml)$/,
  /^assets\/world-encoder\/(config\.json|model\.safetensors|vocab\.txt)$/,
  /^docs\/[\w/.-]+\.(md|png|svg)$/,
  /^scripts\/engine\.mjs$/,
];

let packed: { filename: string; files: { path: string }[] };

// The file that `npm publish` sends, with the types that its scripts make but without the npm-shrinkwrap.json that they
// write, unpacked next to links to the packages that it pins.
before(() => {
  const types = spawnSync('npm', ['run', 'types'], { cwd: root, encoding: 'utf8' });
  assert.equal(types.status, 0, types.stdout + types.stderr);
  const args = ['pack', '--ignore-scripts', '--json', '--offline', '--pack-destination', folder];
  const { status, stdout, stderr } = spawnSync('npm', args, { cwd: root, encoding: 'utf8' });
  assert.equal(status, 0, stderr);
  [packed] = JSON.parse(stdout);
  const unpacked = spawnSync('tar', ['-xzf', join(folder, packed.filename), '-C', folder]);
  assert.equal(unpacked.status, 0, String(unpacked.stderr));
  const installed = Object.keys(shrinkwrap().packages).filter(
    (path) => /^node_modules\/(@[^/]+\/)?[^/]+$/.test(path) && existsSync(join(root, path)),
  );
  for (const path of [...installed, 'node_modules/.realm-engine']) {
    mkdirSync(dirname(join(home, path)), { recursive: true });
    if (existsSync(join(root, path))) symlinkSync(join(root, path), join(home, path));
  }
  mkdirSync(empty);
});

/** Runs the packed realm in a folder, checks its exit code, and returns its output. */
function realm(args: string[], cwd = empty, code = 0): { stdout: string; stderr: string } {
  const env = { ...process.env, XDG_CACHE_HOME: join(folder, 'cache'), HF_HUB_OFFLINE: '1' };
  const command = [join(home, 'bin', 'realm'), ...args];
  const { status, stdout, stderr } = spawnSync(process.execPath, command, { cwd, env, encoding: 'utf8' });
  assert.equal(status, code, `${args.join(' ')}\n${stdout}${stderr}`);
  return { stdout, stderr };
}

test('the package has its code and documents, and nothing else', () => {
  const names = packed.files.map(({ path }) => path);
  assert.deepEqual(
    names.filter((name) => !ALLOWED.some((pattern) => pattern.test(name))),
    [],
  );
  const sources = (readdirSync(join(root, 'src'), { recursive: true }) as string[])
    .filter((name) => /\.\w+$/.test(name))
    .map((name) => `src/${name}`);
  const pages = readdirSync(join(root, 'docs'))
    .filter((name) => name.endsWith('.md'))
    .map((name) => `docs/${name}`);
  const others = [
    'bin/realm',
    'scripts/engine.mjs',
    'LICENSE',
    'README.md',
    'SECURITY.md',
    'CHANGELOG.md',
    'CONTRIBUTING.md',
  ];
  for (const name of [...sources, ...pages, ...others]) {
    assert.ok(names.includes(name), name);
  }
});

test('the package pins every version that it needs, and can be published', () => {
  const json = JSON.parse(readFileSync(join(home, 'package.json'), 'utf8'));
  assert.equal(json.private, undefined);
  assert.notEqual(json.name, 'realm', 'this name belongs to a database package');
  assert.deepEqual(json.bin, { realm: 'bin/realm', [json.name]: 'bin/realm' });
  assert.equal(json.overrides, undefined, 'npm uses only the overrides of the folder that it installs into');
  for (const [name, version] of Object.entries({ ...json.dependencies, ...json.optionalDependencies })) {
    assert.match(version as string, /^\d+\.\d+\.\d+$/, name);
  }
  const lock = shrinkwrap();
  const { dependencies, devDependencies } = lock.packages[''];
  assert.deepEqual([dependencies, devDependencies], [json.dependencies, undefined]);
  assert.equal(lock.name, json.name);
  for (const name of Object.keys(json.dependencies)) assert.ok(lock.packages[`node_modules/${name}`], name);
  for (const name of ['typescript', '@biomejs/biome', 'playwright-core']) {
    assert.ok(name in json.devDependencies && !lock.packages[`node_modules/${name}`], name);
  }
  assert.ok(json.files.includes('npm-shrinkwrap.json'));
});

test('from an empty folder it prints its version and what the machine has', () => {
  const { version } = JSON.parse(readFileSync(join(home, 'package.json'), 'utf8'));
  assert.equal(realm(['--version']).stdout, `${version}\n`);
  const { engine, node } = JSON.parse(realm(['doctor', '--json']).stdout);
  assert.ok(engine.name);
  assert.equal(node, process.version);
  assert.deepEqual(readdirSync(empty), []);
});

test('the message for a wrong --config lists the presets in the package', () => {
  const { stderr } = realm(['prepare', '--config', 'squad'], empty, 2);
  assert.match(stderr, new RegExp(`squad: no such configuration file; .*: ${presets().join(', ')}\n$`));
  assert.deepEqual(readdirSync(empty), []);
});

test('it prepares documents with a preset, from a folder with a tsconfig.json that would mislead it', () => {
  const cwd = join(folder, 'a project');
  mkdirSync(cwd);
  const paths = { zod: ['./trap.ts'], '*': ['./trap.ts'] };
  writeFileSync(join(cwd, 'tsconfig.json'), JSON.stringify({ compilerOptions: { baseUrl: '.', paths } }));
  writeFileSync(join(cwd, 'trap.ts'), 'throw new Error("the wrong module");\n');
  const text = 'Oslo has been the capital of Norway since 1814. Bergen was it before.';
  writeFileSync(join(cwd, 'docs.jsonl'), `${JSON.stringify({ id: '1', title: 'Oslo', text })}\n`);
  const args = ['prepare', '--run', 'mine', '--config', 'configs/squad-open.yaml', '--json'];
  const counts = JSON.parse(realm([...args, '--set', 'data.documents=docs.jsonl'], cwd).stdout);
  assert.equal(counts.documents, 1);

  // The shortest demo: it uses the package's own encoder, and a refresher in another process.
  const settings = [
    'world.documents=40',
    'ict.steps=1',
    'ict.batch=4',
    'pretrain.steps=2',
    'refresh.every=1',
  ];
  settings.push('pretrain.batch=2', 'pretrain.microBatch=2', 'qa.steps=1', 'qa.batch=2', 'qa.devQuestions=2');
  settings.push('closedBook.steps=1', 'closedBook.batch=2', 'refresh.mode=sync');
  settings.push('refresh.onFailure=stop', 'refresh.maxFailures=1');
  const set = settings.flatMap((setting) => ['--set', setting]);
  const demo = realm(['demo', '--run', 'demo', '--engine', 'wasm', '--json', ...set], cwd);
  assert.ok(JSON.parse(demo.stdout).questions > 0);
  assert.match(
    readFileSync(join(cwd, 'demo', 'config.yaml'), 'utf8'),
    /initial: realm:assets\/world-encoder/,
  );
});

/** A folder that has the package in its node_modules, and a generated world's documents and questions. */
function project(name: string): string {
  const dir = join(folder, name);
  mkdirSync(join(dir, 'node_modules'), { recursive: true });
  symlinkSync(home, join(dir, 'node_modules', 'realm-lm'));
  writeFileSync(join(dir, 'package.json'), '{ "type": "module" }');
  return dir;
}

/** Runs a program; what it wrote. */
function runProgram(cwd: string, ...args: string[]): { stdout: string; stderr: string } {
  const env = { ...process.env, HF_HUB_OFFLINE: '1' };
  const { status, stdout, stderr } = spawnSync(process.execPath, args, { cwd, env, encoding: 'utf8' });
  assert.equal(status, 0, `${stdout}${stderr}`);
  return { stdout, stderr };
}

const LIBRARY = `
import assert from 'node:assert/strict';
import { existsSync } from 'node:fs';
import * as realm from 'realm-lm';

const steps = { ict: 2, pretrain: 2, qa: 2 };
const run = await realm.openRun('run', {
  config: 'settings.yaml',
  set: Object.entries(steps).map(([stage, n]) => stage + '.steps=' + n),
  engine: 'wasm',
});
assert.equal(run.engine, 'wasm');
assert.equal((await realm.prepare(run)).documents, 40);
assert.equal((await realm.ictWarmup(run)).step, steps.ict);
const { rows } = await realm.buildIndex(run);
assert.ok(rows >= 40);
assert.equal((await realm.pretrain(run)).step, steps.pretrain);
assert.equal((await realm.finetuneQa(run)).step, steps.qa);
const { questions, exactMatch } = await realm.evaluateAnswers(run);
assert.ok(questions > 0 && exactMatch >= 0 && exactMatch <= 1);
const recall = await realm.evaluateRecall(run, { stage: 'pretrain' });
assert.equal(recall.questions, questions);
const masked = await realm.evaluateMasked(run, 'perplexity');
assert.ok(masked.figures.perplexity.value > 1);
const session = await realm.openSession(run);
const [answered] = await session.ask(['Where was the painter born?']);
await session.close();
await assert.rejects(realm.openRun('run', { engine: 'wasm' }), (error) => {
  assert.ok(error instanceof realm.UserError);
  assert.match(error.message, /is already running in this run folder/);
  return true;
});
run.close();
const again = await realm.openRun('run', { engine: 'wasm', set: ['qa.readerBlocks=1'] });
assert.equal(again.config.qa.readerBlocks, 1);
// All steps are done.
assert.equal((await realm.pretrain(again)).seconds, 0);
again.close();
assert.deepEqual(realm.runStatus('run').stages.filter(({ state }) => state === 'finished').length, 3);
assert.ok(realm.writeReport(['run']).bytes > 10_000 && existsSync('run/report.html'));
await assert.rejects(realm.openRun('nothing'), realm.UserError);
assert.ok(!existsSync('nothing'));
console.log(JSON.stringify({ answered, exports: Object.keys(realm) }));
`;

const TYPED = `
import { type AnsweredQuestion, type Config, loadConfig, openRun, openSession } from 'realm-lm';

const run = await openRun('run', { readOnly: true, engine: 'wasm', set: ['qa.readerBlocks=2'] });
const session = await openSession(run);
const [answered]: AnsweredQuestion[] = await session.ask(['Where was the painter born?']);
await session.close();
run.close();
const config: Config = loadConfig('world');
const steps: number = config.qa.steps;
// @ts-expect-error: a number
const wrong: string = config.qa.steps;
// @ts-expect-error: the first argument is a folder
const never = () => openRun(3);
console.log(JSON.stringify({ steps, wrong, never: typeof never, answers: answered.answers.length }));
`;

test('a program imports it by name, trains a run and answers a question; in TypeScript with types', async () => {
  const dir = project('a program');
  writeWorld(generateWorld({ seed: 1, documents: 40, heldOut: 0.2 }), dir);
  const settings = tinyConfig(
    'ict={batch: 4, microBatch: 4}',
    'pretrain={batch: 2, microBatch: 2, candidates: 3}',
    'refresh.mode=off',
    'qa={batch: 2, retrieverBlocks: 10, readerBlocks: 3, devQuestions: 0, readerTokens: 104}',
  );
  const { documents: _, train: __, test: ___, ...data } = settings.data;
  const files = {
    documents: 'documents.jsonl',
    train: 'questions.train.jsonl',
    test: 'questions.test.jsonl',
  };
  writeFileSync(join(dir, 'settings.yaml'), JSON.stringify({ ...settings, data: { ...data, ...files } }));
  writeFileSync(join(dir, 'program.mjs'), LIBRARY);
  // stdout is the program's own.
  const { answered, exports } = JSON.parse(runProgram(dir, 'program.mjs').stdout);
  assert.ok(answered.answers.length > 0 && answered.answers[0].answer.length > 0);
  assert.deepEqual(exports, Object.keys(await import('../src/index.ts')));

  writeFileSync(join(dir, 'program.ts'), TYPED);
  for (const [module, moduleResolution] of [
    ['nodenext', 'nodenext'],
    ['esnext', 'bundler'],
  ]) {
    const options = { module, moduleResolution, target: 'es2023', strict: true, skipLibCheck: true };
    writeFileSync(
      join(dir, 'tsconfig.json'),
      JSON.stringify({
        compilerOptions: {
          ...options,
          noEmit: true,
          types: ['node'],
          typeRoots: [join(root, 'node_modules/@types')],
        },
        files: ['program.ts'],
      }),
    );
    runProgram(dir, join(root, 'node_modules/typescript/bin/tsc'), '-p', '.');
  }
  // A process that loads TypeScript already.
  const typed = runProgram(dir, '--import', import.meta.resolve('tsx'), 'program.ts');
  assert.deepEqual(JSON.parse(typed.stdout), { steps: 520, wrong: 520, never: 'function', answers: 2 });
});
