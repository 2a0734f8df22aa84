/**
 * The native TensorFlow engine where the official binary cannot be had: the same Node binding, compiled against
 * the TensorFlow that the Python wheel carries. No Python code runs in it; Python's pip only downloads the wheel.
 *
 *   node scripts/engine.mjs install [--optional] [--cuda]   builds it unless one stands (--optional: failure is exit code 0)
 *   node scripts/engine.mjs status                          what stands, its checksums, and whether it computes
 *   node scripts/engine.mjs remove                          takes every trace of it away
 *
 * What it leaves: CACHE/engine-KEY (TensorFlow's libraries and headers, OpenBLAS, the binding, the package's tarball,
 * stamp.json), shared by every checkout, and node_modules/.realm-engine (the package's JavaScript, the kernels of
 * src/engine/native compiled for this processor, and engine.json, which src/engine.ts reads).
 * It may use nothing outside Node itself, because npm runs it while it installs.
 */
import { spawn, spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import {
  closeSync,
  createReadStream,
  existsSync,
  mkdirSync,
  openSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statfsSync,
  statSync,
  writeFileSync,
  writeSync,
} from 'node:fs';
import { createRequire } from 'node:module';
import { cpus, homedir } from 'node:os';
import { basename, dirname, join, relative, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';

const TENSORFLOW = '2.21.0';
const PACKAGE = '@tensorflow/tfjs-node-gpu';
const PACKAGE_VERSION = '4.22.0';
/** As in package-lock.json, which is not at hand where realm is itself a dependency. */
const PACKAGE_INTEGRITY =
  'sha512-p//NN6DGiN4hInUmIkRffaFVMcdTREUMjPyjW04J7OXvB2zBlQimj61eFKSgRrH3f5TnOfKzb0n56he/B6a4bw==';
/** Counts changes to how the binding is compiled; a build made by an older recipe is not used. */
const RECIPE = 2;

/**
 * One wheel a machine, whatever Python runs pip: the libraries in it know nothing of the Python version.
 * `megabytes` is the download. No `tensorflow-cpu` is published for ARM; `tensorflow` is the CPU build there.
 */
const WHEELS = {
  'x64-cpu': {
    name: 'tensorflow-cpu',
    platform: 'manylinux_2_27_x86_64',
    sha256: '2b847d217b02ee7731ed91431daf3250daa0196c3c94614d23be27232e6e5b6c',
  },
  'x64-cuda': {
    name: 'tensorflow',
    platform: 'manylinux_2_27_x86_64',
    sha256: '9056fbc9ba04235810b71ae6cbd958a196e8804fb53bbcffbf3e23b56155f124',
  },
  'arm64-cpu': {
    name: 'tensorflow',
    platform: 'manylinux_2_27_aarch64',
    sha256: '4b24aca16d527a3cf1c37f720c04c484c3d20f4d0fdfa98632ac8b9f3be6eb5c',
  },
};

/** OpenBLAS multiplies in our kernels: it is twice as fast as TensorFlow's own products on the small matrices of attention. */
const OPENBLAS = {
  name: 'scipy-openblas32',
  version: '0.3.34.481.3',
  x64: {
    platform: 'manylinux_2_27_x86_64',
    sha256: '0595f94cd58c1f8a0d90c975621f4587337a003916b1979e834ebdf2cb5d9504',
  },
  arm64: {
    platform: 'manylinux_2_27_aarch64',
    sha256: 'e085dddbc5b9aa130f83def515d31c440e69f387a90c7e63b154a5575b4466bc',
  },
};

const LIBRARIES = ['libtensorflow_cc.so.2', 'libtensorflow_framework.so.2'];
const BLAS = 'libscipy_openblas.so';
const KERNELS = 'realm_kernels.node';
const BINDING = 'tfjs_binding.node';
const TARBALL = 'tfjs-node-gpu.tgz';
/** Wheel, its libraries and headers unpacked, and some room. */
const DISK_NEEDED = 2.5e9;

const self = fileURLToPath(import.meta.url);
const root = dirname(dirname(self));
const require = createRequire(self);
const cache = join(process.env.XDG_CACHE_HOME || join(homedir(), '.cache'), 'realm');
const installed = join(root, 'node_modules', '.realm-engine');
const pointer = join(installed, 'engine.json');

/** Something the reader of the message can mend, told in one line. */
class Missing extends Error {}

// ---------------------------------------------------------------------------------------------------- commands

async function install({ optional, cuda }) {
  if (optional && (process.env.npm_config_omit ?? '').split(/[\s,]+/).includes('optional')) return;
  const standing = readPointer();
  if (standing && (!cuda || standing.variant === 'cuda')) {
    const { variant, tensorflow, binding, sources } = standing;
    const current = variant === 'official' || dirname(binding) === engineDir(variant);
    if (current && (variant === 'official' || sources === sourcesDigest())) {
      if (!optional) say(`native engine: stands already, TensorFlow ${tensorflow} (${variant})`);
      return;
    }
  }
  if (!cuda && (await useOfficial())) return;
  const variant = cuda || stamped(engineDir('cuda')) ? 'cuda' : 'cpu';
  const dir = engineDir(variant);
  const unlock = await lock();
  try {
    if (!stamped(dir)) await build(dir, variant);
    await link(dir, variant);
  } finally {
    unlock();
  }
}

async function status() {
  const standing = readPointer();
  if (!standing) throw new Missing('native engine: none; build it with: node scripts/engine.mjs install');
  say(`native engine: TensorFlow ${standing.tensorflow} (${standing.variant}), ${standing.binding}`);
  if (standing.variant !== 'official') {
    const dir = dirname(standing.binding);
    for (const [name, seal] of Object.entries(stamped(dir).files)) {
      const same = (await digest(join(dir, name), 'sha256', 'hex')) === seal.sha256;
      if (!same) throw new Missing(`native engine: ${join(dir, name)} is damaged; ${REBUILD}`);
      say(`  ${name}  ${megabytes(seal.bytes)}  checksum agrees`);
    }
  }
  await compute(standing.package, standing.binding);
  say('  computes: yes');
}

const REBUILD = 'run: node scripts/engine.mjs remove && node scripts/engine.mjs install';

async function remove() {
  rmSync(installed, { recursive: true, force: true });
  if (existsSync(cache)) {
    const unlock = await lock();
    try {
      for (const name of readdirSync(cache)) {
        if (name.startsWith('engine-')) rmSync(join(cache, name), { recursive: true, force: true });
      }
    } finally {
      unlock();
    }
    if (readdirSync(cache).length === 0) rmSync(cache, { recursive: true });
  }
  say('native engine: removed');
}

// ------------------------------------------------------------------------------------------------- what stands

/** The engine that src/engine.ts would load, or undefined when there is none or a file of it is gone. */
function readPointer() {
  try {
    const { tensorflow, variant, package: js, binding, kernels } = JSON.parse(readFileSync(pointer, 'utf8'));
    const found = {
      tensorflow,
      variant,
      sources: kernels?.processor === processor() ? kernels.sources : undefined,
      package: resolve(installed, js),
      binding: resolve(installed, binding),
    };
    if (!existsSync(join(found.package, 'dist', 'nodejs_kernel_backend.js')) || !existsSync(found.binding))
      return;
    if (variant !== 'official' && !stamped(dirname(found.binding))) return;
    return found;
  } catch {}
}

function engineDir(variant) {
  return join(cache, `engine-${TENSORFLOW}-${variant}-${process.arch}-${RECIPE}`);
}

/** The stamp of a finished build whose files all have their stamped length; `status` also compares the checksums. */
function stamped(dir) {
  try {
    const stamp = JSON.parse(readFileSync(join(dir, 'stamp.json'), 'utf8'));
    for (const [name, seal] of Object.entries(stamp.files)) {
      if (statSync(join(dir, name)).size !== seal.bytes) return;
    }
    return stamp;
  } catch {}
}

/** Takes the official package where its own install script could fetch its binary and that binary works. */
async function useOfficial() {
  let home;
  try {
    home = dirname(require.resolve(`${PACKAGE}/package.json`));
  } catch {
    return false;
  }
  const binding = join(home, 'lib', 'napi-v8', BINDING);
  if (!existsSync(binding)) return false;
  try {
    await compute(home, binding);
  } catch {
    return false;
  }
  mkdirSync(installed, { recursive: true });
  writePointer(installed, {
    tensorflow: `of ${PACKAGE} ${PACKAGE_VERSION}`,
    variant: 'official',
    package: relative(installed, home),
    binding: relative(installed, binding),
  });
  return true;
}

function writePointer(folder, value) {
  writeFileSync(join(folder, 'engine.json.tmp'), `${JSON.stringify(value, null, 2)}\n`);
  renameSync(join(folder, 'engine.json.tmp'), join(folder, 'engine.json'));
}

/** Puts the package's JavaScript and our kernels beside this checkout's packages, so that they find the one tfjs they all share. */
async function link(dir, variant) {
  const aside = `${installed}.${process.pid}.tmp`;
  try {
    await unpackJavaScript(dir, aside);
    let kernels;
    try {
      await step('kernels compiled', undefined, () => compileKernels(dir, join(aside, KERNELS)));
      kernels = { file: KERNELS, sources: sourcesDigest(), processor: processor() };
    } catch (error) {
      if (!(error instanceof Missing)) throw error;
      say(`native engine: without realm's own kernels, slower: ${error.message}`);
    }
    const binding = join(dir, BINDING);
    writePointer(aside, { tensorflow: TENSORFLOW, variant, package: 'package', binding, kernels });
    rmSync(installed, { recursive: true, force: true });
    renameSync(aside, installed);
  } finally {
    rmSync(aside, { recursive: true, force: true });
  }
}

const native = join(root, 'src', 'engine', 'native');
const nativeSources = () => readdirSync(native).sort();

/** Of the kernels' source as it stands: compiled ones of another are not used. src/engine.ts computes the same. */
function sourcesDigest() {
  const hash = createHash('sha256');
  for (const name of nativeSources()) hash.update(readFileSync(join(native, name)));
  return hash.digest('hex');
}

/** The kernels use every instruction of the processor that they are compiled on. */
const processor = () => cpus()[0]?.model ?? '';

async function compileKernels(dir, out) {
  await compileShared(
    ['-O3', '-march=native', '-fopenmp-simd', '-fno-math-errno', '-fno-trapping-math'],
    [join(dir, 'include')],
    nativeSources()
      .filter((name) => name.endsWith('.cc'))
      .map((name) => join(native, name)),
    [join(dir, LIBRARIES[1]), join(dir, BLAS)],
    [`-Wl,-rpath,${dir}`],
    out,
  );
}

async function unpackJavaScript(dir, into) {
  mkdirSync(into, { recursive: true });
  await command('tar', ['-xzf', join(dir, TARBALL), '-C', into, 'package/dist', 'package/package.json']);
  // Only TensorBoard's histograms use the protocol buffers, whose package npm drops together with the official one.
  writeFileSync(join(into, 'package', 'dist', 'proto', 'api_pb.js'), 'module.exports = {};\n');
}

// ------------------------------------------------------------------------------------------------------- build

/**
 * Builds into DIR.work and renames it when a matmul has come out right. Finished steps are kept in that folder,
 * so an interrupted build goes on where it was.
 */
async function build(dir, variant) {
  const wheel = { version: TENSORFLOW, ...WHEELS[`${process.arch}-${variant}`] };
  const python = await requirements(wheel);
  const work = `${dir}.work`;
  mkdirSync(work, { recursive: true });
  const started = performance.now();
  say(`native engine: building it once, about a minute and 280 MB of download; Ctrl-C is safe`);

  await step(`${PACKAGE} ${PACKAGE_VERSION} from npm`, join(work, TARBALL), () => fetchPackage(work));
  const unpacked = join(work, 'unpacked');
  await step(`libraries and headers out of the wheel`, unpacked, async () => {
    const file = await fetchWheel(python, wheel, work);
    await unpack(python, file, unpacked);
    rmSync(join(work, 'wheel'), { recursive: true, force: true });
  });
  const blas = join(work, BLAS);
  await step(`${OPENBLAS.name} ${OPENBLAS.version}`, blas, async () => {
    const wheel = { name: OPENBLAS.name, version: OPENBLAS.version, ...OPENBLAS[process.arch] };
    const file = await fetchWheel(python, wheel, work);
    const into = join(work, 'blas');
    await command(python, ['-m', 'zipfile', '-e', file, into]);
    renameSync(join(into, 'scipy_openblas32', 'lib', BLAS), blas);
    for (const folder of ['wheel', 'blas']) rmSync(join(work, folder), { recursive: true, force: true });
  });

  const out = join(work, 'engine');
  rmSync(out, { recursive: true, force: true });
  mkdirSync(out);
  await step('binding compiled', join(out, BINDING), () => compile(work, unpacked, out));
  renameSync(join(work, TARBALL), join(out, TARBALL));
  for (const name of LIBRARIES) renameSync(join(unpacked, 'tensorflow', name), join(out, name));
  renameSync(join(unpacked, 'tensorflow', 'include'), join(out, 'include'));
  renameSync(blas, join(out, BLAS));
  const files = {};
  for (const name of [...LIBRARIES, BLAS, BINDING, TARBALL]) {
    const path = join(out, name);
    files[name] = { bytes: statSync(path).size, sha256: await digest(path, 'sha256', 'hex') };
  }
  writeFileSync(
    join(out, 'stamp.json'),
    `${JSON.stringify({ tensorflow: TENSORFLOW, variant, files }, null, 2)}\n`,
  );

  await step('a matmul comes out right', undefined, () => tryOut(out));
  rmSync(dir, { recursive: true, force: true });
  renameSync(out, dir);
  rmSync(work, { recursive: true, force: true });
  const size = Object.values(files).reduce((sum, f) => sum + f.bytes, 0);
  say(`native engine: ready after ${seconds(started)}, ${megabytes(size)} in ${dir}`);
}

/** Everything that could be wanting, checked before the first byte is downloaded. Returns the Python to call. */
async function requirements(wheel) {
  if (process.platform !== 'linux' || !wheel.name) {
    throw new Missing(`no recipe for ${process.platform} ${process.arch} (Linux on x64 and arm64 have one)`);
  }
  const glibc = process.report.getReport().header.glibcVersionRuntime;
  if (!glibc || compareVersions(glibc, '2.27') < 0) {
    throw new Missing(
      `TensorFlow needs glibc 2.27 or newer, this system has ${glibc ?? 'another C library'}`,
    );
  }
  mkdirSync(cache, { recursive: true });
  const disk = statfsSync(cache);
  if (disk.bavail * disk.bsize < DISK_NEEDED) {
    throw new Missing(`${cache} has ${megabytes(disk.bavail * disk.bsize)} free, the build needs 2500 MB`);
  }
  if (!works('tar', ['--version'])) throw new Missing('no tar');
  if (!works(compiler(), ['--version'])) {
    throw new Missing(`no C++ compiler (${compiler()}); on Debian or Ubuntu: apt-get install g++`);
  }
  const python = ['python3', 'python'].find((name) => works(name, ['--version']));
  if (!python)
    throw new Missing(
      'no python3, whose pip downloads TensorFlow; on Debian or Ubuntu: apt-get install python3-pip',
    );
  if (!works(python, ['-m', 'pip', '--version'])) {
    throw new Missing(`${python} has no pip; on Debian or Ubuntu: apt-get install python3-pip`);
  }
  return python;
}

const compiler = () => process.env.CXX || 'g++';

function works(name, args) {
  return spawnSync(name, args, { stdio: 'ignore' }).status === 0;
}

function compareVersions(a, b) {
  return a.localeCompare(b, 'en', { numeric: true });
}

async function fetchPackage(work) {
  const npm = process.env.npm_execpath?.endsWith('.js')
    ? [process.execPath, process.env.npm_execpath]
    : ['npm'];
  const into = join(work, 'npm');
  rmSync(into, { recursive: true, force: true });
  mkdirSync(into);
  const args = [
    'pack',
    `${PACKAGE}@${PACKAGE_VERSION}`,
    '--prefer-offline',
    '--ignore-scripts',
    '--pack-destination',
    into,
  ];
  await command(npm[0], [...npm.slice(1), ...args], { cwd: root });
  const file = join(into, readdirSync(into)[0]);
  if (`sha512-${await digest(file, 'sha512', 'base64')}` !== PACKAGE_INTEGRITY) {
    throw new Missing(
      `${PACKAGE} ${PACKAGE_VERSION}: what npm delivered has another checksum than the pinned one`,
    );
  }
  renameSync(file, join(work, TARBALL));
  rmSync(into, { recursive: true });
}

/** Downloads the wheel with pip, which compares the pinned hash and takes a whole wheel that is there already. */
async function fetchWheel(python, wheel, work) {
  const into = join(work, 'wheel');
  const temporary = join(work, 'tmp');
  rmSync(temporary, { recursive: true, force: true });
  mkdirSync(temporary);
  mkdirSync(into, { recursive: true });
  writeFileSync(
    join(work, 'requirements.txt'),
    `${wheel.name}==${wheel.version} --hash=sha256:${wheel.sha256}\n`,
  );
  const tags = [
    '--python-version',
    '3.11',
    '--implementation',
    'cp',
    '--abi',
    'cp311',
    '--platform',
    wheel.platform,
  ];
  const args = ['-m', 'pip', 'download', '--no-deps', '--only-binary=:all:', '--no-cache-dir', ...tags];
  const stop = watch(temporary, `${wheel.name} ${wheel.version}`);
  try {
    await command(python, [...args, '--dest', into, '-r', join(work, 'requirements.txt')], {
      env: {
        ...process.env,
        TMPDIR: temporary,
        PIP_DISABLE_PIP_VERSION_CHECK: '1',
        PIP_REQUIRE_VIRTUALENV: '0',
      },
    });
  } finally {
    stop();
    rmSync(temporary, { recursive: true, force: true });
  }
  return join(into, readdirSync(into)[0]);
}

/** Streams the two libraries and the C headers out of the wheel; Python's zipfile checks each member's CRC. */
async function unpack(python, file, into) {
  const aside = `${into}.tmp`;
  rmSync(aside, { recursive: true, force: true });
  const program = `
import sys, zipfile
wheel = zipfile.ZipFile(sys.argv[1])
headers = ('tensorflow/c/', 'tensorflow/core/platform/', 'tensorflow/core/common_runtime/next_pluggable_device/c/',
           'tsl/platform/', 'xla/tsl/c/', 'xla/c/', 'xla/stream_executor/')
wanted = tuple('tensorflow/include/' + h for h in headers)
libraries = ['tensorflow/' + l for l in sys.argv[3:]]
for name in libraries + [n for n in wheel.namelist() if n.startswith(wanted) and n.endswith('.h')]:
    wheel.extract(name, sys.argv[2])
`;
  await command(python, ['-c', program, file, aside, ...LIBRARIES]);
  renameSync(aside, into);
}

async function compile(work, unpacked, out) {
  await command('tar', ['-xzf', join(work, TARBALL), '-C', work, 'package/binding']);
  const source = join(work, 'package');
  const tensorflow = join(unpacked, 'tensorflow');
  await compileShared(
    ['-O2'],
    [source, join(tensorflow, 'include')],
    ['tfjs_backend.cc', 'tfjs_binding.cc'].map((name) => join(source, 'binding', name)),
    LIBRARIES.map((name) => join(tensorflow, name)),
    ['-Wl,-rpath,$ORIGIN'],
    join(out, BINDING),
  );
}

/** An addon for Node out of C++. */
async function compileShared(flags, includes, sources, libraries, linking, out) {
  const headers = await import('node-api-headers').catch(() => {
    throw new Missing('the package node-api-headers is not installed; run npm ci');
  });
  const name = basename(out, '.node');
  await command(compiler(), [
    ...['-std=c++17', '-w', '-fPIC', '-shared', '-pthread', '-DNAPI_VERSION=8', ...flags],
    `-DNODE_GYP_MODULE_NAME=${name}`,
    ...[...includes, headers.default.include_dir].flatMap((folder) => ['-isystem', folder]),
    ...sources,
    ...libraries,
    ...linking,
    ...['-o', out],
  ]);
}

/** Loads the finished folder in a process of its own, with the JavaScript beside this checkout's packages. */
async function tryOut(out) {
  const js = `${installed}.${process.pid}.try`;
  try {
    await unpackJavaScript(out, js);
    await compute(join(js, 'package'), join(out, BINDING));
  } finally {
    rmSync(js, { recursive: true, force: true });
  }
}

/** Multiplies two matrices in a child process: a library that does not fit this machine may kill the process. */
async function compute(packageDir, binding) {
  const program = `
const { createRequire } = require('node:module');
const [packageDir, binding] = process.argv.slice(1);
const need = createRequire(packageDir + '/package.json');
const tf = need('@tensorflow/tfjs');
const { NodeJSKernelBackend } = need('./dist/nodejs_kernel_backend.js');
need('./dist/register_all_kernels.js');
tf.registerBackend('tensorflow', () => new NodeJSKernelBackend(need(binding), 'tfjs-node-gpu'));
tf.setBackend('tensorflow');
const product = tf.matMul([[1, 2], [3, 4]], [[5, 6], [7, 8]]).dataSync();
process.exit(product.join() === '19,22,43,50' ? 0 : 1);
`;
  await command(process.execPath, ['-e', program, packageDir, binding], {
    env: { ...process.env, TF_CPP_MIN_LOG_LEVEL: '2', IS_TEST: '1' },
  });
}

// ------------------------------------------------------------------------------------------------- small things

const children = new Set();

/** Runs a program quietly to its end; a failure is told with the last line it said that looks like the reason. */
function command(name, args, options = {}) {
  return new Promise((done, fail) => {
    const child = spawn(name, args, { stdio: ['ignore', 'pipe', 'pipe'], ...options });
    children.add(child);
    let said = '';
    for (const stream of [child.stdout, child.stderr]) {
      stream.on('data', (data) => {
        said = (said + data).slice(-20000);
      });
    }
    child.on('error', fail);
    child.on('close', (code, signal) => {
      children.delete(child);
      if (code === 0) return done();
      const lines = said.trim().split('\n');
      const reason = lines.findLast((line) => /error|cannot|fatal/i.test(line)) ?? lines.at(-1);
      fail(
        new Missing(
          `${name} ${args.find((a) => /^[a-z]+$/.test(a)) ?? ''} failed (${signal ?? code}): ${reason.trim()}`,
        ),
      );
    });
  });
}

async function step(name, made, run) {
  if (made && existsSync(made)) return;
  const started = performance.now();
  await run();
  say(`  ${name}: ${seconds(started)}`);
}

/** Tells every so often how much lies in a folder, until the returned function is called. */
function watch(folder, name) {
  const every = terminal.live ? 500 : 10000;
  const timer = setInterval(() => {
    const line = `  ${name}: ${megabytes(sizeOf(folder))} downloaded`;
    writeSync(terminal.fd, terminal.live ? `\r${line}` : `${line}\n`);
  }, every);
  return () => {
    clearInterval(timer);
    if (terminal.live) writeSync(terminal.fd, '\r\x1b[K');
  };
}

function sizeOf(folder) {
  let bytes = 0;
  try {
    for (const entry of readdirSync(folder, { withFileTypes: true })) {
      const path = join(folder, entry.name);
      bytes += entry.isDirectory() ? sizeOf(path) : statSync(path).size;
    }
  } catch {} // a file moved away while we looked
  return bytes;
}

/** Waits until no other process builds, and returns what ends the claim. A claim whose process is gone is void. */
async function lock() {
  mkdirSync(cache, { recursive: true });
  const claim = join(cache, 'engine-lock');
  for (let waited = false; ; waited = true) {
    try {
      writeFileSync(claim, String(process.pid), { flag: 'wx' });
      break;
    } catch (error) {
      if (error.code !== 'EEXIST') throw error;
    }
    if (!holderLives(claim)) {
      rmSync(claim, { force: true });
      continue;
    }
    if (!waited) say('native engine: another process is building it, waiting for that');
    await new Promise((wake) => setTimeout(wake, 300));
  }
  const unlock = () => rmSync(claim, { force: true });
  for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP']) {
    process.once(signal, () => {
      for (const child of children) child.kill('SIGTERM');
      unlock();
      say('\nnative engine: stopped; the next install goes on from here');
      process.exit(130);
    });
  }
  return unlock;
}

function holderLives(claim) {
  try {
    process.kill(Number(readFileSync(claim, 'utf8')), 0);
    return true;
  } catch (error) {
    return error.code === 'EPERM';
  }
}

function digest(path, algorithm, encoding) {
  return new Promise((done, fail) => {
    const hash = createHash(algorithm);
    createReadStream(path, { highWaterMark: 1 << 20 })
      .on('data', (piece) => hash.update(piece))
      .on('error', fail)
      .on('end', () => done(hash.digest(encoding)));
  });
}

/** Where progress goes: stderr, or the terminal itself while npm keeps stderr to itself. */
const terminal = (() => {
  if (process.stderr.isTTY) return { fd: 2, live: true };
  if (process.env.npm_lifecycle_event === 'postinstall') {
    try {
      return { fd: openSync('/dev/tty', 'w'), live: true };
    } catch {} // no terminal at all: a server's build
  }
  return { fd: 2, live: false };
})();

function say(line) {
  writeSync(terminal.fd, `${line}\n`);
}

const megabytes = (bytes) => `${Math.round(bytes / 1e6)} MB`;
const seconds = (since) => `${((performance.now() - since) / 1000).toFixed(1)} s`;

// --------------------------------------------------------------------------------------------------------- main

const [verb, ...flags] = process.argv.slice(2);
const known = { install: ['--optional', '--cuda'], status: [], remove: [] };
if (!(verb in known) || flags.some((flag) => !known[verb].includes(flag))) {
  say('usage: node scripts/engine.mjs install [--optional] [--cuda] | status | remove');
  process.exit(2);
}
const optional = flags.includes('--optional');
try {
  if (verb === 'install') await install({ optional, cuda: flags.includes('--cuda') });
  if (verb === 'status') await status();
  if (verb === 'remove') await remove();
} catch (error) {
  if (verb !== 'install') say(error instanceof Missing ? error.message : String(error.stack));
  else {
    const reason = error instanceof Missing ? error.message : `${error.code ?? error.name}: ${error.message}`;
    say(`native engine: not built, realm goes on with WebAssembly (slower): ${reason}`);
  }
  process.exitCode = optional ? 0 : 1;
}
if (terminal.fd !== 2) closeSync(terminal.fd);
