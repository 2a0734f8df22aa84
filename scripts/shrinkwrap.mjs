/**
 * The versions that a published package pins: npm publishes no package-lock.json, and obeys an npm-shrinkwrap.json. The
 * packages only needed to work on realm are left out, because npm would install those for every user too.
 *
 *   node scripts/shrinkwrap.mjs write     before npm packs (package.json, "prepack")
 *   node scripts/shrinkwrap.mjs remove    after it: in a checkout npm would prefer this file to package-lock.json
 */
import { readFileSync, rmSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

const root = dirname(dirname(fileURLToPath(import.meta.url)));
const file = join(root, 'npm-shrinkwrap.json');

/** The content of package-lock.json without devDependencies. */
export function shrinkwrap() {
  const lock = JSON.parse(readFileSync(join(root, 'package-lock.json'), 'utf8'));
  const { devDependencies: _, ...self } = lock.packages[''];
  const kept = Object.entries(lock.packages).filter(([path, { dev }]) => path !== '' && !dev);
  return { ...lock, packages: { '': self, ...Object.fromEntries(kept) } };
}

if (process.argv[2] === 'write') writeFileSync(file, `${JSON.stringify(shrinkwrap(), null, 2)}\n`);
else if (process.argv[2] === 'remove') rmSync(file, { force: true });
