/**
 * Compiles the kernels of src/engine/native for the WebAssembly engine: src/engine/wasm/kernels.wasm, and kernels.json
 * with the digests of the sources and of the result. Both are committed; test/engine/wasm-fused.test.ts compares them.
 *
 *   node scripts/wasm-kernels.mjs              needs Linux on x64, Python's pip, and 100 MB of download
 *   node scripts/wasm-kernels.mjs --zig PATH   with an installed Zig of the same version
 *
 * Zig contains clang, the linker, and the headers of the C++ library, so this one pinned package always gives the same
 * bytes. Other toolchains: Emscripten brings a run-time library of its own that must own the memory, wasi-sdk is not in
 * a package registry, and Debian's clang differs with each release.
 */
import { spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { basename, dirname, join } from 'node:path';
import { fileURLToPath, pathToFileURL } from 'node:url';
import { parseArgs } from 'node:util';

export const ZIG = '0.17.0';
const WHEEL_SHA256 = '97079827064a7492cce5541ceb438ae8003ce1e54e399676da2d62fb7a5dc08b';

const engine = join(dirname(dirname(fileURLToPath(import.meta.url))), 'src', 'engine');

/** The native engine's own: Node's interface, threads and memory of the operating system, MPI, and AVX-512's BF16. */
const NATIVE_ONLY = [
  'module.cc',
  'pool.cc',
  'output.cc',
  'output.h',
  'rank-sum.cc',
  'rank-sum.h',
  'dense-bf16.cc',
  'dense-bf16.h',
];

const COMPILE = [
  ...[
    '-target',
    'wasm32-wasi',
    '-std=c++17',
    '-O3',
    '-fopenmp-simd',
    '-fno-math-errno',
    '-fno-trapping-math',
  ],
  // What every supported Node has; position-independent, see src/engine/wasm/instantiate.mjs.
  ...['-mcpu=mvp+simd128+atomics+bulk_memory+sign_ext+nontrapping_fptoint+mutable_globals', '-fPIC'],
  // Errors are thrown in JavaScript, see src/engine/wasm/library.cc.
  ...['-fignore-exceptions', '-fno-rtti', '-fvisibility=hidden', '-g0', '-Iwasm', '-Wno-pass-failed'],
];

const LINK = [
  ...['-shared', '--experimental-pic', '--import-memory', '--shared-memory', '--max-memory=4294967296'],
  ...['-Bsymbolic', '--gc-sections', '--strip-all', '--export=__wasm_init_tls', '--export=__tls_size'],
];

/** Paths of all files that the module depends on, relative to src/engine. */
export function wasmSources() {
  const list = (folder) =>
    readdirSync(join(engine, folder), { recursive: true })
      .filter((name) => /\.(cc|h)$/.test(name))
      .map((name) => `${folder}/${name.replaceAll('\\', '/')}`);
  return [...list('native').filter((path) => !NATIVE_ONLY.includes(basename(path))), ...list('wasm')].sort();
}

/** Digest of the sources and of how they are compiled. */
export function wasmSourcesDigest() {
  const hash = createHash('sha256').update(JSON.stringify([ZIG, COMPILE, LINK]));
  for (const path of wasmSources()) hash.update(path).update(readFileSync(join(engine, path)));
  return hash.digest('hex');
}

if (import.meta.url === pathToFileURL(process.argv[1]).href) build();

function build() {
  const { values } = parseArgs({ options: { zig: { type: 'string' } } });
  const work = mkdtempSync(join(tmpdir(), 'realm-wasm-'));
  try {
    const zig = values.zig ?? install(work);
    const version = run(zig, ['version']).trim();
    if (version !== ZIG) throw new Error(`${zig} is Zig ${version}; this needs ${ZIG}`);
    const sources = wasmSources().filter((path) => path.endsWith('.cc'));
    const objects = sources.map((path) => join(work, `${basename(path, '.cc')}.o`));
    for (const [i, path] of sources.entries()) {
      console.log(`compiles ${path} (${i + 1} of ${sources.length})`);
      run(zig, ['c++', ...COMPILE, '-c', path, '-o', objects[i]]);
    }
    const out = join(work, 'kernels.wasm');
    run(zig, ['wasm-ld', ...LINK, '-o', out, ...objects]);
    const module = readFileSync(out);
    const sha256 = createHash('sha256').update(module).digest('hex');
    writeFileSync(join(engine, 'wasm', 'kernels.wasm'), module);
    const record = { zig: ZIG, sources: wasmSourcesDigest(), module: sha256 };
    writeFileSync(join(engine, 'wasm', 'kernels.json'), `${JSON.stringify(record, null, 2)}\n`);
    console.log(`src/engine/wasm/kernels.wasm: ${module.length} bytes, SHA-256 ${sha256}`);
  } finally {
    rmSync(work, { recursive: true, force: true });
  }
}

/** Installs Zig's wheel into a folder; returns the path of the program. */
function install(folder) {
  const requirements = join(folder, 'requirements.txt');
  writeFileSync(requirements, `ziglang==${ZIG} --hash=sha256:${WHEEL_SHA256}\n`);
  console.log(`installs Zig ${ZIG} with pip`);
  run('python3', ['-m', 'pip', 'install', '--quiet', '--no-deps', '--target', folder, '-r', requirements]);
  return join(folder, 'ziglang', 'zig');
}

function run(program, args) {
  const { status, stdout, stderr, error } = spawnSync(program, args, { cwd: engine, encoding: 'utf8' });
  if (error) throw error;
  if (status !== 0) throw new Error(`${program} ${args.join(' ')}\n${stderr}`);
  return stdout;
}
