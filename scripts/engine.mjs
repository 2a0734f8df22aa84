/**
 * Builds the native TensorFlow engine where the official binary is not available: the same Node binding, compiled
 * against the TensorFlow in the Python wheel. It runs no Python code; Python's pip only downloads the wheel.
 *
 *   realm engine install [--cuda | --cpu]   builds it if there is none (--cuda: the one that computes on an NVIDIA GPU, which
 *                                           later installs keep; --cpu: switches back)
 *   realm engine install --mpi              also installs MPI, for training by several processes
 *   realm engine status                     shows the engine, checks its checksums, and whether and on what it computes
 *   realm engine remove                     deletes all of it
 *
 * `realm engine` runs this script. npm runs it after an installation with --optional (a failure then gives exit code 0).
 * A command that computes runs it with --first-use if neither has happened (the command reports the failure).
 *
 * It writes CACHE/engine-KEY (TensorFlow's libraries and headers, for --cuda NVIDIA's libraries, OpenBLAS, the
 * binding, the package's tarball, stamp.json) and CACHE/engine-mpich-VERSION, shared by every checkout, and one of the two
 * folders of src/engine/installed.mjs (the package's JavaScript, the kernels of src/engine/native compiled for this
 * processor, the addons that count signals and call MPI, and engine.json, which src/engine.ts reads; or failure.json, the
 * reason of a failure).
 * It may use only Node itself, because npm runs it during the installation.
 */
import { spawn, spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import {
  accessSync,
  chmodSync,
  closeSync,
  constants,
  copyFileSync,
  cpSync,
  createReadStream,
  existsSync,
  lstatSync,
  mkdirSync,
  openSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statfsSync,
  statSync,
  symlinkSync,
  writeFileSync,
  writeSync,
} from 'node:fs';
import { createRequire } from 'node:module';
import { basename, dirname, join } from 'node:path';
import { pathToFileURL } from 'node:url';
import {
  cacheFolder,
  FAILURE,
  findInstalled,
  installFolders,
  LAYOUT,
  MPICH,
  mpiDigest,
  mpiFolder,
  mpiSource,
  nativeSources,
  processor,
  readInstalled,
  root,
  signalsDigest,
  signalsSource,
  sourcesDigest,
} from '../src/engine/installed.mjs';

const TENSORFLOW = '2.21.0';
const PACKAGE = '@tensorflow/tfjs-node-gpu';
const PACKAGE_VERSION = '4.22.0';
/** As in package-lock.json, which does not exist where realm is itself a dependency. */
const PACKAGE_INTEGRITY =
  'sha512-p//NN6DGiN4hInUmIkRffaFVMcdTREUMjPyjW04J7OXvB2zBlQimj61eFKSgRrH3f5TnOfKzb0n56he/B6a4bw==';
/** Increased when a variant is built differently; a build made by an older recipe is not used. */
const RECIPES = { cpu: 2, cuda: 3 };

/**
 * One wheel for each kind of machine, whatever Python runs pip: its libraries do not depend on the Python version.
 * `tensorflow-cpu` is not published for ARM; there `tensorflow` is the CPU build.
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

/**
 * NVIDIA's libraries that the `x64-cuda` wheel opens when it finds a GPU: for each wheel that `tensorflow[and-cuda]`
 * requires, the newest for CUDA 12. Two are left out: no library here needs cuRAND, and the compiler of cuda-nvcc is
 * only for XLA's compiled functions and a few kernels (FloorMod, trigonometry of complex numbers), none of which realm
 * runs; TensorFlow contains the other kernels in compiled form.
 */
const NVIDIA = [
  {
    name: 'nvidia-cudnn-cu12',
    version: '9.28.0.42',
    platform: 'manylinux_2_27_x86_64',
    sha256: '9ff58b7f36dacd0a93e89f8f2957b52466889217963701daa15e577317cfa375',
  },
  {
    name: 'nvidia-cublas-cu12',
    version: '12.9.3.13',
    platform: 'manylinux_2_27_x86_64',
    sha256: 'd7d51055f161b317c7105ddaae90e71eda059026074ffef93cf7cde2886bfe72',
  },
  {
    name: 'nvidia-cusparse-cu12',
    version: '12.5.10.65',
    platform: 'manylinux2014_x86_64',
    sha256: '73060ce019ac064a057267c585bf1fd5a353734151f87472ff02b2c5c9984e78',
  },
  {
    name: 'nvidia-nccl-cu12',
    version: '2.32.3',
    platform: 'manylinux_2_27_x86_64',
    sha256: 'bb94b2348e4861d5e8aa00b36c3d12d9bdf9c6369b82cbb723de0b582280a21c',
  },
  {
    name: 'nvidia-cusolver-cu12',
    version: '11.7.5.82',
    platform: 'manylinux_2_27_x86_64',
    sha256: '15da72d1340d29b5b3cf3fd100e3cd53421dde36002eda6ed93811af63c40d88',
  },
  {
    name: 'nvidia-cufft-cu12',
    version: '11.4.1.4',
    platform: 'manylinux2014_x86_64',
    sha256: 'c67884f2a7d276b4b80eb56a79322a95df592ae5e765cf1243693365ccab4e28',
  },
  {
    name: 'nvidia-cuda-nvrtc-cu12',
    version: '12.9.86',
    platform: 'manylinux2010_x86_64',
    sha256: '210cf05005a447e29214e9ce50851e83fc5f4358df8b453155d5e1918094dcb4',
  },
  {
    name: 'nvidia-nvjitlink-cu12',
    version: '12.9.86',
    platform: 'manylinux2010_x86_64',
    sha256: 'e3f1171dbdc83c5932a45f0f4c99180a70de9bd2718c1ab77d14104f6d7147f9',
  },
  {
    name: 'nvidia-cuda-cupti-cu12',
    version: '12.9.79',
    platform: 'manylinux_2_25_x86_64',
    sha256: '096bcf334f13e1984ba36685ad4c1d6347db214de03dbb6eebb237b41d9d934f',
  },
  {
    name: 'nvidia-cuda-runtime-cu12',
    version: '12.9.79',
    platform: 'manylinux2014_x86_64',
    sha256: '25bba2dfb01d48a9b59ca474a1ac43c6ebf7011f1b0b8cc44f54eb6ac48a96c3',
  },
];

/** Our kernels multiply rows with weights by OpenBLAS where the processor has no AVX2, on which they have products of their own. */
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

/** mpiexec and the library, from the wheel that MPI's Python users install (mpi4py/mpi-publish). */
const MPI = {
  name: 'mpich',
  version: MPICH,
  x64: {
    platform: 'manylinux_2_28_x86_64',
    sha256: '8fed465ebff269ea2ebac179a25de02671ddf8df476e0f115be089015015cfd4',
  },
  arm64: {
    platform: 'manylinux_2_28_aarch64',
    sha256: '992ae6ebb0da97d49d7a67000ae8112da9a3825da1bb1e6f1d196428a0410f2d',
  },
};

const BLAS = 'libscipy_openblas.so';
const KERNELS = 'realm_kernels.node';
const SIGNALS = 'realm_signals.node';
const MPI_ADDON = 'realm_mpi.node';
const BINDING = 'tfjs_binding.node';
const TARBALL = 'tfjs-node-gpu.tgz';
/** Bytes that a build downloads, and disk that it needs: for the unpacked files, the largest wheel, and some reserve. */
const SIZES = { cpu: { download: 280e6, disk: 2.5e9 }, cuda: { download: 3280e6, disk: 6e9 } };

/**
 * TensorFlow's libraries look for NVIDIA's at $ORIGIN/../nvidia/NAME/lib. In a subfolder they find them in the
 * engine's own folder, and LD_LIBRARY_PATH is not needed.
 */
const libraries = (variant) =>
  ['libtensorflow_cc.so.2', 'libtensorflow_framework.so.2'].map((name) =>
    variant === 'cuda' ? `tensorflow/${name}` : name,
  );

const require = createRequire(import.meta.url);
const cache = cacheFolder();

/**
 * The package's JavaScript, even in its newest release, calls functions of Node's `util` that Node 23 removed and that
 * print a warning on older versions. These two files use nothing else of `util`: they get the functions from here.
 */
const UTIL = 'var util_1 = require("util");';
const OUR_UTIL =
  'var util_1 = { isArray: Array.isArray, isNullOrUndefined: function (v) { return v === null || v === undefined; } };';
const PATCHED = {
  'dist/nodejs_kernel_backend.js': '708971d31e8905de665d0bf3224c724ef7834a90a2df0bb4c416d40e6e80f88d',
  'dist/kernels/TopK.js': '3955927f2c96bb5d61f1efd348b58e22394635f3150702fe103fd13f75826c5e',
};

/** An error that the user can fix, in one line. */
class Missing extends Error {}

/** The finished engine does not compute: none of it is kept. */
class Useless extends Missing {}

// ---------------------------------------------------------------------------------------------------- commands

async function install({ optional, cuda, cpu }) {
  if (optional && (process.env.npm_config_omit ?? '').split(/[\s,]+/).includes('optional'))
    throw new Missing('npm was asked to leave out optional packages');
  const current = readCurrent();
  if (current && (cuda ? current.variant === 'cuda' : !cpu || current.variant !== 'cuda')) {
    const { variant, tensorflow, kernels, signals, mpi } = current;
    const compiled = kernels?.sources === sourcesDigest() && kernels.processor === processor();
    const addons = signals?.source === signalsDigest() && mpi?.source === mpiDigest();
    if (variant === 'official' || (compiled && addons)) {
      forget();
      say(`native engine: already installed, TensorFlow ${tensorflow} (${variant})`);
      return;
    }
  }
  if (!cuda && (await useOfficial())) return;
  const variant = cuda || (!cpu && hasCard() && stamped(engineDir('cuda'))) ? 'cuda' : 'cpu';
  const dir = engineDir(variant);
  if (!stamped(dir)) {
    const unlock = await lock();
    try {
      if (!stamped(dir)) await build(dir, variant); // another process may have built it meanwhile
    } finally {
      unlock();
    }
  }
  await link(dir, variant);
}

/** Whether NVIDIA's driver is installed, of Linux or of Windows below it: a home folder may be shared with machines without one. */
const hasCard = () => existsSync('/dev/nvidiactl') || existsSync('/dev/dxg');

async function status() {
  const current = readCurrent();
  if (!current) throw new Missing('native engine: not installed; build it with: realm engine install');
  say(`native engine: TensorFlow ${current.tensorflow} (${current.variant}), ${current.binding}`);
  if (current.variant !== 'official') {
    await needUndamaged(dirname(current.binding), REINSTALL, (name, bytes) =>
      say(`  ${name}  ${megabytes(bytes)}  checksum is right`),
    );
  }
  say(`  computes: yes, on the ${await compute(current.package, current.binding)}`);
  if (!stamped(mpiFolder())) return;
  await needUndamaged(mpiFolder(), `${REINSTALL} --mpi`);
  say(`MPI: MPICH ${MPICH}, start ranks with ${join(mpiFolder(), 'bin', 'mpiexec')}`);
}

/** Compares the files of a finished build with the checksums in its stamp. */
async function needUndamaged(dir, remedy, each = () => {}) {
  for (const [name, expected] of Object.entries(stamped(dir).files)) {
    if ((await digest(join(dir, name), 'sha256', 'hex')) !== expected.sha256)
      throw new Missing(`native engine: ${join(dir, name)} is damaged; run: ${remedy}`);
    each(name, expected.bytes);
  }
}

const REINSTALL = 'realm engine remove && realm engine install';

async function remove() {
  const kept = [];
  const discard = (path) => {
    try {
      rmSync(path, { recursive: true, force: true });
    } catch (error) {
      kept.push(`${path} (${error.code})`);
    }
  };
  for (const folder of installFolders()) discard(folder);
  if (existsSync(cache)) {
    const unlock = await lock();
    try {
      for (const name of readdirSync(cache)) {
        if (name.startsWith('engine-') && name !== LOCK) discard(join(cache, name));
      }
    } finally {
      unlock();
    }
    if (readdirSync(cache).length === 0) discard(cache);
  }
  if (kept.length > 0) throw new Missing(`native engine: cannot delete ${kept.join(' nor ')}`);
  say('native engine: removed');
}

// ---------------------------------------------------------------------------------------------- installed engine

/** The engine that src/engine.ts would load, if it is of this recipe and complete; it may be in another user's cache. */
function readCurrent() {
  const found = findInstalled();
  if (!found || found.variant === 'official') return found;
  const dir = dirname(found.binding);
  return basename(dir) === basename(engineDir(found.variant)) && stamped(dir) ? found : undefined;
}

function engineDir(variant) {
  return join(cache, `engine-${TENSORFLOW}-${variant}-${process.arch}-${RECIPES[variant]}`);
}

/** The stamp of a finished build, if all files have the length in the stamp; `status` also compares the checksums. */
function stamped(dir) {
  try {
    const stamp = JSON.parse(readFileSync(join(dir, 'stamp.json'), 'utf8'));
    for (const [name, expected] of Object.entries(stamp.files)) {
      if (statSync(join(dir, name)).size !== expected.bytes) return;
    }
    return stamp;
  } catch {}
}

/** Uses the official package if its own install script could download its binary and that binary works. */
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
    await place(async (folder) => {
      for (const name of ['dist', 'package.json'])
        cpSync(join(home, name), join(folder, 'package', name), { recursive: true });
      await prepareJavaScript(join(folder, 'package'));
      await compute(join(folder, 'package'), binding);
      const addons = await addAddons(folder);
      return { tensorflow: `of ${PACKAGE} ${PACKAGE_VERSION}`, variant: 'official', binding, ...addons };
    });
    return true;
  } catch (error) {
    if (error instanceof Missing) return false;
    throw error;
  }
}

/** Makes a finished build the engine of this installation of realm, with kernels for this processor. */
async function link(dir, variant) {
  await place(async (folder) => {
    await unpackJavaScript(dir, folder);
    let kernels;
    try {
      const compiled = compiledBefore(dir);
      if (compiled) copyFileSync(compiled, join(folder, KERNELS));
      else
        await step('kernels compiled', undefined, () => compileKernels(dir, variant, join(folder, KERNELS)));
      kernels = { file: KERNELS, sources: sourcesDigest(), processor: processor() };
    } catch (error) {
      if (!(error instanceof Missing)) throw error;
      say(`native engine: without realm's own kernels, slower: ${error.message}`);
    }
    const addons = await addAddons(folder);
    return { tensorflow: TENSORFLOW, variant, binding: join(dir, BINDING), kernels, ...addons };
  });
}

/** Kernels of this source code, processor and build that an installation of an older layout has. */
function compiledBefore(dir) {
  for (const found of installFolders().map(readInstalled)) {
    const { file, sources, processor: model } = found?.kernels ?? {};
    if (sources !== sourcesDigest() || model !== processor() || dirname(found.binding) !== dir) continue;
    if (existsSync(file)) return file;
  }
}

/**
 * Fills the first folder of `installFolders` that can be written: `fill` gets a temporary folder and returns the content of
 * engine.json. Several processes may do this at once: each result is complete, and the last one stays.
 */
async function place(fill) {
  const refusals = [];
  for (const folder of installFolders()) {
    const aside = `${folder}.${process.pid}.tmp`;
    try {
      makeFolder(aside);
    } catch (error) {
      refusals.push(`${dirname(folder)} (${error.code})`);
      continue;
    }
    const drop = () => rmSync(aside, { recursive: true, force: true });
    cleanups.add(drop);
    try {
      // In the cache the JavaScript would find no packages in the folders above.
      if (dirname(folder) === cache) symlinkSync(packages(), join(aside, 'node_modules'));
      const filled = { layout: LAYOUT, package: 'package', ...(await fill(aside)) };
      writeFileSync(join(aside, 'engine.json'), `${JSON.stringify(filled, null, 2)}\n`);
      for (let tries = 0; ; tries++) {
        rmSync(folder, { recursive: true, force: true });
        try {
          renameSync(aside, folder);
          break;
        } catch (error) {
          if (!['ENOTEMPTY', 'EEXIST'].includes(error.code) || tries === 9) throw error;
        }
      }
      return;
    } finally {
      cleanups.delete(drop);
      drop();
    }
  }
  throw new Missing(`cannot write to ${refusals.join(' nor to ')}; ${ELSEWHERE}`);
}

const ELSEWHERE = 'set XDG_CACHE_HOME to a folder that you can write to';

/** The node_modules folder with the only tfjs of this installation. */
const packages = () => dirname(dirname(dirname(require.resolve('@tensorflow/tfjs/package.json'))));

/** Records the reason of a failure for `realm doctor`; with it no command tries again by itself. */
function remember(reason) {
  for (const folder of installFolders()) {
    try {
      makeFolder(folder);
      writeFileSync(join(folder, FAILURE), `${JSON.stringify({ layout: LAYOUT, reason }, null, 2)}\n`);
      return true;
    } catch {}
  }
  return false;
}

/** Removes a recorded failure that no longer matters, such as a failed GPU build while the CPU engine stays. */
function forget() {
  for (const folder of installFolders()) {
    try {
      rmSync(join(folder, FAILURE), { force: true });
    } catch {}
  }
}

/** The addons that need no TensorFlow. @returns their entries in engine.json */
async function addAddons(folder) {
  const signals = { key: 'signals', file: SIGNALS, path: signalsSource, source: signalsDigest() };
  const mpi = { key: 'mpi', file: MPI_ADDON, path: mpiSource, source: mpiDigest() };
  return {
    signals: await addAddon(folder, signals, 'a long computation will not react to signals'),
    mpi: await addAddon(folder, mpi, 'several processes cannot train together'),
  };
}

/**
 * Compiles an addon, or copies it from an older installation.
 * @returns its entry in engine.json; undefined if it cannot be compiled: realm works without it
 */
async function addAddon(folder, { key, file, path, source }, without) {
  const out = join(folder, file);
  const before = installFolders()
    .map((place) => readInstalled(place)?.[key])
    .find((addon) => addon?.source === source && existsSync(addon.file));
  try {
    if (before) copyFileSync(before.file, out);
    else await compileShared(['-O2'], [], [path], [], ['-ldl'], out);
    return { file, source };
  } catch (error) {
    if (!(error instanceof Missing)) throw error;
    if (works(compiler(), ['--version'])) say(`native engine: ${without}: ${error.message}`);
  }
}

async function compileKernels(dir, variant, out) {
  const native = join(root, 'src', 'engine', 'native');
  if (!works(compiler(), ['--version'])) throw new Missing(NO_COMPILER);
  const framework = join(dir, libraries(variant)[1]);
  await compileShared(
    ['-O3', '-march=native', '-fopenmp-simd', '-fno-math-errno', '-fno-trapping-math'],
    [join(dir, 'include')],
    nativeSources()
      .filter((name) => name.endsWith('.cc'))
      .map((name) => join(native, name)),
    [framework, join(dir, BLAS)],
    [`-Wl,-rpath,${dir}:${dirname(framework)}`],
    out,
  );
}

async function unpackJavaScript(dir, into) {
  mkdirSync(into, { recursive: true });
  await command('tar', ['-xzf', join(dir, TARBALL), '-C', into, 'package/dist', 'package/package.json']);
  await prepareJavaScript(join(into, 'package'));
}

/** Patches the package's JavaScript so that realm can load it on every Node. */
async function prepareJavaScript(folder) {
  // Only TensorBoard's histograms use protocol buffers; npm drops their package together with the official one.
  writeFileSync(join(folder, 'dist', 'proto', 'api_pb.js'), 'module.exports = {};\n');
  for (const [name, sha256] of Object.entries(PATCHED)) {
    const path = join(folder, name);
    if ((await digest(path, 'sha256', 'hex')) !== sha256)
      throw new Missing(
        `${name} of ${PACKAGE} is not the file of version ${PACKAGE_VERSION}; run: ${REINSTALL}`,
      );
    writeFileSync(path, readFileSync(path, 'utf8').replace(UTIL, OUR_UTIL));
  }
}

// ------------------------------------------------------------------------------------------------------- build

/**
 * Builds in DIR.work/engine and renames that folder once it has computed correct results. An interrupted or failed build
 * keeps the results of its finished steps, and the next one resumes there; an engine that does not compute is deleted.
 */
async function build(dir, variant) {
  const work = `${dir}.work`;
  try {
    await buildIn(work, dir, variant);
  } catch (error) {
    if (error instanceof Useless) rmSync(work, { recursive: true, force: true });
    const kept = sizeOf(work);
    if (kept > 0) {
      say(
        `native engine: keeps ${megabytes(kept)} in ${work}, where the next attempt resumes; realm engine remove deletes it`,
      );
    }
    throw error;
  }
}

async function buildIn(work, dir, variant) {
  const out = join(work, 'engine');
  const python = await requirements(variant, SIZES[variant].disk - sizeOf(work));
  mkdirSync(out, { recursive: true });
  const started = performance.now();
  const download = megabytes(SIZES[variant].download);
  say(
    `native engine: building it once; this takes a minute or more and downloads ${download}; after Ctrl-C the next attempt resumes`,
  );

  await step(`${PACKAGE} ${PACKAGE_VERSION} from npm`, join(out, TARBALL), () => fetchPackage(work, out));
  await step(`libraries and headers out of the wheel`, join(out, 'include'), async () => {
    const wheel = { version: TENSORFLOW, ...WHEELS[`${process.arch}-${variant}`] };
    const unpacked = await fetchUnpacked(python, wheel, work, TENSORFLOW_FILES);
    for (const name of libraries(variant)) {
      mkdirSync(dirname(join(out, name)), { recursive: true });
      renameSync(join(unpacked, 'tensorflow', basename(name)), join(out, name));
    }
    renameSync(join(unpacked, 'tensorflow', 'include'), join(out, 'include'));
  });
  await step(`${OPENBLAS.name} ${OPENBLAS.version}`, join(out, BLAS), async () => {
    const wheel = { name: OPENBLAS.name, version: OPENBLAS.version, ...OPENBLAS[process.arch] };
    const unpacked = await fetchUnpacked(python, wheel, work, `scipy_openblas32/lib/${BLAS}`);
    renameSync(join(unpacked, 'scipy_openblas32', 'lib', BLAS), join(out, BLAS));
  });
  if (variant === 'cuda') await fetchNvidia(python, work, out);
  rmSync(join(out, BINDING), { force: true });
  await step('binding compiled', undefined, () => compile(work, out, variant));

  const names = [...libraries(variant), BLAS, BINDING, TARBALL];
  if (variant === 'cuda') {
    for (const name of readdirSync(join(out, 'nvidia'), { recursive: true })) {
      if (name.includes('.so')) names.push(join('nvidia', name));
    }
  }
  await stamp(out, names, { tensorflow: TENSORFLOW, variant });

  let device;
  await step('computes the right results', undefined, async () => {
    device = await tryOut(work, out);
  });
  rmSync(dir, { recursive: true, force: true });
  renameSync(out, dir);
  rmSync(work, { recursive: true, force: true });
  say(`native engine: ready after ${seconds(started)}, ${megabytes(sizeOf(dir))} in ${dir}`);
  if (variant === 'cuda' && device === 'CPU')
    say('native engine: TensorFlow finds no GPU now; realm reports what is missing when it starts');
}

/** The two libraries, and the headers that the binding and our kernels include. */
const TENSORFLOW_FILES = [
  'tensorflow/libtensorflow_(cc|framework)[.]so[.]2',
  'tensorflow/include/(tensorflow/c|tensorflow/core/platform|tensorflow/core/common_runtime/next_pluggable_device/c' +
    '|tsl/platform|xla/tsl/c|xla/c|xla/stream_executor)/.*[.]h',
].join('|');

/**
 * Unpacks NVIDIA's libraries into OUT/nvidia, in the wheels' own folders, by which they find each other. They are opened
 * by libtensorflow_framework, whose list of folders lacks cuSOLVER's; a link in the runtime's folder makes up for that.
 * Finally TensorFlow's own function must find them all, which needs no GPU. Otherwise TensorFlow would silently not use
 * a GPU.
 */
async function fetchNvidia(python, work, out) {
  const nvidia = join(out, 'nvidia');
  mkdirSync(nvidia, { recursive: true });
  for (const wheel of NVIDIA) {
    const folder = wheel.name.replace(/^nvidia-|-cu12$/g, '').replaceAll('-', '_');
    await step(`${wheel.name} ${wheel.version}`, join(nvidia, folder), async () => {
      const unpacked = await fetchUnpacked(python, wheel, work, `nvidia/${folder}/lib/[^/]*[.]so[^/]*`);
      renameSync(join(unpacked, 'nvidia', folder), join(nvidia, folder));
    });
  }
  const link = join(nvidia, 'cuda_runtime', 'lib', 'libcusolver.so.11');
  rmSync(link, { force: true });
  symlinkSync('../../cusolver/lib/libcusolver.so.11', link);
  const program = `
import ctypes, sys
found = getattr(ctypes.CDLL(sys.argv[1]), '_ZN3tsl8internal9DsoLoader26MaybeTryDlopenGPULibrariesEv')
found.restype = None
status = (ctypes.c_size_t * 8)()
found(status)  # an absl::Status, returned in place: 1 is OK
sys.exit(0 if status[0] == 1 else "error: TensorFlow cannot load NVIDIA's libraries")
`;
  const framework = join(out, libraries('cuda')[1]);
  await step("NVIDIA's libraries load", undefined, () => command(python, ['-c', program, framework]));
}

/** Fills `mpiFolder()` with mpiexec and the library out of the wheel; its folders are kept, by which the parts find each other. */
async function installMpi() {
  const dir = mpiFolder();
  if (!stamped(dir)) {
    const unlock = await lock();
    const work = `${dir}.work`;
    try {
      if (process.platform !== 'linux' || !MPI[process.arch])
        throw new Missing(
          `no MPI for ${process.platform} ${process.arch}; name that of your system with REALM_MPI`,
        );
      needGlibc('MPICH', '2.28');
      const python = pythonWithPip();
      mkdirSync(work, { recursive: true });
      await step(`${MPI.name} ${MPICH}`, undefined, async () => {
        const wheel = { name: MPI.name, version: MPICH, ...MPI[process.arch] };
        const data = `${MPI.name}-${MPICH}.data/data`;
        const wanted = 'bin/(mpiexec|hydra_pmi_proxy)|lib/libmpi_abi[.]so[.]1|lib/mpich/.*[.]so.*';
        const unpacked = join(await fetchUnpacked(python, wheel, work, `${data}/(${wanted})`), data);
        for (const name of readdirSync(join(unpacked, 'bin'))) chmodSync(join(unpacked, 'bin', name), 0o755);
        const names = readdirSync(unpacked, { recursive: true });
        await stamp(
          unpacked,
          names.filter((name) => statSync(join(unpacked, name)).isFile()),
          { mpich: MPICH },
        );
        rmSync(dir, { recursive: true, force: true });
        renameSync(unpacked, dir);
      });
    } finally {
      rmSync(work, { recursive: true, force: true });
      unlock();
    }
  }
  say(`MPI: MPICH ${MPICH} is installed; start ranks with ${join(dir, 'bin', 'mpiexec')}`);
}

/** Writes the stamp of a finished build: the bytes and checksums of its files. */
async function stamp(dir, names, about) {
  const files = {};
  for (const name of names) {
    const path = join(dir, name);
    files[name] = { bytes: statSync(path).size, sha256: await digest(path, 'sha256', 'hex') };
  }
  writeFileSync(join(dir, 'stamp.json'), `${JSON.stringify({ ...about, files }, null, 2)}\n`);
}

/** Checks for everything that could be missing before the first byte is downloaded. Returns the Python to call. */
async function requirements(variant, needed) {
  if (process.platform !== 'linux' || !WHEELS[`${process.arch}-${variant}`]) {
    const there =
      variant === 'cuda' ? 'for NVIDIA GPUs Linux on x64 has one' : 'Linux on x64 and arm64 have one';
    throw new Missing(`no recipe for ${process.platform} ${process.arch} (${there})`);
  }
  needGlibc('TensorFlow', '2.27');
  const disk = statfsSync(cache);
  if (disk.bavail * disk.bsize < needed) {
    throw new Missing(
      `${cache} has ${megabytes(disk.bavail * disk.bsize)} free, the build needs ${megabytes(needed)}`,
    );
  }
  if (!works('tar', ['--version'])) throw new Missing('no tar');
  if (!works(compiler(), ['--version'])) throw new Missing(NO_COMPILER);
  return pythonWithPip();
}

function needGlibc(what, least) {
  const glibc = process.report.getReport().header.glibcVersionRuntime;
  if (glibc && compareVersions(glibc, least) >= 0) return;
  throw new Missing(`${what} needs glibc ${least} or newer, this system has ${glibc ?? 'another C library'}`);
}

function pythonWithPip() {
  const python = ['python3', 'python'].find((name) => works(name, ['--version']));
  if (!python)
    throw new Missing(
      'no python3, whose pip does the download; on Debian or Ubuntu: apt-get install python3-pip',
    );
  if (!works(python, ['-m', 'pip', '--version'])) {
    throw new Missing(`${python} has no pip; on Debian or Ubuntu: apt-get install python3-pip`);
  }
  return python;
}

const compiler = () => process.env.CXX || 'g++';
const NO_COMPILER = `no C++ compiler (${compiler()}); on Debian or Ubuntu: apt-get install g++`;

function works(name, args) {
  return spawnSync(name, args, { stdio: 'ignore' }).status === 0;
}

function compareVersions(a, b) {
  return a.localeCompare(b, 'en', { numeric: true });
}

async function fetchPackage(work, out) {
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
  await download('npm', npm[0], [...npm.slice(1), ...args], { cwd: root });
  const file = join(into, readdirSync(into)[0]);
  if (`sha512-${await digest(file, 'sha512', 'base64')}` !== PACKAGE_INTEGRITY) {
    throw new Missing(`${PACKAGE} ${PACKAGE_VERSION}: the file from npm does not have the pinned checksum`);
  }
  renameSync(file, join(out, TARBALL));
  rmSync(into, { recursive: true });
}

/** Downloads the wheel with pip, which checks the pinned hash and reuses a complete wheel that exists already. */
async function fetchWheel(python, wheel, work) {
  const into = join(work, 'wheel', wheel.name);
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
    await download('pip', python, [...args, '--dest', into, '-r', join(work, 'requirements.txt')], {
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

/** Downloads a wheel and unpacks the files with matching full names; Python's zipfile checks each CRC. */
async function fetchUnpacked(python, wheel, work, files) {
  const file = await fetchWheel(python, wheel, work);
  const into = join(work, 'unpacked');
  rmSync(into, { recursive: true, force: true });
  const program = `
import re, sys, zipfile
wheel = zipfile.ZipFile(sys.argv[1])
for name in wheel.namelist():
    if re.fullmatch(sys.argv[3], name):
        wheel.extract(name, sys.argv[2])
`;
  await command(python, ['-c', program, file, into, files]);
  rmSync(join(work, 'wheel'), { recursive: true });
  return into;
}

async function compile(work, out, variant) {
  await command('tar', ['-xzf', join(out, TARBALL), '-C', work, 'package/binding']);
  const source = join(work, 'package');
  await compileShared(
    ['-O2'],
    [source, join(out, 'include')],
    ['tfjs_backend.cc', 'tfjs_binding.cc'].map((name) => join(source, 'binding', name)),
    libraries(variant).map((name) => join(out, name)),
    [`-Wl,-rpath,${join('$ORIGIN', dirname(libraries(variant)[0]))}`],
    join(out, BINDING),
  );
}

/** Compiles an addon for Node from C++. */
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

/** Computes with the finished folder. Returns the device. */
async function tryOut(work, out) {
  const js = join(work, 'try');
  rmSync(js, { recursive: true, force: true });
  await unpackJavaScript(out, js);
  symlinkSync(packages(), join(js, 'node_modules'));
  try {
    return await compute(join(js, 'package'), join(out, BINDING));
  } catch (error) {
    throw error instanceof Missing ? new Useless(error.message) : error;
  }
}

/**
 * Computes a little in a child process, because a library that does not fit this machine may kill the process.
 * Returns the device: GPU or CPU.
 */
async function compute(packageDir, binding) {
  const program = `
const { createRequire } = require('node:module');
const [packageDir, binding, installed] = process.argv.slice(1);
const need = createRequire(packageDir + '/package.json');
const tf = need('@tensorflow/tfjs');
const { NodeJSKernelBackend } = need('./dist/nodejs_kernel_backend.js');
need('./dist/register_all_kernels.js');
const addon = need(binding);
tf.registerBackend('tensorflow', () => new NodeJSKernelBackend(addon, 'tfjs-node-gpu'));
tf.setBackend('tensorflow');
if (tf.getBackend() !== 'tensorflow') throw new Error('error: TensorFlow does not start');
import(installed).then(({ computesRight }) => {
  if (!computesRight(tf)) throw new Error('error: computes wrong results');
  console.log(tf.backend().isUsingGpuDevice ? 'on the GPU' : 'on the CPU');
});
`;
  const installed = pathToFileURL(join(root, 'src', 'engine', 'installed.mjs')).href;
  const said = await command(process.execPath, ['-e', program, packageDir, binding, installed], {
    env: {
      TF_FORCE_GPU_ALLOW_GROWTH: 'true',
      TF_ENABLE_ONEDNN_OPTS: '0',
      TENSORFLOW_USE_CUSTOM_CONTRACTION_KERNEL: '0', // as in src/engine.ts
      ...process.env,
      TF_CPP_MIN_LOG_LEVEL: '2',
      IS_TEST: '1',
    },
  });
  return /^on the (GPU|CPU)$/m.exec(said)[1];
}

// ------------------------------------------------------------------------------------------------- helpers

const children = new Set();

/** Runs a program quietly and returns its output; a failure quotes the last line that looks like the reason. */
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
    child.on('error', (error) => {
      children.delete(child);
      fail(new Missing(`${name} cannot be run (${error.code}); install it, or make it executable`));
    });
    child.on('close', (code, signal) => {
      children.delete(child);
      if (code === 0) return done(said);
      const lines = said.trim().split('\n');
      const reason = lines.findLast((line) => /error|cannot|fatal/i.test(line)) ?? lines.at(-1);
      const failure = new Missing(
        `${basename(name)} ${args.find((a) => /^[a-z]+$/.test(a)) ?? ''} failed (${signal ?? code}): ${reason.trim()}`,
      );
      fail(Object.assign(failure, { said }));
    });
  });
}

/** Messages of npm and pip (its urllib3) when they reach no server. */
const OFFLINE =
  /\b(ENOTFOUND|EAI_AGAIN|ECONNREFUSED|ECONNRESET|ETIMEDOUT|ENETUNREACH|EHOSTUNREACH|ENOTCACHED)\b|name resolution|Name or service not known|Network is unreachable|No route to host|Connection refused|Connection reset|timed out|Cannot connect to proxy|Failed to establish a new connection/;

/** Runs npm or pip for a download. Without a network their own last line does not say so; this message does. */
async function download(tool, name, args, options) {
  try {
    await command(name, args, options);
  } catch (error) {
    const [symptom] = OFFLINE.exec(error.said ?? '') ?? [];
    if (symptom === undefined) throw error;
    throw new Missing(
      `${tool} reaches no server (${symptom}); connect this machine to the network, or set the proxy or registry of ${tool}`,
    );
  }
}

async function step(name, made, run) {
  if (made && existsSync(made)) return;
  const started = performance.now();
  await run();
  say(`  ${name}: ${seconds(started)}`);
}

/** Regularly prints the size of a folder, until the returned function is called. */
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
      bytes += entry.isDirectory() ? sizeOf(path) : lstatSync(path).size;
    }
  } catch {} // a file moved away while we looked
  return bytes;
}

/** Node's own `recursive` option never returns if a folder cannot be created because of ENOENT, as in /proc. */
function makeFolder(path) {
  if (existsSync(path)) return;
  makeFolder(dirname(path));
  try {
    mkdirSync(path);
  } catch (error) {
    if (error.code !== 'EEXIST') throw error;
  }
}

const LOCK = 'engine-lock';

/** Waits until no other process builds, takes the lock, and returns a function that releases it. The lock of a dead process does not count. */
async function lock() {
  const file = join(cache, LOCK);
  try {
    makeFolder(cache);
    accessSync(cache, constants.W_OK);
  } catch (error) {
    throw new Missing(`${cache}: cannot be written to (${error.code}); ${ELSEWHERE}`);
  }
  for (let waited = false; ; waited = true) {
    try {
      writeFileSync(file, String(process.pid), { flag: 'wx' });
      break;
    } catch (error) {
      if (error.code !== 'EEXIST') throw error;
    }
    if (!holderLives(file)) {
      rmSync(file, { force: true });
      continue;
    }
    if (!waited) say(`native engine: waiting for another process that is building it (its lock is ${file})`);
    await new Promise((wake) => setTimeout(wake, 300));
  }
  const unlock = () => {
    cleanups.delete(unlock);
    rmSync(file, { force: true });
  };
  cleanups.add(unlock);
  return unlock;
}

/** Clean-up for when a signal ends the script. */
const cleanups = new Set();

function holderLives(file) {
  try {
    process.kill(Number(readFileSync(file, 'utf8')), 0);
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

/** Where progress is printed: stderr, or the terminal itself while npm captures stderr. */
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
const known = { install: ['--optional', '--first-use', '--cuda', '--cpu', '--mpi'], status: [], remove: [] };
const [optional, firstUse, cuda, cpu, mpi] = known.install.map((flag) => flags.includes(flag));
if (!Object.hasOwn(known, verb ?? '') || flags.some((flag) => !known[verb].includes(flag)) || (cuda && cpu)) {
  say('usage: realm engine install [--cuda | --cpu] [--mpi] | status | remove');
  process.exit(2);
}
for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP']) {
  process.once(signal, () => {
    for (const child of children) child.kill('SIGTERM');
    for (const clean of cleanups) clean();
    say('\nnative engine: stopped; the next attempt resumes');
    process.exit(130);
  });
}
try {
  if (verb === 'install') await install({ optional, cuda, cpu });
  if (verb === 'status') await status();
  if (verb === 'remove') await remove();
} catch (error) {
  if (verb !== 'install') say(error instanceof Missing ? error.message : String(error.stack));
  else {
    const reason = error instanceof Missing ? error.message : `${error.code ?? error.name}: ${error.message}`;
    const instead = findInstalled()
      ? 'the one that is installed stays'
      : 'realm computes with WebAssembly (slower)';
    // At the first use, the command that follows reads the reason and reports it.
    if (!remember(reason) || !firstUse) say(`native engine: not built, ${instead}: ${reason}`);
  }
  process.exitCode = optional ? 0 : 1;
}
if (mpi && !process.exitCode) {
  try {
    await installMpi();
  } catch (error) {
    if (!(error instanceof Missing)) throw error;
    say(`MPI: not installed: ${error.message}`);
    process.exitCode = 1;
  }
}
if (terminal.fd !== 2) closeSync(terminal.fd);
