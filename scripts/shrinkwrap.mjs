/**
 * Pins the versions of a published package: npm does not publish package-lock.json, but it publishes and follows
 * npm-shrinkwrap.json. Packages that only developers need are left out, because npm would install them for every user.
 *
 *   node scripts/shrinkwrap.mjs write     before npm packs (package.json, "prepack")
 *   node scripts/shrinkwrap.mjs remove    afterwards: in a checkout npm would use this file instead of package-lock.json
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
