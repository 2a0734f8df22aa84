import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { test } from 'node:test';

const src = join(import.meta.dirname, '../src');
const index = readFileSync(join(src, 'index.ts'), 'utf8');

/** `{ a, type b as c }` as pairs of the name in its file and the name here. */
function names(list: string): [string, string][] {
  return list
    .split(',')
    .map((part) => part.trim().replace(/^type /, ''))
    .filter((part) => part !== '')
    .map((part) => {
      const [name, alias = name] = part.split(' as ');
      return [name, alias];
    });
}

/** Each export of index.ts, with the file and the name of its declaration. */
function exported(): { name: string; file: string; declared: string }[] {
  const found: { name: string; file: string; declared: string }[] = [];
  for (const [, name] of index.matchAll(/^export (?:async )?(?:function|interface|type|const|class) (\w+)/gm))
    found.push({ name, file: 'index.ts', declared: name });
  const imported = new Map<string, { file: string; declared: string }>();
  for (const [, list, file] of index.matchAll(/^import (?:type )?\{([^}]*)\} from '(\.[^']*)'/gm))
    for (const [declared, name] of names(list)) imported.set(name, { file, declared });
  for (const [, list, file] of index.matchAll(/^export (?:type )?\{([^}]*)\}(?: from '(\.[^']*)')?/gm))
    for (const [declared, name] of names(list))
      found.push(file ? { name, file, declared } : { name, ...imported.get(declared)! });
  return found;
}

/** The comment above a declaration; undefined where there is none. */
function docstring(text: string, name: string): string | undefined {
  const at = new RegExp(`^export (?:async )?(?:function|interface|type|const|class) ${name}\\b`, 'm').exec(
    text,
  );
  assert.ok(at, name);
  return /\/\*\*((?:(?!\*\/)[\s\S])*)\*\/\n$/.exec(text.slice(0, at.index))?.[1];
}

test('every export of the library has a docstring', async () => {
  const all = exported();
  const values = Object.keys(await import('../src/index.ts'));
  for (const name of values)
    assert.ok(
      all.some((entry) => entry.name === name),
      name,
    );
  assert.ok(all.length > values.length, 'the types too');
  const bare = all.filter(({ file, declared }) => {
    const text = readFileSync(join(src, dirname(file), file.split('/').at(-1)!), 'utf8');
    return docstring(text, declared) === undefined;
  });
  assert.deepEqual(
    bare.map(({ name }) => name),
    [],
  );
});

test('the check finds a declaration without a docstring', () => {
  const text =
    '/** One. */\nexport function one() {}\n\nexport function two() {}\n/** Three. */\nexport type three = 1;\n';
  assert.deepEqual(
    ['one', 'two', 'three'].map((name) => docstring(text, name)),
    [' One. ', undefined, ' Three. '],
  );
});
