/**
 * The installed native engine: scripts/engine.mjs installs it, src/engine.ts loads it.
 * Plain JavaScript that needs only Node, because npm runs the script while it is still installing the packages.
 */
import { createHash } from 'node:crypto';
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { cpus, homedir } from 'node:os';
import { dirname, join, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';

/** The folder of realm's package.json. */
export const root = dirname(dirname(dirname(fileURLToPath(import.meta.url))));

/** Version of an installation's layout. An installation of another version is not used; the next install replaces it. */
export const LAYOUT = 2;

/** The folder that all checkouts of a user share. It may not exist yet, and may not be writable. */
export function cacheFolder() {
  const { XDG_CACHE_HOME } = process.env;
  if (XDG_CACHE_HOME) return resolve(XDG_CACHE_HOME, 'realm');
  let home = '/'; // for a user who is not in the password file
  try {
    home = homedir();
  } catch {}
  return resolve(home, '.cache', 'realm');
}

/**
 * Folders that may hold the installation; the first usable one is used: next to realm's packages, and for users who
 * may not write there, in their own cache, one for each folder that realm is installed in.
 */
export function installFolders() {
  const key = createHash('sha256').update(root).digest('hex').slice(0, 12);
  return [join(root, 'node_modules', '.realm-engine'), join(cacheFolder(), `engine-linked-${key}`)];
}

const native = join(root, 'src', 'engine', 'native');
export const nativeSources = () => readdirSync(native).sort();

/** Digest of the kernels' current source code: kernels compiled from other sources are not used. */
export function sourcesDigest() {
  const hash = createHash('sha256');
  for (const name of nativeSources()) hash.update(readFileSync(join(native, name)));
  return hash.digest('hex');
}

/** The addon that counts signals, for src/system/stop.ts. It is compiled separately from the kernels: it needs no TensorFlow. */
export const signalsSource = join(root, 'src', 'system', 'signals.cc');

/** Digest of its current source code: an addon compiled from another source is not used. */
export const signalsDigest = () => createHash('sha256').update(readFileSync(signalsSource)).digest('hex');

/** The addon that calls MPI, for src/engine/ranks.ts. It too is compiled separately, and needs no MPI to be compiled. */
export const mpiSource = join(root, 'src', 'engine', 'mpi.cc');
export const mpiDigest = () => createHash('sha256').update(readFileSync(mpiSource)).digest('hex');

/** The MPI library that `realm engine install --mpi` installs. */
export const MPICH = '5.0.2';

/** Its folder, with `bin/mpiexec` and `lib/libmpi_abi.so.1`; it may not exist. */
export const mpiFolder = () => join(cacheFolder(), `engine-mpich-${MPICH}-${process.arch}`);

/** Flags of Linux for x64 that name instructions a compiler may use, and not what a processor or its kernel does otherwise. */
const INSTRUCTIONS = /^(sse|ssse|avx|amx|fma|f16c|bmi|abm|adx|movbe|popcnt|aes|vaes|pclmul|vpclmul|gfni|sha)/;

/**
 * The instruction sets in Linux's /proc/cpuinfo, such as avx512f, sorted.
 * @param {string} cpuinfo
 */
export function instructions(cpuinfo) {
  const [, name, list] = /^(flags|Features)\s*:(.*)$/m.exec(cpuinfo) ?? [];
  const flags = list?.trim().split(/\s+/) ?? [];
  return flags.filter((flag) => name === 'Features' || INSTRUCTIONS.test(flag)).sort();
}

/**
 * The processor, for kernels that use every instruction of the one that they are compiled on. Virtual machines give
 * processors of several generations one name ("AMD EPYC"), so a digest of the instruction sets is part of it.
 */
export function processor() {
  const model = cpus()[0]?.model ?? '';
  if (process.platform !== 'linux') return model;
  const sets = instructions(readFileSync('/proc/cpuinfo', 'utf8'));
  return `${model}, instructions ${createHash('sha256').update(sets.join()).digest('hex').slice(0, 8)}`;
}

/**
 * @typedef {object} Installed
 * @property {string} tensorflow its version
 * @property {string} variant cpu, cuda or official
 * @property {string} package folder of the JavaScript
 * @property {string} binding the addon that calls TensorFlow
 * @property {{ file: string, sources: string, processor: string }} [kernels] absent if they could not be compiled: the file, the digest of its source code, and its processor
 * @property {{ file: string, source: string }} [signals] the addon that counts signals; absent if it could not be compiled
 * @property {{ file: string, source: string }} [mpi] the addon that calls MPI; absent if it could not be compiled
 * @property {number} [layout]
 */

/**
 * What is installed in a folder, with absolute paths; undefined if nothing is, or if one of its files is missing.
 * @param {string} folder
 * @returns {Installed | undefined}
 */
export function readInstalled(folder) {
  try {
    const found = JSON.parse(readFileSync(join(folder, 'engine.json'), 'utf8'));
    for (const name of ['package', 'binding']) found[name] = resolve(folder, found[name]);
    for (const addon of [found.kernels, found.signals, found.mpi])
      if (addon) addon.file = resolve(folder, addon.file);
    if (!existsSync(join(found.package, 'dist', 'nodejs_kernel_backend.js'))) return undefined;
    return existsSync(found.binding) ? found : undefined;
  } catch {
    return undefined;
  }
}

/**
 * The engine to use, or undefined.
 * @returns {Installed | undefined}
 */
export function findInstalled() {
  return installFolders()
    .map(readInstalled)
    .find((found) => found?.layout === LAYOUT);
}

/** File next to engine.json: why the last attempt to install failed. */
export const FAILURE = 'failure.json';

/**
 * Why the last attempt of this version of realm to install the engine failed; undefined if none failed.
 * @returns {string | undefined}
 */
export function lastFailure() {
  for (const folder of installFolders()) {
    try {
      const { layout, reason } = JSON.parse(readFileSync(join(folder, FAILURE), 'utf8'));
      if (layout === LAYOUT && typeof reason === 'string') return reason;
    } catch {}
  }
  return undefined;
}

/**
 * Runs a small computation with a gradient on the active backend; it uses every kind of call into the binding.
 * @param {typeof import('@tensorflow/tfjs')} tf
 * @returns {boolean} whether all results are right
 */
export function computesRight(tf) {
  return tf.tidy(() => {
    const a = tf.tensor2d([1, 2, 3, 4], [2, 2]);
    const b = tf.tensor2d([5, 6, 7, 8], [2, 2]);
    const { values, indices } = tf.topk(b, 1);
    const all = [
      tf.matMul(a, b),
      tf.grad((x) => tf.matMul(x, b).sum())(a),
      tf.gather(a, tf.tensor1d([1, 0], 'int32')),
      tf.concat([a, b]),
      values,
      indices,
    ];
    const expected = '19,22,43,50 11,15,11,15 3,4,1,2 1,2,3,4,5,6,7,8 6,8 1,1';
    return all.map((result) => result.dataSync().join()).join(' ') === expected;
  });
}
