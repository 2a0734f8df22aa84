/**
 * Installs realm as users do, and prints how long that takes and how much disk, on the Node that runs this script:
 *
 *   node scripts/check-package.mjs     needs the registry, some minutes and about 1 GB; removes everything at the end
 *
 * It packs the checkout, installs the file with `npm install --global` under a prefix with a space in its name, then with
 * npx. Each time it starts the command from an empty folder: version, doctor, a preset, the shortest demo. It uses the
 * user's own caches of npm and the engine, so a second run is faster. Exit code 1 if anything fails.
 */
import { spawnSync } from 'node:child_process';
import { existsSync, lstatSync, mkdirSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { delimiter, dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

const root = dirname(dirname(fileURLToPath(import.meta.url)));
const work = mkdtempSync(join(tmpdir(), 'realm package '));
const env = { ...process.env, PATH: `${dirname(process.execPath)}${delimiter}${process.env.PATH}` };

/** Settings of a demo of a few seconds: it shows that every stage runs, not that anything is learned. */
const SHORTEST_DEMO = [
  'demo',
  ...['world.documents=60', 'ict.steps=2', 'ict.batch=8', 'pretrain.steps=2', 'refresh.every=1'].flatMap(set),
  ...['qa.steps=2', 'qa.devQuestions=2', 'closedBook.steps=2'].flatMap(set),
];

function set(setting) {
  return ['--set', setting];
}

try {
  console.log(`Node ${process.version}, npm ${run('npm', ['--version'], root).stdout.trim()}`);
  const packed = JSON.parse(run('npm', ['pack', '--json', '--pack-destination', work], root).stdout)[0];
  const file = join(work, packed.filename);
  console.log(
    `packed: ${packed.entryCount} files, ${megabytes(packed.size)}, unpacked ${megabytes(packed.unpackedSize)}`,
  );

  const prefix = join(work, 'a prefix');
  const install = run('npm', ['install', '--global', '--prefix', prefix, file], work);
  console.log(
    `npm install --global: ${install.seconds} s, ${megabytes(sizeOf(prefix))}${notes(install.stderr)}`,
  );
  const home = join(prefix, 'lib', 'node_modules', packed.name);
  console.log(`engine: ${existsSync(join(home, 'node_modules', '.realm-engine')) ? 'native' : 'not built'}`);
  const bin = join(prefix, 'bin', 'realm');
  tryOut('installed', (args, cwd) => run(bin, args, cwd));

  const npx = (args, cwd) => run('npx', ['--yes', '--package', file, 'realm-lm', ...args], cwd);
  tryOut('npx', npx);
} catch (error) {
  console.error(error.message);
  process.exitCode = 1;
} finally {
  rmSync(work, { recursive: true, force: true });
}

/** Runs commands with `realm` in an empty folder and checks their output. */
function tryOut(how, realm) {
  const cwd = join(work, `empty ${how}`);
  mkdirSync(cwd);
  const version = realm(['--version'], cwd);
  expect(version.stdout === '0.1.0\n', `${how}: --version says ${JSON.stringify(version.stdout)}`);
  const again = realm(['--version'], cwd);
  console.log(`${how}: --version in ${version.seconds} s, again in ${again.seconds} s`);

  const doctor = realm(['doctor', '--json'], cwd);
  const { engine } = JSON.parse(doctor.stdout);
  console.log(`${how}: doctor in ${doctor.seconds} s, ${engine?.description ?? 'no engine'}`);

  writeFileSync(
    join(cwd, 'docs.jsonl'),
    `${JSON.stringify({ id: '1', title: 'Oslo', text: 'Oslo has been the capital of Norway since 1814.' })}\n`,
  );
  realm(['prepare', '--run', 'mine', '--config', 'squad-open', ...set('data.documents=docs.jsonl')], cwd);
  expect(existsSync(join(cwd, 'mine', 'corpus', 'manifest.json')), `${how}: prepare left no corpus`);

  const demo = realm([...SHORTEST_DEMO, '--json'], cwd);
  expect('exactMatch' in JSON.parse(demo.stdout), `${how}: the demo gave ${demo.stdout}`);
  console.log(`${how}: the shortest demo in ${demo.seconds} s`);
}

function run(command, args, cwd) {
  const started = performance.now();
  const { status, signal, error, stdout, stderr } = spawnSync(command, args, {
    cwd,
    env,
    encoding: 'utf8',
    maxBuffer: 1 << 28,
  });
  if (error) throw error;
  expect(status === 0, `${command} ${args.join(' ')}: ended with ${status ?? signal}\n${stdout}${stderr}`);
  return { stdout, stderr, seconds: ((performance.now() - started) / 1000).toFixed(1) };
}

function expect(holds, otherwise) {
  if (!holds) throw new Error(otherwise);
}

/** npm's warnings, as text. */
function notes(stderr) {
  const engines = [
    ...stderr.matchAll(/package: '([^']+)',\s+npm warn EBADENGINE\s+required: \{ node: '([^']+)'/g),
  ];
  return engines.length === 0
    ? ', no warning about the version of Node'
    : `, warnings: ${engines.map(([, name, node]) => `${name} wants Node ${node}`).join(', ')}`;
}

function sizeOf(path) {
  const stat = lstatSync(path);
  if (!stat.isDirectory()) return stat.blocks * 512;
  return readdirSync(path).reduce((sum, name) => sum + sizeOf(join(path, name)), 0);
}

function megabytes(bytes) {
  return `${(bytes / 1e6).toFixed(1)} MB`;
}
