import assert from 'node:assert/strict';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { gzipSync } from 'node:zlib';
import { type Document, readDocuments } from '../../src/corpus/documents.ts';
import { UserError } from '../../src/errors.ts';

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

test('a bad line is told by file and number', async () => {
  await refuses(`${lines}\n{"id": "b"`, /documents\.jsonl: line 5: is not JSON/);
  await refuses('[1]', /line 1: is no JSON object/);
  await refuses('{"id": "b", "title": "B"}', /line 1: has no "text"/);
  await refuses('{"text": 5}', /line 1: has "text" 5; "text" must be a string/);
});

test('a file that is missing, cut or of another kind is told', async () => {
  const whole = gzipSync(`${lines}\n`.repeat(50));
  await refuses(
    whole.subarray(0, whole.length - 12),
    /documents\.jsonl\.gz: is not a whole gzip file/,
    'documents.jsonl.gz',
  );
  await refuses(lines, /is not a whole gzip file/, 'documents.jsonl.gz');
  const missing = readDocuments(join(folder, 'none.jsonl'));
  await assert.rejects(
    missing.next(),
    /none\.jsonl: no such file; give the path of a JSONL file of documents/,
  );
  await assert.rejects(readDocuments(folder).next(), /is a folder and holds no documents/);
  await assert.rejects(readDocuments(join(folder, 'none.jsonl.gz')).next(), /no such file/);
});

test('a reader who stops early lets go of the file', async () => {
  const path = join(folder, 'long.jsonl');
  writeFileSync(path, '{"text": "One."}\n'.repeat(100_000));
  for await (const document of readDocuments(path)) {
    assert.equal(document.text, 'One.');
    break;
  }
});
