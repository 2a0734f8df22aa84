/**
 * npm run check: imports between the folders of src go one way.
 *
 *   node --import tsx scripts/check-layers.ts [SRC]
 *
 * A folder (or a file directly in src) may import itself and what stands before it in LAYERS. Types count, and so do
 * imports at run time. Biome's noImportCycles covers circles between files of one folder. One ordered list says more
 * than the twenty-odd overrides that Biome's noRestrictedImports would need.
 */
import { readdirSync, readFileSync } from 'node:fs';
import { join, posix, sep } from 'node:path';
import { fileURLToPath } from 'node:url';

/** From the lowest to the highest. */
export const LAYERS = [
  'typescript.mjs',
  'system',
  'schedule.ts',
  'random.ts',
  'binary',
  'tokenizer',
  'datasets',
  'hub',
  'presets.ts',
  'settings.ts',
  'config.ts',
  'run',
  'corpus',
  'answers',
  'engine',
  'engine.ts',
  'model',
  'weights',
  'retrieval',
  'queue',
  'refresher',
  'train',
  'eval',
  'world',
  'report',
  'preflight',
  'init',
  'serve',
  'pipeline',
  'index.ts',
  'library.mjs',
  'commands',
  'cli.ts',
];

/** One line for each import that goes up, and for each folder that has no layer. */
export function upwardImports(src: string, layers: readonly string[] = LAYERS): string[] {
  const found: string[] = [];
  const files = (readdirSync(src, { recursive: true }) as string[])
    .map((path) => path.split(sep).join('/'))
    .filter((path) => /\.(ts|mjs)$/.test(path))
    .sort();
  const layerOf = (path: string) => layers.indexOf(path.split('/')[0]);
  for (const file of files) {
    const own = layerOf(file);
    if (own < 0) {
      found.push(`${file}: ${file.split('/')[0]} has no layer; add it to LAYERS in scripts/check-layers.ts`);
      continue;
    }
    for (const [, specifier] of readFileSync(join(src, file), 'utf8').matchAll(IMPORT)) {
      const target = posix.normalize(posix.join(posix.dirname(file), specifier));
      if (target.startsWith('../')) continue; // outside src
      if (layerOf(target) > own) found.push(`${file} imports ${target}, which is in a higher layer`);
    }
  }
  return found;
}

/** The relative path in `from '…'`, `import '…'`, `import('…')` and `new URL('…', import.meta.url)`. */
const IMPORT = /(?:\bfrom\s+|\bimport\s+|\bimport\(\s*|\bnew URL\(\s*)'(\.[^']*)'/g;

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const found = upwardImports(process.argv[2] ?? fileURLToPath(new URL('../src', import.meta.url)));
  for (const line of found) console.error(line);
  process.exitCode = found.length > 0 ? 1 : 0;
}
