import assert from 'node:assert/strict';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { gzipSync } from 'node:zlib';
import { readDocuments } from '../../src/datasets/documents.ts';
import type { Document } from '../../src/datasets/types.ts';
import { UserError } from '../../src/system/errors.ts';

const folder = mkdtempSync(join(tmpdir(), 'documents-'));
after(() => rmSync(folder, { recursive: true }));

async function read(content: string | Uint8Array, name = 'documents.jsonl') {
  const path = join(folder, name);
  writeFileSync(path, content);
  const found: Document[] = [];
  for await (const document of readDocuments(path)) found.push(document);
  return found;
}

async function refuses(content: string | Uint8Array, message: RegExp, name?: string) {
  await assert.rejects(
    read(content, name),
    (error) => error instanceof UserError && message.test(error.message),
  );
}

const lines =
  '{"id": "a", "title": "A", "text": "One."}\n\n{"title": "B", "text": "Two\\u2028."}\r\n{"id": 7, "text": ""}';
const documents = [
  { id: 'a', title: 'A', text: 'One.' },
  { id: '1', title: 'B', text: 'Two\u2028.' },
  { id: '7', title: '', text: '' },
];

test('reads documents plain and compressed, with or without ids', async () => {
  assert.deepEqual(await read(lines), documents);
  assert.deepEqual(await read(`\uFEFF${lines}\n`), documents);
  assert.deepEqual(await read(gzipSync(lines), 'documents.jsonl.gz'), documents);
  assert.deepEqual(await read(''), []);
});

test('an error in a line names its file and number', async () => {
  await refuses(`${lines}\n{"id": "b"`, /documents\.jsonl: line 5: is not valid JSON/);
  await refuses('[1]', /line 1: is not a JSON object/);
  await refuses('{"id": "b", "title": "B"}', /line 1: has no "text"/);
  await refuses('{"text": 5}', /line 1: has "text" 5; "text" must be a string/);
});

test('a file that is missing, incomplete or of another kind is refused', async () => {
  const whole = gzipSync(`${lines}\n`.repeat(50));
  await refuses(
    whole.subarray(0, whole.length - 12),
    /documents\.jsonl\.gz: is not a complete gzip file/,
    'documents.jsonl.gz',
  );
  await refuses(lines, /is not a complete gzip file/, 'documents.jsonl.gz');
  const missing = readDocuments(join(folder, 'none.jsonl'));
  await assert.rejects(
    missing.next(),
    /none\.jsonl: no such file; give the path of a JSONL file of documents/,
  );
  await assert.rejects(readDocuments(folder).next(), /this folder holds no documents/);
  await assert.rejects(readDocuments(join(folder, 'none.jsonl.gz')).next(), /no such file/);
});

test('the file is closed when reading stops early', async () => {
  const path = join(folder, 'long.jsonl');
  writeFileSync(path, '{"text": "One."}\n'.repeat(100_000));
  for await (const document of readDocuments(path)) {
    assert.equal(document.text, 'One.');
    break;
  }
});

test('text that is not UTF-8, or contains half a character, is refused with its line and not replaced', async () => {
  const latin1 = Buffer.from(`${lines}\n{"text": "caf\xe9"}\n`, 'latin1');
  await refuses(latin1, /documents\.jsonl: line 5: is not UTF-8 text; save the file as UTF-8/);
  await refuses(Buffer.from(`\uFEFF${lines}`, 'utf16le'), /line 1: is not UTF-8/);
  await refuses('{"text": "a \\ud83d b"}', /line 1: holds \\ud83d, one half of a surrogate pair/);
  await refuses('{"id": "\\udc00", "text": ""}', /line 1: holds \\udc00/);
  assert.equal((await read('{"text": "\\ud83d\\ude00\\u0000"}'))[0].text, '\u{1F600}\0');
});

test('only a line feed ends a line, wherever the file is divided into pieces', async () => {
  const text = 'Two\u2028\u2029\u0085 lines \u{1F600}. ';
  const long = text.repeat(20_000); // more than a piece
  const content = `{"text": ${JSON.stringify(text)}}\r\n{"text": ${JSON.stringify(long)}}\n\n\n{"text": "last"}`;
  const texts = [text, long, 'last'];
  for (const [bytes, name] of [
    [content, 'documents.jsonl'],
    [gzipSync(content), 'documents.jsonl.gz'],
  ] as const)
    assert.deepEqual(
      (await read(bytes, name)).map((document) => document.text),
      texts,
    );
  await refuses(`${content}\n[1]`, /line 6: is not a JSON object/);
});

test('a line that would fill the memory is refused before all of it is read', async () => {
  const line = Buffer.alloc((16 << 20) + 100, 'x');
  await refuses(line, /documents\.jsonl: line 1: is longer than 16 MiB; split it/);
  const bomb = gzipSync(Buffer.concat([Buffer.from('{"text": "One."}\n'), Buffer.alloc(64 << 20, ' ')]));
  const before = process.memoryUsage().arrayBuffers;
  await refuses(bomb, /documents\.jsonl\.gz: line 2: is longer than 16 MiB/, 'documents.jsonl.gz');
  assert.ok(process.memoryUsage().arrayBuffers - before < 48 << 20);
});

test('messages shorten values of any depth and size', async () => {
  const deep = `${'['.repeat(50_000)}${']'.repeat(50_000)}`;
  await refuses(`{"text": ${deep}}`, /line 1: has "text" something nested too deep to show; "text" must be/);
  await refuses(`{"text": [${'1,'.repeat(1000)}1]}`, /^.{1,200}$/);
  await refuses('{"__proto__": {"text": "x"}}', /line 1: has no "text"/);
});

test('a number as id is kept exactly or refused', async () => {
  assert.equal((await read('{"id": 9007199254740991, "text": ""}'))[0].id, '9007199254740991');
  await refuses('{"id": 9007199254740993, "text": ""}', /too large to be kept exactly; put it in quotes/);
  await refuses('{"id": 1e999, "text": ""}', /too large/);
});
