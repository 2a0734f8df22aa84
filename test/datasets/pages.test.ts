import assert from 'node:assert/strict';
import { copyFileSync, mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { formatOf, readDocuments } from '../../src/datasets/documents.ts';
import { leftOutFiles } from '../../src/datasets/formats/text-folder.ts';
import { isInstalled, needPackage, type OptionalPackage } from '../../src/datasets/optional-package.ts';
import { UserError } from '../../src/system/errors.ts';
import { temporaryFolder } from '../support/tiny.ts';

// HTML, PDF and Word. The fixtures are of reportlab and python-docx: scripts/fixtures/pages.py.

const fixtures = new URL('../fixtures/', import.meta.url).pathname;
const folder = temporaryFolder('pages');

async function all<T>(list: AsyncIterable<T>): Promise<T[]> {
  const found: T[] = [];
  for await (const item of list) found.push(item);
  return found;
}
const read = (path: string) => all(readDocuments(path));
function write(name: string, content: string | Uint8Array): string {
  writeFileSync(join(folder, name), content);
  return join(folder, name);
}
async function refuses(promise: Promise<unknown>, message: RegExp): Promise<void> {
  await assert.rejects(promise, (error) => error instanceof UserError && message.test(error.message));
}

const pdf = [
  {
    id: 'bridge.pdf#page=1',
    title: 'bridge, page 1',
    text: 'The Osk bridge was opened in 1949.\nAda Vance designed it.',
  },
  { id: 'bridge.pdf#page=2', title: 'bridge, page 2', text: '' },
  { id: 'bridge.pdf#page=3', title: 'bridge, page 3', text: 'It is 240 m long.' },
];
const word = {
  id: 'bridge.docx',
  title: 'The Osk bridge',
  text: 'The Osk bridge\nIt was opened in 1949 & is 240 m\nby road\nYear; Event\n1949; Opened',
};

test('a PDF, a document a page', async () => {
  const path = join(fixtures, 'pages/bridge.pdf');
  assert.equal(formatOf(path), 'text');
  assert.deepEqual(await read(path), pdf);
  assert.deepEqual(await read(join(fixtures, 'pages/scan.pdf')), [
    { id: 'scan.pdf#page=1', title: 'scan, page 1', text: '' },
  ]);
  await refuses(read(write('cut.pdf', '%PDF-1.7\nnothing')), /cut\.pdf: is not a complete PDF file/);
});

test('a Word file', async () => {
  assert.deepEqual(await read(join(fixtures, 'pages/bridge.docx')), [word]);
  await refuses(read(write('cut.docx', 'PK\x03\x04')), /cut\.docx: is not a complete Word file/);
});

const paragraph = (n: number) =>
  `<p>The Osk bridge was opened in ${1940 + n}, and caf&eacute; ${n} stands on it, where the people of Bel meet, drink and look at the river.</p>`;

test('a page of HTML: its main text, without menu and footer', async () => {
  const page = `<!DOCTYPE html><html><head><title>Osk bridge - Bel online</title><style>p { color: red }</style></head><body>
    <nav><ul><li><a href="/">Home</a></li><li><a href="/x">Imprint</a></li></ul></nav>
    <article><h1>Osk bridge</h1>${[1, 2, 3, 4, 5].map(paragraph).join('\n')}
    <table><tr><th>Year</th><th>Event</th></tr><tr><td>1949</td><td>Opened</td></tr></table>
    <script>alert("no text")</script></article>
    <footer class="footer"><a href="/imprint">Imprint</a> All rights reserved</footer></body></html>`;
  const [{ id, title, text }, ...more] = await read(write('bridge.html', page));
  assert.equal(more.length, 0);
  assert.equal(id, 'bridge.html');
  assert.match(title, /^Osk bridge/);
  assert.match(text, /opened in 1941, and café 1 stands on it.*\nThe Osk bridge was opened in 1942/);
  assert.match(text, /1949; Opened/);
  assert.doesNotMatch(text, /Imprint|rights|alert|color/);
});

test('a page of few words is kept whole, in the encoding that it states', async () => {
  const page =
    '<html><head><meta charset="windows-1252"><title>T</title></head><body><p>caf\xe9<br>Osk</body></html>';
  const path = write('short.htm', Buffer.from(page, 'latin1'));
  assert.deepEqual(await read(path), [{ id: 'short.htm', title: 'T', text: 'café\nOsk' }]);
  await refuses(
    read(write('none.html', Buffer.from('<p>caf\xe9</p>', 'latin1'))),
    /none\.html: is not UTF-8, nor in an encoding that it states/,
  );
});

test('all kinds in one folder', async () => {
  mkdirSync(join(folder, 'mixed'));
  for (const name of ['bridge.pdf', 'bridge.docx'])
    copyFileSync(join(fixtures, 'pages', name), join(folder, 'mixed', name));
  writeFileSync(join(folder, 'mixed/a.txt'), 'Text.');
  writeFileSync(join(folder, 'mixed/b.xlsx'), 'x');
  assert.deepEqual(await read(join(folder, 'mixed')), [
    { id: 'a.txt', title: 'a', text: 'Text.' },
    word,
    ...pdf,
  ]);
  assert.deepEqual([...leftOutFiles(join(folder, 'mixed'))], [['.xlsx', 1]]);
});

test('a package that is not installed is named with its command', () => {
  for (const name of ['@mozilla/readability', 'unpdf', 'mammoth'] as const)
    assert.equal(isInstalled(name), true);
  const absent = 'realm-absent' as OptionalPackage;
  assert.equal(isInstalled(absent), false);
  assert.throws(
    () => needPackage(absent, 'a.pdf', 'PDF'),
    /^UserError: a\.pdf: to read PDF files, install the package realm-absent: npm install realm-absent@/,
  );
});

test('WikiExtractor with and without --json gives the same documents', async () => {
  // Its output of the same dump: scripts/fixtures/wikiextractor.sh.
  const expected = [
    {
      id: '12',
      title: 'Osk "River" & bridge',
      text: 'Osk is a river in Bel & Dro, 40 km long, of AT&T. 1 < 2.\nHistory.\nIt was dug in 1949.',
    },
    { id: '13', title: 'Bel', text: 'Bel is a town on the Osk.' },
  ];
  for (const form of ['json', 'plain']) {
    const path = join(fixtures, 'wikiextractor', form);
    assert.equal(formatOf(path), 'wikiextractor');
    assert.deepEqual(await read(path), expected, form);
    assert.deepEqual(await read(join(path, 'AA/wiki_00')), expected, 'one file');
  }
  const cut = '<doc id="1" url="" title="T">\nT\n\nText';
  await refuses(read(write('wiki_00', cut)), /wiki_00: line 4: the file ends within a document/);
  await refuses(read(write('wiki_01', '<doc id="1">\n')), /wiki_01: line 1: is not a line such as <doc id=/);
});
