import assert from 'node:assert/strict';
import { spawn, spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { once } from 'node:events';
import {
  chmodSync,
  chownSync,
  copyFileSync,
  existsSync,
  linkSync,
  lstatSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { basename, delimiter, dirname, join, resolve } from 'node:path';
import { afterEach, beforeEach, describe, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { findInstalled } from '../../src/engine/installed.mjs';
import { isAlive } from '../../src/system/alive.ts';
import { errorCode } from '../../src/system/errors.ts';
import { type Checkout, checkout } from '../support/checkout.ts';

// scripts/engine.mjs on machines that lack something: programs, the network, writable folders. Each test has its own copy
// of realm, its own cache, and a PATH with only the programs that the test provides.

const built = findInstalled();
const build = built && built.variant === 'cpu' ? dirname(built.binding) : undefined;
const NO_BUILD = 'no native engine is built on this machine';
const NO_LINUX = process.platform !== 'linux' && 'the native engine is for Linux';

let copy: Checkout;
let cache: string;
let programs: string;
beforeEach(() => {
  copy = checkout();
  chmodSync(copy.folder, 0o755); // other users must be able to read it
  cache = join(copy.folder, 'cache');
  programs = join(copy.folder, 'programs');
  mkdirSync(programs);
  for (const name of ['tar', 'gzip']) provide(name);
});
afterEach(() => copy.remove());

const place = () => join(copy.root, 'node_modules', '.realm-engine');
const json = (path: string) => JSON.parse(readFileSync(path, 'utf8'));
const reason = () => json(join(place(), 'failure.json')).reason;

/** Puts one of this machine's programs on the tests' PATH. */
function provide(name: string): void {
  const found = process.env
    .PATH!.split(delimiter)
    .map((folder) => join(folder, name))
    .find((path) => existsSync(path));
  if (found) symlinkSync(found, join(programs, name));
}

/** Puts a program on the PATH that runs this JavaScript and records its calls. */
function pretend(name: string, script = ''): void {
  const log = JSON.stringify(join(copy.folder, `${name}.calls`));
  const text = `#!${process.execPath}
const fs = require('node:fs'), path = require('node:path'), args = process.argv.slice(2);
fs.appendFileSync(${log}, args.join(' ') + '\\n');
const after = (flag) => args[args.indexOf(flag) + 1];
${script}`;
  writeFileSync(join(programs, name), text, { mode: 0o755 });
}

function calls(name: string): string[] {
  const log = join(copy.folder, `${name}.calls`);
  return existsSync(log) ? readFileSync(log, 'utf8').trim().split('\n') : [];
}

function linkOrCopy(from: string, to: string): void {
  try {
    linkSync(from, to);
  } catch (error) {
    if (!['EXDEV', 'EPERM'].includes(errorCode(error) ?? '')) throw error; // another disk, or another user's file
    copyFileSync(from, to);
  }
}

/** A finished build in the cache: hard links to the files of this machine's build. */
function finishedBuild(): string {
  const dir = join(cache, 'realm', basename(build!));
  const copyTree = (from: string, to: string) => {
    mkdirSync(to, { recursive: true });
    for (const name of readdirSync(from)) {
      if (lstatSync(join(from, name)).isDirectory()) copyTree(join(from, name), join(to, name));
      else linkOrCopy(join(from, name), join(to, name));
    }
  };
  copyTree(build!, dir);
  return dir;
}

type Options = { uid?: number; env?: Record<string, string> };

function environment(env?: Record<string, string>) {
  const { npm_config_omit: _, npm_lifecycle_event: __, npm_execpath: ___, ...inherited } = process.env;
  return { ...inherited, PATH: programs, CXX: 'g++', XDG_CACHE_HOME: cache, ...env };
}

function run(args: string[], { uid, env }: Options = {}) {
  return spawnSync(process.execPath, args, {
    env: environment(env),
    encoding: 'utf8',
    ...(uid !== undefined && { uid, gid: uid }),
  });
}

const engine = (args: string[], options?: Options) =>
  run([join(copy.root, 'scripts', 'engine.mjs'), ...args], options);

/** What every command that computes does first; it prints the engine, or an error message. */
function announce(choice: string, options?: Options) {
  return run(['--import', 'tsx', announcement(), choice], options);
}

function announcement(): string {
  const file = join(copy.root, 'announce.mts');
  writeFileSync(
    file,
    `import { announceEngine } from './src/pipeline/context.ts';
     console.log(await announceEngine({ engine: process.argv[2] }).catch(({ name, message }) => name + ' ' + message));`,
  );
  return file;
}

describe('a finished build', { skip: !build && NO_BUILD }, () => {
  test('is used without a compiler and without its kernels, and the JavaScript needs nothing that Node removed', () => {
    finishedBuild();
    const { status, stderr } = engine(['install']);
    assert.equal(status, 0, stderr);
    assert.equal(
      stderr,
      "native engine: without realm's own kernels, slower: no C++ compiler (g++); on Debian or Ubuntu: apt-get install g++\n",
    );
    const { stdout, stderr: said } = announce('tensorflow');
    assert.equal(stdout, 'tensorflow\n', said);
    assert.match(said, /^engine: native TensorFlow .*realm's own kernels are missing/);
    assert.equal(json(join(place(), 'engine.json')).signals, undefined);

    const dist = join(place(), 'package', 'dist');
    const used = readdirSync(dist, { recursive: true, encoding: 'utf8' })
      .filter((name) => name.endsWith('.js') && !name.endsWith('_test.js'))
      .flatMap((name) => {
        const text = readFileSync(join(dist, name), 'utf8');
        const [, util] = /var (\w+) = require\("(?:node:)?util"\)/.exec(text) ?? [];
        return util ? [...text.matchAll(new RegExp(`\\b${util}\\.(\\w+)`, 'g'))].map(([, what]) => what) : [];
      });
    assert.deepEqual([...new Set(used)], ['promisify']);
  });

  test('is refused in one sentence if the JavaScript is not the version that the patch is for', () => {
    const dir = finishedBuild();
    const tarball = join(dir, 'tfjs-node-gpu.tgz');
    const tar = (...args: string[]) => assert.equal(spawnSync('tar', args).status, 0);
    tar('-xzf', tarball, '-C', copy.folder);
    writeFileSync(
      join(copy.folder, 'package', 'dist', 'kernels', 'TopK.js'),
      'var util_1 = require("util");',
    );
    rmSync(tarball); // only the link, not the file of this machine's build
    tar('-czf', tarball, '-C', copy.folder, 'package');
    const stamp = json(join(dir, 'stamp.json'));
    stamp.files['tfjs-node-gpu.tgz'].bytes = lstatSync(tarball).size;
    rmSync(join(dir, 'stamp.json'));
    writeFileSync(join(dir, 'stamp.json'), JSON.stringify(stamp));
    const { status, stderr } = engine(['install']);
    assert.equal(status, 1);
    assert.match(
      stderr,
      /^native engine: not built, .*: dist\/kernels\/TopK\.js of @tensorflow\/tfjs-node-gpu is not the file of version [\d.]+; run: realm engine remove && realm engine install\n$/,
    );
    assert.deepEqual(readdirSync(place()), ['failure.json']);
  });

  test('by an older realm is not used until it is updated; its kernels and its addon for signals are kept', () => {
    const dir = finishedBuild();
    const { kernels } = built!;
    mkdirSync(join(place(), 'package', 'dist'), { recursive: true });
    writeFileSync(join(place(), 'package', 'dist', 'nodejs_kernel_backend.js'), '');
    writeFileSync(join(place(), 'kernels'), 'compiled');
    writeFileSync(join(place(), 'signals'), 'compiled, too');
    const source = createHash('sha256').update(readFileSync(join(copy.root, 'src/system/signals.cc')));
    writeFileSync(
      join(place(), 'engine.json'),
      JSON.stringify({
        tensorflow: '2.21.0',
        variant: 'cpu',
        package: 'package',
        binding: join(dir, 'tfjs_binding.node'),
        kernels: kernels && { ...kernels, file: 'kernels' },
        signals: { file: 'signals', source: source.digest('hex') },
      }),
    );
    assert.match(
      run([join(copy.root, 'bin', 'realm'), 'doctor']).stdout,
      /tensorflow no +was installed by another version of realm; `realm engine install` updates it/,
    );
    const { status, stderr } = engine(['install']);
    assert.equal(status, 0, stderr);
    const renewed = json(join(place(), 'engine.json'));
    assert.equal(renewed.layout, built!.layout);
    if (kernels) assert.equal(readFileSync(join(place(), renewed.kernels.file), 'utf8'), 'compiled');
    assert.equal(readFileSync(join(place(), renewed.signals.file), 'utf8'), 'compiled, too');
  });

  test('by the package itself is used with a copy of its JavaScript; the package is not changed', () => {
    const scope = join(copy.root, 'node_modules', '@tensorflow');
    rmSync(scope); // a link to this checkout's packages
    mkdirSync(scope);
    for (const name of readdirSync('node_modules/@tensorflow').filter((n) => n !== 'tfjs-node-gpu'))
      symlinkSync(resolve('node_modules/@tensorflow', name), join(scope, name));
    const official = join(scope, 'tfjs-node-gpu');
    const binaries = join(official, 'lib', 'napi-v8');
    mkdirSync(binaries, { recursive: true });
    const tarball = join(build!, 'tfjs-node-gpu.tgz');
    const args = [
      '-xzf',
      tarball,
      '-C',
      official,
      '--strip-components=1',
      'package/dist',
      'package/package.json',
    ];
    assert.equal(spawnSync('tar', args).status, 0);
    for (const name of ['tfjs_binding.node', 'libtensorflow_cc.so.2', 'libtensorflow_framework.so.2'])
      linkOrCopy(join(build!, name), join(binaries, name));
    const file = join('dist', 'nodejs_kernel_backend.js');
    const before = readFileSync(join(official, file), 'utf8');
    const { status, stderr } = engine(['install']);
    assert.equal(status, 0, stderr);
    const { variant, binding } = json(join(place(), 'engine.json'));
    assert.deepEqual([variant, binding], ['official', join(binaries, 'tfjs_binding.node')]);
    assert.equal(readFileSync(join(official, file), 'utf8'), before);
    assert.notEqual(readFileSync(join(place(), 'package', file), 'utf8'), before);
    assert.equal(announce('tensorflow').stdout, 'tensorflow\n');
  });

  test('is linked at the first use if npm ran no scripts', () => {
    finishedBuild();
    const { stdout, stderr } = announce('auto');
    assert.equal(stdout, 'tensorflow\n', stderr);
    assert.ok(existsSync(join(place(), 'engine.json')));
    assert.match(engine(['status']).stderr, /computes: yes, on the CPU/);
  });

  describe('for a user who may not write everywhere', () => {
    const NOBODY = process.getuid?.() === 0 ? 65_534 : undefined;
    const uid = NOBODY;
    /** Without root, the tests run as the current user and remove the write permission. */
    const readOnly = (folder: string) => chmodSync(folder, 0o555);
    const own = (folder: string) => {
      mkdirSync(folder, { recursive: true });
      if (NOBODY !== undefined) chownSync(folder, NOBODY, NOBODY);
    };
    afterEach(() => {
      for (const folder of [join(copy.root, 'node_modules'), join(cache, 'realm'), cache])
        if (existsSync(folder)) chmodSync(folder, 0o755);
    });
    const unreadable = () =>
      run(['-e', "require('@tensorflow/tfjs/package.json')", '--', '0'], {
        uid,
        env: { NODE_PATH: join(copy.root, 'node_modules') },
      }).status !== 0 && 'another user cannot read the packages of this checkout';

    test("in another user's cache, it is linked without a lock", (t) => {
      if (unreadable()) return t.skip(unreadable() as string);
      finishedBuild();
      readOnly(join(cache, 'realm'));
      own(join(copy.root, 'node_modules'));
      const { status, stderr } = engine(['install'], { uid });
      assert.equal(status, 0, stderr);
      assert.equal(announce('tensorflow', { uid }).stdout, 'tensorflow\n');
      assert.deepEqual(readdirSync(join(cache, 'realm')), [basename(build!)]);
    });

    test("if realm's folder belongs to another user, it is linked in the user's own cache", (t) => {
      if (unreadable()) return t.skip(unreadable() as string);
      finishedBuild();
      own(join(cache, 'realm'));
      readOnly(join(copy.root, 'node_modules'));
      const { stdout, stderr } = announce('auto', { uid });
      assert.equal(stdout, 'tensorflow\n', stderr);
      assert.equal(existsSync(place()), false);
      assert.equal(readdirSync(join(cache, 'realm')).length, 2);
      const removed = engine(['remove'], { uid });
      if (NOBODY !== undefined) assert.match(removed.stderr, /^native engine: cannot delete .*\(EACCES\)\n$/);
      const left = existsSync(join(cache, 'realm')) ? readdirSync(join(cache, 'realm')) : [];
      assert.deepEqual(left, NOBODY === undefined ? [] : [basename(build!)]); // files of other users stay
    });

    test('if no folder is writable, one sentence says what to do', (t) => {
      if (unreadable()) return t.skip(unreadable() as string);
      finishedBuild();
      readOnly(join(cache, 'realm'));
      readOnly(join(copy.root, 'node_modules'));
      const { status, stderr } = engine(['install'], { uid });
      assert.equal(status, 1);
      assert.match(
        stderr,
        /^native engine: not built, .*: cannot write to .*\(EACCES\) nor to .*\(EACCES\); set XDG_CACHE_HOME to a folder that you can write to\n$/,
      );
    });
  });
});

describe('a build that is not possible', { skip: NO_LINUX }, () => {
  test('is tried once, at the first use; every command and doctor say why there is no build', () => {
    rmSync(join(programs, 'tar'));
    pretend('tar');
    const sentence =
      /engine tensorflow: is not built: no C\+\+ compiler \(g\+\+\); on Debian or Ubuntu: apt-get install g\+\+; `realm engine install` tries again/;
    for (let time = 1; time <= 2; time++) {
      const { stdout, stderr } = announce('auto');
      assert.equal(stdout, 'wasm\n', stderr);
      assert.match(
        stderr,
        new RegExp(`^engine: WebAssembly on (?:one CPU core|\\d+ CPU cores) \\(${sentence.source}\\)\n$`),
      );
      assert.equal(calls('tar').length, 1);
    }
    assert.match(announce('tensorflow').stdout, new RegExp(`^UserError ${sentence.source}`));
    const doctor = run([join(copy.root, 'bin', 'realm'), 'doctor']);
    assert.equal(doctor.status, 0, doctor.stderr);
    assert.match(doctor.stdout, /tensorflow no +is not built: no C\+\+ compiler \(g\+\+\)/);
    assert.equal(engine(['install']).status, 1);
    assert.equal(calls('tar').length, 2);
    assert.deepEqual(readdirSync(join(cache, 'realm')), []);
  });

  test('because npm left out the optional packages is not tried at all', () => {
    const env = { npm_config_omit: 'dev optional' };
    assert.equal(engine(['install', '--optional'], { env }).status, 0);
    assert.match(reason(), /optional packages/);
    assert.match(announce('auto').stderr, /^engine: WebAssembly .*optional packages.*\n$/);
  });

  test('because the cache cannot be created names the variable that moves it', () => {
    for (const [folder, code] of [
      ['/dev/null/cache', 'ENOTDIR'],
      ['/proc/none', 'ENOENT'],
    ]) {
      const { status, stderr } = engine(['install', '--optional'], { env: { XDG_CACHE_HOME: folder } });
      assert.equal(status, 0);
      assert.equal(
        stderr,
        `native engine: not built, realm computes with WebAssembly (slower): ${folder}/realm: cannot be written to (${code}); set XDG_CACHE_HOME to a folder that you can write to\n`,
      );
    }
  });

  test('because Python or pip is missing says so', () => {
    pretend('g++');
    engine(['install']);
    assert.match(reason(), /^no python3, .*apt-get install python3-pip$/);
    pretend('python3', "process.exit(args.includes('pip') ? 1 : 0);");
    engine(['install']);
    assert.match(reason(), /^python3 has no pip; .*apt-get install python3-pip$/);
  });

  test('because there is no network names npm, then pip, and keeps what was downloaded', {
    skip: !build && NO_BUILD,
  }, () => {
    pretend('g++');
    pretend(
      'python3',
      `if (args.includes('download')) {
         console.error("WARNING: Retrying after connection broken by 'NewConnectionError(\\"x: Failed to establish a new connection: [Errno -3] Temporary failure in name resolution\\")': /simple/tensorflow-cpu/");
         console.error('ERROR: No matching distribution found for tensorflow-cpu==2.21.0');
         process.exit(1);
       }`,
    );
    pretend('npm', "console.error('npm error code ENOTFOUND'); process.exit(1);");
    engine(['install']);
    assert.match(reason(), /^npm reaches no server \(ENOTFOUND\); connect this machine/);
    const tarball = JSON.stringify(join(build!, 'tfjs-node-gpu.tgz'));
    pretend('npm', `fs.copyFileSync(${tarball}, path.join(after('--pack-destination'), 'x.tgz'));`);
    const { stderr } = engine(['install']);
    assert.match(reason(), /^pip reaches no server \(.+\); connect this machine/);
    assert.match(stderr, /keeps \d+ MB in .*\.work, where the next attempt resumes; realm engine remove/);
    engine(['install']);
    assert.equal(calls('npm').length, 2, 'the package is not downloaded again');
    assert.equal(engine(['remove']).status, 0);
    assert.equal(existsSync(join(cache, 'realm')), false);
  });

  test('because a signal stopped it leaves no process, no lock and no recorded failure', {
    skip: !build && NO_BUILD,
  }, async () => {
    pretend('g++');
    const tarball = JSON.stringify(join(build!, 'tfjs-node-gpu.tgz'));
    pretend('npm', `fs.copyFileSync(${tarball}, path.join(after('--pack-destination'), 'x.tgz'));`);
    const pid = join(copy.folder, 'python3.pid');
    pretend(
      'python3',
      `if (args.includes('download')) {
         fs.writeFileSync(${JSON.stringify(pid)}, String(process.pid));
         setInterval(() => {}, 1000);
       }`,
    );
    const child = spawn(process.execPath, ['--import', 'tsx', announcement(), 'auto'], {
      env: environment(),
      stdio: ['ignore', 'ignore', 'pipe'],
    });
    let said = '';
    child.stderr.setEncoding('utf8').on('data', (piece) => (said += piece));
    const ended = once(child, 'close');
    while (!(existsSync(pid) && readFileSync(pid, 'utf8')) && child.exitCode === null) await sleep(50);
    child.kill('SIGTERM');
    assert.deepEqual(await ended, [130, null], said);
    assert.match(said, /native engine: stopped; the next attempt resumes\n/);
    assert.deepEqual(
      readdirSync(join(cache, 'realm')).filter((name) => !name.endsWith('.work')),
      [],
    );
    assert.equal(existsSync(place()), false);
    const download = Number(readFileSync(pid, 'utf8'));
    while (isAlive(download)) await sleep(50); // the test's time limit ends an endless wait
  });

  test('because the result does not compute keeps none of its files', { skip: !build && NO_BUILD }, () => {
    const tarball = JSON.stringify(join(build!, 'tfjs-node-gpu.tgz'));
    pretend('npm', `fs.copyFileSync(${tarball}, path.join(after('--pack-destination'), 'x.tgz'));`);
    pretend('g++', "if (args.includes('-o')) fs.writeFileSync(after('-o'), 'no library');");
    pretend(
      'python3',
      `if (args.includes('download')) fs.writeFileSync(path.join(after('--dest'), 'x.whl'), 'wheel');
       if (args[0] === '-c') {
         const into = args[3];
         fs.mkdirSync(path.join(into, 'tensorflow', 'include'), { recursive: true });
         for (const name of ['libtensorflow_cc.so.2', 'libtensorflow_framework.so.2'])
           fs.writeFileSync(path.join(into, 'tensorflow', name), 'library');
         const blas = path.join(into, 'scipy_openblas32', 'lib');
         fs.mkdirSync(blas, { recursive: true });
         fs.writeFileSync(path.join(blas, 'libscipy_openblas.so'), 'library');
       }`,
    );
    const { status, stderr } = engine(['install']);
    assert.equal(status, 1);
    assert.match(reason(), /failed \(1\): .*tfjs_binding\.node/);
    assert.doesNotMatch(stderr, /keeps/);
    assert.deepEqual(readdirSync(join(cache, 'realm')), []);
  });
});

test('realm engine runs the script and returns its exit code', () => {
  const realm = (...args: string[]) => run([join(copy.root, 'bin', 'realm'), ...args]);
  const { status, stderr } = realm('engine');
  assert.equal(status, 1);
  assert.equal(stderr, 'native engine: not installed; build it with: realm engine install\n');
  assert.equal(realm('engine', 'remove').stderr, 'native engine: removed\n');
  assert.match(
    realm('engine', 'status', '--cuda').stderr,
    /takes no --cuda; did you mean "realm engine install --cuda"/,
  );
  assert.match(
    realm('demo', '--engine', 'cuda').stderr,
    /tensorflow, installed with: realm engine install --cuda/,
  );
});
