/**
 * The native engine as it is installed: scripts/engine.mjs puts it there, src/engine.ts loads it.
 * Plain JavaScript that needs Node alone, because npm runs the script while it still installs the packages.
 */
import { createHash } from 'node:crypto';
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { cpus, homedir } from 'node:os';
import { dirname, join, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';

/** The folder of realm's package.json. */
export const root = dirname(dirname(dirname(fileURLToPath(import.meta.url))));

/** Counts changes to what an installation holds. One of another number is not used; the next install replaces it. */
export const LAYOUT = 2;

/** The folder that all checkouts of a user share. It may not exist yet, and may not be writable. */
export function cacheFolder() {
  const { XDG_CACHE_HOME } = process.env;
  if (XDG_CACHE_HOME) return resolve(XDG_CACHE_HOME, 'realm');
  let home = '/'; // of a user whom the password file does not know
  try {
    home = homedir();
  } catch {}
  return resolve(home, '.cache', 'realm');
}

/**
 * Folders that may hold the installation, the first that is usable counts: beside realm's packages, and for users who
 * may not write there, in their own cache, one for each place that realm is installed in.
 */
export function places() {
  const key = createHash('sha256').update(root).digest('hex').slice(0, 12);
  return [join(root, 'node_modules', '.realm-engine'), join(cacheFolder(), `engine-linked-${key}`)];
}

const native = join(root, 'src', 'engine', 'native');
export const nativeSources = () => readdirSync(native).sort();

/** Of the kernels' source code as it is now: kernels compiled from another are not used. */
export function sourcesDigest() {
  const hash = createHash('sha256');
  for (const name of nativeSources()) hash.update(readFileSync(join(native, name)));
  return hash.digest('hex');
}

/** The addon that counts signals, for src/system/stop.ts. It is compiled apart from the kernels: it needs no TensorFlow. */
export const signalsSource = join(root, 'src', 'system', 'signals.cc');

/** Of its source code as it is now: one compiled from another source is not used. */
export const signalsDigest = () => createHash('sha256').update(readFileSync(signalsSource)).digest('hex');

/** The kernels use every instruction of the processor that they are compiled on. */
export const processor = () => cpus()[0]?.model ?? '';

/**
 * @typedef {object} Installed
 * @property {string} tensorflow its version
 * @property {string} variant cpu, cuda or official
 * @property {string} package folder of the JavaScript
 * @property {string} binding the addon that calls TensorFlow
 * @property {{ file: string, sources: string, processor: string }} [kernels] where they could be compiled: from which source code and for which processor
 * @property {{ file: string, source: string }} [signals] the addon that counts signals, where it could be compiled
 * @property {number} [layout]
 */

/**
 * What is installed in a folder, with absolute paths; undefined where that is nothing, or a file of it is gone.
 * @param {string} place
 * @returns {Installed | undefined}
 */
export function readInstalled(place) {
  try {
    const found = JSON.parse(readFileSync(join(place, 'engine.json'), 'utf8'));
    for (const name of ['package', 'binding']) found[name] = resolve(place, found[name]);
    for (const addon of [found.kernels, found.signals]) if (addon) addon.file = resolve(place, addon.file);
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
  return places()
    .map(readInstalled)
    .find((found) => found?.layout === LAYOUT);
}

/** File beside engine.json: why the last attempt to install failed. */
export const FAILURE = 'failure.json';

/**
 * Why the last attempt of this version of realm to install the engine failed; undefined where none did.
 * @returns {string | undefined}
 */
export function lastFailure() {
  for (const place of places()) {
    try {
      const { layout, reason } = JSON.parse(readFileSync(join(place, FAILURE), 'utf8'));
      if (layout === LAYOUT && typeof reason === 'string') return reason;
    } catch {}
  }
  return undefined;
}

/**
 * Computes a little on the active backend, with a gradient, of every kind of call into the binding.
 * @param {typeof import('@tensorflow/tfjs')} tf
 * @returns {boolean} whether all of it comes out right
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
