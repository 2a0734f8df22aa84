import assert from 'node:assert/strict';
import { mkdirSync, symlinkSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { test } from 'node:test';
import { gzipSync } from 'node:zlib';
import type { DocumentFormat } from '../../src/datasets/document-formats.ts';
import { formatOf, isArticle, readDocuments } from '../../src/datasets/documents.ts';
import { leftOutFiles, leftOutWords } from '../../src/datasets/formats/text-folder.ts';
import { maskedCrc } from '../../src/datasets/formats/tfrecord.ts';
import { readSentences } from '../../src/datasets/sentences.ts';
import type { Document } from '../../src/datasets/types.ts';
import { UserError } from '../../src/system/errors.ts';
import { temporaryFolder } from '../support/tiny.ts';

const folder = temporaryFolder('formats');

function write(name: string, content: string | Uint8Array): string {
  const path = join(folder, name);
  mkdirSync(dirname(path), { recursive: true });
  writeFileSync(path, content);
  return path;
}

async function all<T>(list: AsyncIterable<T>): Promise<T[]> {
  const found: T[] = [];
  for await (const item of list) found.push(item);
  return found;
}

const read = (path: string, format?: DocumentFormat): Promise<Document[]> => all(readDocuments(path, format));

async function refuses(promise: Promise<unknown>, message: RegExp): Promise<void> {
  await assert.rejects(promise, (error) => error instanceof UserError && message.test(error.message));
}

test('Zstandard is decompressed, and an incomplete file is refused', async () => {
  // Written by the command zstd.
  const packed = Buffer.from(
    'KLUv/QRY1QEA5AJ7ImlkIjogImEiLCAidGl0bGUiOiAiQWV4dCI6ICJPbmUuIn0Ke0JUd28uIn0KAwCAC0JtHe0UAzK/TrI=',
    'base64',
  );
  const first = { id: 'a', title: 'A', text: 'One.' };
  const second = { id: '1', title: 'B', text: 'Two.' };
  assert.deepEqual(await read(write('packed.jsonl.zst', packed)), [first, second]);
  const twice = write('twice.jsonl.zst', Buffer.concat([packed, packed]));
  assert.equal((await read(twice)).length, 4);
  for (const bytes of [packed.subarray(0, 40), packed.subarray(0, 3), Buffer.from('no zstd at all')]) {
    await refuses(read(write('cut.jsonl.zst', bytes)), /cut\.jsonl\.zst: is not a complete zstd file/);
  }
  // 4 bytes that stand for 128 KiB each: a frame of RLE blocks (RFC 8878, section 3.1.1).
  const block = Buffer.from([0x02 | ((1 << 17) << 3), (1 << 17) >> 5, (1 << 17) >> 13, 0x78]);
  const frame = [Buffer.from([0x28, 0xb5, 0x2f, 0xfd, 0x00, 0x38]), ...Array<Buffer>(8000).fill(block)];
  await refuses(read(write('bomb.jsonl.zst', Buffer.concat(frame))), /line 1: is longer than 16 MiB/);
});

test('a folder of WikiExtractor', async () => {
  // The form of attardi/wikiextractor, wikiextractor/extract.py, write_output.
  const line = (id: string, title: string, text: string) =>
    `${JSON.stringify({ id, revid: '17', url: `https://en.wikipedia.org/wiki?curid=${id}`, title, text })}\n`;
  write('wiki/AA/wiki_01', line('25', 'Autism', 'Autism is a disorder.'));
  write(
    'wiki/AA/wiki_00',
    line('12', 'R&amp;D', 'Tom &amp; Jerry\n\n1 &lt; 2, caf&eacute;') + line('13', 'Empty', ''),
  );
  write('wiki/AB/wiki_00.gz', gzipSync(line('39', 'Albedo', 'Albedo is light.')));
  write('wiki/AB/notes', 'not one of its files');
  const path = join(folder, 'wiki');
  assert.equal(formatOf(path), 'wikiextractor');
  assert.deepEqual(await read(path), [
    { id: '12', title: 'R&D', text: 'Tom & Jerry\n\n1 < 2, café' },
    { id: '13', title: 'Empty', text: '' },
    { id: '25', title: 'Autism', text: 'Autism is a disorder.' },
    { id: '39', title: 'Albedo', text: 'Albedo is light.' },
  ]);
});

test("a cell that begins with a quoted word: Python's reading with the format dpr, text as it stands in other tables", async () => {
  // Python 3.11: list(csv.reader(['7\t"Long Hill" has a "tower"\tHill'], delimiter='\t')) is [['7', 'Long Hill has a "tower"', 'Hill']].
  const rows = (header: string, cells: (text: string) => string) =>
    `${header}${['"Long Hill" has a "tower" there', 'Plain text', 'He said "no"'].map(cells).join('\n')}\n`;
  const texts = async (content: string, format?: DocumentFormat) =>
    (await read(write('quoted.tsv', content), format)).map(({ text }) => text);
  assert.deepEqual(
    await texts(
      rows('id\ttext\ttitle\n', (text) => `7\t${text}\tHill`),
      'dpr',
    ),
    ['Long Hill has a "tower" there', 'Plain text', 'He said "no"'],
  );
  assert.deepEqual(await texts(rows('id\ttitle\ttext\n', (text) => `7\tHill\t${text}`)), [
    '"Long Hill" has a "tower" there',
    'Plain text',
    'He said "no"',
  ]);
});

test("DPR's passages, quoted as Python's csv module writes them", async () => {
  // The first rows of psgs_w100.tsv, shortened; and quotes in every position.
  const rows = [
    'id\ttext\ttitle',
    '1\t"Aaron Aaron ( or ; ""Ahärôn"") is a prophet, high priest"\tAaron',
    '2\t"""prophet"") to the Pharaoh. He said ""no"""\t"""Weird Al"" Yankovic"',
    '3\tplain "text" without quotes around\tTitle "x" y',
    '4\t"a\ttab and\na line feed"\tT',
  ];
  const expected = [
    { id: '1', title: 'Aaron', text: 'Aaron Aaron ( or ; "Ahärôn") is a prophet, high priest' },
    { id: '2', title: '"Weird Al" Yankovic', text: 'prophet") to the Pharaoh. He said "no' },
    { id: '3', title: 'Title "x" y', text: 'plain "text" without quotes around' },
    { id: '4', title: 'T', text: 'a\ttab and\na line feed' },
  ];
  assert.deepEqual(await read(write('psgs_w100.tsv', `${rows.join('\n')}\n`)), expected);
  assert.deepEqual(
    await read(write('psgs_w100.tsv.gz', gzipSync(`${rows.join('\r\n').replace('and\r\n', 'and\n')}\r\n`))),
    expected,
  );
  assert.deepEqual(await read(write('passages.txt', rows.join('\n')), 'dpr'), expected);
  await refuses(
    read(write('two.tsv', 'id\ttext\ttitle\n1\tx\n')),
    /two\.tsv: line 2: has 2 cells, but the first row has 3/,
  );
  await refuses(
    read(write('open.tsv', 'id\ttext\ttitle\n1\t"x\n')),
    /open\.tsv: line 2: a quoted cell is not closed/,
  );
  await refuses(read(write('latin.tsv', Buffer.from('1\tcaf\xe9\tT\n', 'latin1'))), /line 1: is not UTF-8/);
  await refuses(read(join(folder, 'none.tsv')), /none\.tsv: no such file/);
  await refuses(
    read(write('cut.tsv.gz', gzipSync(rows.join('\n')).subarray(0, 60))),
    /is not a complete gzip file/,
  );
  const endless = write('endless.tsv', `1\t"${'x'.repeat(17 << 20)}`);
  await refuses(read(endless), /endless\.tsv: line 1: is longer than 16 MiB/);
  const lines = write('lines.tsv', `id\ttext\ttitle\n1\t"${'x\n'.repeat(300_000)}`);
  await refuses(read(lines), /lines\.tsv: line 2: a quoted cell is not closed/);
});

const bridge = { id: 'p1', title: 'Bridge', text: 'It was opened, at last, in 1932.' };
const mill = { id: 'p2', title: 'Mill', text: 'It burned down in 1901.' };

test('a table is read by the names of its columns, in any order', async () => {
  const names: Record<keyof Document, readonly string[]> = {
    id: ['id', '_id', 'docid', 'pid', 'DocNo'],
    title: ['title', 'Title', ' name ', 'wikipedia_title', 'doc_title'],
    text: ['text', 'contents', 'body', 'passage', 'TEXT'],
  };
  const orders: (keyof Document)[][] = [
    ['id', 'title', 'text'],
    ['id', 'text', 'title'],
    ['title', 'text', 'id'],
    ['text', 'title', 'id'],
    ['title', 'id', 'text'],
  ];
  for (const [i, order] of orders.entries()) {
    const header = order.map((field) => names[field][i]);
    const row = (document: Document, quote: string) =>
      order.map((field) => `${quote}${document[field]}${quote}`);
    for (const [separator, ending] of [
      ['\t', 'tsv'],
      [',', 'csv'],
      [';', 'csv'],
      ['\t', 'csv'],
    ]) {
      const table = [header, row(bridge, separator === '\t' ? '' : '"'), row(mill, '')];
      const lines = table.map((cells) => [...cells, 'other'].join(separator));
      const path = write(`named.${ending}`, `\uFEFF${lines.join('\r\n')}\r\n`);
      assert.deepEqual(await read(path), [bridge, mill], lines[0]);
    }
  }
  const without = write('text.csv', 'text\n"One, two."\nThree.\n');
  assert.deepEqual(await read(without), [
    { id: '0', title: '', text: 'One, two.' },
    { id: '1', title: '', text: 'Three.' },
  ]);
  await refuses(
    read(write('short.csv', 'id,text\n1,a\n2\n')),
    /short\.csv: line 3: has 1 cells, but the first row has 2/,
  );
  await refuses(read(write('twice.csv', 'id,text,text\n1,a,b\n')), /line 1: names two columns "text"/);
});

test('a table without names is read in the two published forms, and otherwise refused', async () => {
  const rows = (...fields: (keyof Document)[]) =>
    [bridge, mill].map((document) => `${fields.map((field) => document[field]).join('\t')}\n`).join('');
  assert.deepEqual(await read(write('dpr.tsv', rows('id', 'text', 'title'))), [bridge, mill]);
  const untitled = [bridge, mill].map((document) => ({ ...document, title: '' }));
  assert.deepEqual(await read(write('collection.tsv', rows('id', 'text'))), untitled);
  const order = /line 1: has \d columns? without known names; add a first row of names/;
  await refuses(read(write('order.tsv', rows('id', 'title', 'text'))), order);
  await refuses(read(write('order.tsv', rows('title', 'text', 'id'))), order);
  await refuses(read(write('order.tsv', rows('title', 'text'))), order);
  await refuses(read(write('order.tsv', rows('text'))), order);
  await refuses(
    read(write('name.tsv', `id\tsummary\n1\tx\n`)),
    /none of the columns "id", "summary" is known .*data\.fields/,
  );
  // If the format is given as DPR's, the look does not matter.
  const asDpr = await read(write('order.tsv', rows('id', 'title', 'text')), 'dpr');
  assert.deepEqual(asDpr[0], { id: 'p1', text: 'Bridge', title: bridge.text });
});

test('a table that was written without quoting is read as it is', async () => {
  const texts = [
    'Osk is a river.',
    '"Dear all, wrote Ada in 1932.',
    '"Gold" is a song of 1977.',
    'The mill is "old".',
    '"',
    'It ends here, "says Ada."',
    '"She said ""no"" and left."',
  ];
  const rows = texts.map((text, i) => `${i}\t${text}\t"T" ${i}\n`);
  const path = write('plain.tsv', `id\ttext\ttitle\n${rows.join('')}`);
  const expected = texts.map((text, i) => ({ id: String(i), title: `"T" ${i}`, text }));
  assert.deepEqual(await read(path), expected);
  // A quote that opens in one row and closes in a later one: rows that are whole by themselves stay rows.
  const across = write(
    'across.tsv',
    'id\ttext\ttitle\n1\t"It began\tA\n2\tand ended"\tB\n3\t"It "began" so\tC\n',
  );
  assert.deepEqual(
    (await read(across)).map(({ text }) => text),
    ['"It began', 'and ended"', '"It "began" so'],
  );
});

test('other names of keys and columns are given by data.fields', async () => {
  const fields = { id: 'key', title: 'head', text: 'story' };
  const values = [bridge, mill].map(({ id, title, text }) => ({
    key: id,
    text: 'x',
    head: title,
    story: text,
  }));
  const lines = write('keys.jsonl', values.map((value) => JSON.stringify(value)).join('\n'));
  assert.deepEqual(await all(readDocuments(lines, 'auto', fields)), [bridge, mill]);
  const list = write('keys.json', JSON.stringify(values));
  assert.deepEqual(await all(readDocuments(list, 'auto', fields)), [bridge, mill]);
  const rows = [Object.keys(values[0]), ...values.map((value) => Object.values(value))];
  const table = write('keys.tsv', rows.map((row) => row.join('\t')).join('\n'));
  assert.deepEqual(await all(readDocuments(table, 'auto', fields)), [bridge, mill]);
  const numbers = { id: 1, title: 3, text: 4 };
  const headless = write(
    'numbers.tsv',
    rows
      .slice(1)
      .map((row) => row.join('\t'))
      .join('\n'),
  );
  assert.deepEqual(await all(readDocuments(headless, 'auto', numbers)), [bridge, mill]);
  await refuses(
    all(readDocuments(headless, 'auto', { ...numbers, text: 5 })),
    /data\.fields\.text is 5, but there are 4 columns/,
  );
  await refuses(
    all(readDocuments(table, 'auto', { ...fields, text: 'no' })),
    /has no column "no", only "key", "text"/,
  );
  await refuses(all(readDocuments(lines, 'auto', numbers)), /give the name of a key/);
});

test('JSON objects are read by the keys of published collections', async () => {
  const keys = (value: object) => read(write('published.jsonl', JSON.stringify(value)));
  const { id, title, text } = bridge;
  assert.deepEqual(await keys({ _id: id, title, text, metadata: {} }), [bridge]);
  assert.deepEqual(await keys({ docid: id, title, contents: text }), [bridge]);
  assert.deepEqual(await keys({ id, contents: `"${title}"\n${text}` }), [bridge]);
  assert.deepEqual(await keys({ id, title: null, text }), [{ ...bridge, title: '' }]);
  assert.deepEqual(await keys({ id: null, title, text }), [{ ...bridge, id: '0' }]);
  const source = {
    _id: id,
    wikipedia_title: title,
    text: ['Bridge\n', 'Section::::History.\n', 'BULLET::::- It fell.\n'],
  };
  assert.deepEqual(await keys(source), [{ id, title, text: 'Bridge\nHistory.\nIt fell.' }]);
  const python = write('nan.jsonl', '{"id": "a", "text": "Is NaN \\"NaN", "score": NaN, "x": [-Infinity]}');
  assert.deepEqual(await read(python), [{ id: 'a', title: '', text: 'Is NaN "NaN' }]);
  await refuses(
    keys({ _id: 1, name: 'n', summary: 'a longer one' }),
    /line 1: has no "text", only "_id", "name", "summary"; if another key holds the text, name it with data\.fields, as in --set data\.fields\.text=summary/,
  );
  await refuses(keys({ text: ['a', 5] }), /"text" must be a string or a list of strings/);
});

test('a JSON list of documents is read', async () => {
  const path = write('list.json', JSON.stringify([bridge, { ...mill, id: 7 }], null, 2));
  assert.deepEqual(await read(path), [bridge, { ...mill, id: '7' }]);
  await refuses(read(write('list.json', '[{"id": 1}]')), /element 1 \(line 1\): has no "text", only "id"/);
});

test('files of a kind that realm does not read are named by their kind, with a remedy', async () => {
  const zip = Buffer.from('504b030414000600', 'hex');
  const kinds: [string, string | Uint8Array, RegExp][] = [
    ['renamed.jsonl', 'PAR1\x15\x04', /is a Parquet file under another name/],
    ['a.parquet.gz', 'x', /is a Parquet file under another name; unpack it/],
    ['arrow.jsonl', 'ARROW1', /is an Arrow file; .* give it a name that ends in \.arrow/],
    ['a.jsonl', 'version https://git-lfs.github.com/spec/v1\noid', /only a pointer of Git LFS to the file/],
    ['paper', '%PDF-1.7\n', /is a PDF file; .* which must end in \.pdf/],
    ['a.doc', zip, /Word files yet; .*soffice/],
    ['a.xlsx', zip, /spreadsheet files yet; save the sheet as CSV/],
    ['a.epub', zip, /EPUB files yet; .*pandoc/],
    ['a.zip', zip, /archive files yet; unpack it/],
    ['a.jsonl', zip, /archive/],
    ['page', '<!DOCTYPE html>\n<html>', /is an HTML page; .* which must end in \.html/],
    ['a.rst', 'Title\n=====\n', /reStructuredText/],
    ['a.png', Buffer.from('89504e470d0a1a0a', 'hex'), /image files yet; .*tesseract/],
    ['scan.jsonl', Buffer.from('ffd8ffe0', 'hex'), /image/],
    ['a.sqlite', 'SQLite format 3\0', /SQLite/],
    ['pages.jsonl', '<doc id="12" url="" title="Osk">\nOsk\n', /is a file of WikiExtractor; name the folder/],
  ];
  for (const [name, content, message] of kinds) await refuses(read(write(name, content)), message);
});

test('a folder of text and Markdown files', async () => {
  write('notes/b.txt', '# not a heading in a text file\nText.');
  write('notes/a.md', '---\ntitle: x\n---\n\n```sh\n# a comment\n```\n## The *bridge* ##\nWas built.\n');
  write('notes/sub/c.markdown', '+++\ndraft = true\n+++\nNo heading.');
  write('notes/sub/dashes.md', '---\nA line, and no second one.');
  write('notes/.hidden/d.md', '# D');
  write('notes/image.png', 'x');
  symlinkSync(join(folder, 'notes'), join(folder, 'notes', 'round'));
  const path = join(folder, 'notes');
  assert.equal(formatOf(path), 'text');
  assert.deepEqual(await read(path), [
    {
      id: 'a.md',
      title: 'x',
      text: '# a comment',
    },
    { id: 'a.md#the-bridge', title: 'x: The bridge', text: 'Was built.' },
    { id: 'b.txt', title: 'b', text: '# not a heading in a text file\nText.' },
    { id: 'sub/c.markdown', title: 'c', text: 'No heading.' },
    { id: 'sub/dashes.md', title: 'dashes', text: 'A line, and no second one.' },
  ]);
  write('notes/z.txt', Buffer.from('caf\xe9', 'latin1'));
  await refuses(read(path), /z\.txt: is not UTF-8 text/);
  write('pictures/a.png', 'x');
  await refuses(read(join(folder, 'pictures')), /pictures: this folder holds no documents/);
});

test('a section of a Markdown file is a document, its headings in the title', async () => {
  const path = write(
    'guide.md',
    `---
title: "The Guide"
---
Intro.

# Install

## Linux
One.
## Linux
Two.

### Old, *really*

Three.

> # Not a section
> Four.

# Last
`,
  );
  assert.equal(formatOf(path), 'text');
  assert.deepEqual(await read(path), [
    { id: 'guide.md', title: 'The Guide', text: 'Intro.' },
    { id: 'guide.md#linux', title: 'The Guide: Install: Linux', text: 'One.' },
    { id: 'guide.md#linux-1', title: 'The Guide: Install: Linux', text: 'Two.' },
    {
      id: 'guide.md#old-really',
      title: 'The Guide: Install: Linux: Old, really',
      text: 'Three.\nNot a section\nFour.',
    },
    { id: 'guide.md#last', title: 'The Guide: Last', text: 'Last' },
  ]);
  const title = async (text: string) => (await read(write('titled.md', text)))[0].title;
  assert.equal(await title('Text.\n\n## A `b` &amp; [c](d)\nMore.'), 'A b & c');
  assert.equal(await title('+++\ntitle = "From TOML"\n+++\nText.'), 'From TOML');
  assert.equal(await title('---\ntitle: [a, b\n---\nText.'), 'titled');
  assert.equal(await title('---\ntitle: Same\n---\n# Same\nText.'), 'Same');
  assert.deepEqual(await read(write('empty.md', '<!-- nothing -->\n')), [
    { id: 'empty.md', title: 'empty', text: '' },
  ]);
});

test('the text of a Markdown file is what a reader sees, without its marks', async () => {
  const text = async (source: string) =>
    (await read(write('marks.md', source))).map(({ text }) => text).join('|');
  assert.equal(
    await text(
      'A [link](https://a.example/b_c "t") and ![an *image*](b.png), [ref][1] ~~gone~~.\n\n[1]: https://a.example\n',
    ),
    'A link and an image, ref gone.',
  );
  assert.equal(
    await text('R&amp;D &copy; caf&eacute; **bold** __b__ \\*star\\* `a &amp; **b**`'),
    'R&D © café bold b *star* a &amp; **b**',
  );
  assert.equal(await text('One\ntwo  \nthree.\n\n***\n\nFour.'), 'One two three.\nFour.');
  assert.equal(await text('- one\n- [ ] *two*\n  1. three\n\n     more'), 'one\ntwo\nthree\nmore');
  assert.equal(
    await text('~~~js\n# no heading\n\nlet a = "<b>";\n~~~\n\n    indented <i>\n'),
    '# no heading\nlet a = "<b>";\nindented <i>',
  );
  assert.equal(
    await text('| Year | Event |\n| ---: | :--- |\n| 1949 | Founded \\| by [Ada](x) |\n| 1950 | |\n'),
    'Year: 1949; Event: Founded | by Ada\nYear: 1950',
  );
  assert.equal(await text('| Only | a header |\n| --- | --- |\n'), 'Only; a header');
  assert.equal(
    await text(
      '<!-- a\n\ncomment -->\n<div align="center"><b>Now</b> &lt; <a\nhref="x">then</a></div>\n\nA<br>b <kbd>c</kbd><!-- d -->\n\n<style>\np { color: red }\n</style>\n',
    ),
    'Now < then\nA b c',
  );
  assert.equal(
    await text('Known.[^1]\n\n[^1]: A note.\n\n> [!NOTE]\n> Read it.'),
    'Known.\nA note.\nRead it.',
  );
});

test('other files in a folder than text and pages are left out and counted by kind', async () => {
  for (const name of ['a.md', 'b.txt', 'c.rst', 'd.EPUB', 'sub/e.rst', 'sub/Makefile', '.env', '.git/config'])
    write(`mixed/${name}`, 'Osk is a river.\n');
  write('mixed/node_modules/p/README.md', '# Package\n');
  symlinkSync(join(folder, 'mixed', 'a.md'), join(folder, 'mixed', 'link.md'));
  const path = join(folder, 'mixed');
  assert.deepEqual(
    (await read(path)).map(({ id }) => id),
    ['a.md', 'b.txt'],
  );
  const counts = leftOutFiles(path);
  assert.deepEqual(
    [...counts],
    [
      ['.rst', 2],
      ['.epub', 1],
      ['hidden file', 1],
      ['hidden folder', 1],
      ['link', 1],
      ['node_modules folder', 1],
      ['without an ending', 1],
    ],
  );
  assert.match(
    leftOutWords(counts),
    /^left out 8 files or folders: 2 \.rst, 1 \.epub, .* \(realm reads \.txt, \.md, \.html, \.pdf and \.docx in folders\)$/,
  );
  assert.equal(leftOutFiles(join(path, 'a.md')).size, 0);
  write('papers/a.epub', 'x');
  await refuses(
    read(join(folder, 'papers')),
    /holds no documents .*a\.epub: realm does not read EPUB files yet; .*pandoc/,
  );
});

test('a text file by itself is a document, unless it holds JSON lines', async () => {
  assert.deepEqual(await read(write('one.txt', 'Osk is a river.\n')), [
    { id: 'one.txt', title: 'one', text: 'Osk is a river.\n' },
  ]);
  assert.deepEqual(await read(write('lines.txt', '{"id": "a", "text": "Osk."}\n')), [
    { id: 'a', title: '', text: 'Osk.' },
  ]);
});

test('the paragraphs of a SQuAD file without titles, which others make', async () => {
  const article = (...contexts: string[]) => ({
    paragraphs: contexts.map((context) => ({ qas: [], context, document_id: 77 })),
  });
  const data = [
    article('The Harbour Bridge was opened in 1932.', 'It is long.'),
    { ...article('So.'), title: null },
  ];
  assert.deepEqual(await read(write('no-title.json', JSON.stringify({ data }))), [
    { id: '0#0', title: '', text: 'The Harbour Bridge was opened in 1932.' },
    { id: '0#1', title: '', text: 'It is long.' },
    { id: '1#0', title: '', text: 'So.' },
  ]);
  await refuses(
    read(write('number.json', JSON.stringify({ data: [{ ...article('a'), title: 7 }] }))),
    /number\.json: element 1 \(line 1\): has "title" 7; "title" must be a string/,
  );
});

test('the paragraphs of SQuAD', async () => {
  const file = {
    version: '1.1',
    data: [
      {
        title: 'University_of_Notre_Dame',
        paragraphs: [
          { context: 'Architecturally, the school has a "Catholic" character.', qas: [] },
          { context: 'As at {most} other [universities].', qas: [] },
        ],
      },
    ],
  };
  assert.deepEqual(await read(write('train-v1.1.json', JSON.stringify(file))), [
    {
      id: 'University_of_Notre_Dame#0',
      title: 'University of Notre Dame',
      text: 'Architecturally, the school has a "Catholic" character.',
    },
    {
      id: 'University_of_Notre_Dame#1',
      title: 'University of Notre Dame',
      text: 'As at {most} other [universities].',
    },
  ]);
  const lines = '{"title": "A", "text": "B"}\n{"title": "C", "text": "D"}\n';
  await refuses(
    read(write('lines.json', lines)),
    /lines\.json: line 2: is not one JSON list or object; .* \.jsonl/,
  );
});

/** A TFRecord file. The checksum's code is compared with files that others wrote, below. */
function records(...bytes: (string | Uint8Array)[]): Buffer {
  return Buffer.concat(
    bytes.map((record) => {
      const data = Buffer.from(record);
      const head = Buffer.alloc(12);
      head.writeBigUInt64LE(BigInt(data.length));
      head.writeUInt32LE(maskedCrc(head.subarray(0, 8)), 8);
      const tail = Buffer.alloc(4);
      tail.writeUInt32LE(maskedCrc(data));
      return Buffer.concat([head, data, tail]);
    }),
  );
}

// Written by the Python package tfrecord 1.14, from the features that google-research/language's
// generate_retrieval_corpus.py writes: title, body and their word-piece ids.
const RETRIEVAL = Buffer.from(
  'gAAAAAAAAAAqW2DsCn4KEgoFdGl0bGUSCQoHCgVBYXJvbgoZCg90aXRsZV90b2tlbl9pZHMSBhoECgL2NwocCg5ib2R5X3Rva2VuX2lkcxIKGggK' +
    'BvY37gfuDwovCgRib2R5EicKJQojQWFyb24gKG9yICJBaMOkcsO0biIpIGlzIGEgcHJvcGhldC5rh+OYXAAAAAAAAADJzfmPCloKDQoFdGl0bGUS' +
    'BAoCCgAKGAoPdGl0bGVfdG9rZW5faWRzEgUaAwoBAQoYCg5ib2R5X3Rva2VuX2lkcxIGGgQKAgIDChUKBGJvZHkSDQoLCglObyB0aXRsZS5mQ6zV',
  'base64',
);
// The same for the features that its example_generator.py reads. The text is "Café Ämter. Padmé Amidala met Jaxon on
// 5 May 2001. Nothing here.", three sentences; the spans are "5 May 2001", "Padmé Amidala" and "Ämter. Padmé".
const PRETRAINING = Buffer.from(
  '4QAAAAAAAAADt0iRCt4BCh4KE3NlbnRlbmNlX2J5dGVfc3RhcnQSBxoFCgMADjYKTwoEdGV4dBJHCkUKQ0NhZsOpIMOEbXRlci4gUGFkbcOpIEFt' +
    'aWRhbGEgbWV0IEpheG9uIG9uIDUgTWF5IDIwMDEuIE5vdGhpbmcgaGVyZS4KGgoPc3Bhbl9ieXRlX3N0YXJ0EgcaBQoDKg4GChMKBXRpdGxlEgoK' +
    'CAoGUGFkbcOpCh4KE3NlbnRlbmNlX2J5dGVfbGltaXQSBxoFCgMNNUMKGgoPc3Bhbl9ieXRlX2xpbWl0EgcaBQoDNBwU9fwS0g==',
  'base64',
);

test("REALM's retrieval corpus, in gzip shards without the ending .gz", async () => {
  write('realm/wiki-00001-of-00002', gzipSync(RETRIEVAL));
  write('realm/wiki-00000-of-00002', RETRIEVAL);
  const one = { title: 'Aaron', text: 'Aaron (or "Ahärôn") is a prophet.' };
  const two = { title: '', text: 'No title.' };
  const path = join(folder, 'realm');
  assert.equal(formatOf(path), 'realm');
  assert.deepEqual(await read(path), [
    { id: '0', ...one },
    { id: '1', ...two },
    { id: '2', ...one },
    { id: '3', ...two },
  ]);
  assert.equal((await read(join(path, 'wiki-00001-of-00002'))).length, 2);
  await refuses(
    read(write('other.tfrecord', records('no example'))),
    /record 0: is not a tf\.train\.Example/,
  );
  await refuses(read(write('other.tfrecord', PRETRAINING)), /record 0: holds 0 texts under "body", not one/);
});

test('an error in a TFRecord names its file and record', async () => {
  const flipped = Buffer.from(RETRIEVAL);
  flipped[200] ^= 1;
  await refuses(read(write('flip.tfr', flipped)), /flip\.tfr: record 1: the checksum does not match/);
  const length = Buffer.from(RETRIEVAL);
  length[0] ^= 1;
  await refuses(read(write('flip.tfr', length)), /record 0: the checksum/);
  await refuses(read(write('cut.tfr', RETRIEVAL.subarray(0, 250))), /record 1: the file ends within it/);
  await refuses(read(write('cut.tfr', RETRIEVAL.subarray(0, 5))), /record 0: the file ends within it/);
  await refuses(
    read(write('cut-00000-of-00001', gzipSync(RETRIEVAL).subarray(0, 90))),
    /not a complete gzip file/,
  );
  const huge = Buffer.alloc(12);
  huge.writeBigUInt64LE(1n << 62n);
  huge.writeUInt32LE(maskedCrc(huge.subarray(0, 8)), 8);
  await refuses(read(write('huge.tfr', huge)), /record 0: is longer than 16 MiB/);
  assert.deepEqual(await read(write('empty.tfr', '')), []);
});

test("ORQA's blocks with their titles", async () => {
  write('orqa/blocks.tfr', records('Aaron was a prophet.', 'Ahärôn.'));
  const titles = write('orqa/titles.tfr', records('Aaron', 'Aaron'));
  const path = join(folder, 'orqa');
  const expected = [
    { id: '0', title: 'Aaron', text: 'Aaron was a prophet.' },
    { id: '1', title: 'Aaron', text: 'Ahärôn.' },
  ];
  assert.deepEqual(await read(path), expected);
  assert.deepEqual(await read(join(path, 'blocks.tfr')), expected);
  writeFileSync(titles, records('Aaron'));
  await refuses(read(path), /titles\.tfr: holds 1 records, fewer than blocks\.tfr/);
  writeFileSync(titles, records('a', 'b', 'c'));
  await refuses(read(path), /blocks\.tfr: holds 2 records, fewer than titles\.tfr/);
});

test("REALM's sentences with spans; bytes become characters", async () => {
  const sentence = {
    text: 'Padmé Amidala met Jaxon on 5 May 2001.',
    spans: [
      { start: 0, end: 13 },
      { start: 27, end: 37 },
    ],
  };
  const path = write('x/wikipedia_annotated-00000-of-00001', gzipSync(PRETRAINING));
  assert.deepEqual(await all(readSentences(path)), [sentence]);
  assert.deepEqual(await all(readSentences(join(folder, 'x'))), [sentence]);
});

test("EMDR2's sentences with entities; words become characters", async () => {
  // The example of DevSinghSachan/emdr2's README.
  const line =
    '{"doc_id": 209, "sent_text": "Karpov \'s outstanding classical tournament play has been seriously limited since 1997 , since he prefers to be more involved in the politics of his home country of Russia .", "bert_ent_pos": [[14, 14], [31, 31]], "linguistic_ent": [["1997", "DATE", 11, 11], ["Russia", "GPE", 28, 28]]}';
  const [{ text, spans }] = await all(readSentences(write('filtered.jsonl', `${line}\n`)));
  assert.deepEqual(
    spans?.map(({ start, end }) => text.slice(start, end)),
    ['1997', 'Russia'],
  );
  const beyond = line.replace('28, 28', '28, 30');
  await refuses(
    all(readSentences(write('filtered.jsonl', beyond))),
    /line 1: entity \["Russia","GPE",28,30\] is no/,
  );
  const mixed = '{"text": "Paris fell.", "spans": [[0, 5]]}\n{"text": "It rained."}\n';
  assert.deepEqual(await all(readSentences(write('plain.jsonl', mixed))), [
    { text: 'Paris fell.', spans: [{ start: 0, end: 5 }] },
    { text: 'It rained.', spans: undefined },
  ]);
});

test('spans of a file of sentences count code points', async () => {
  // As in Python: text[2:5] is "Ada" and text[10:11] is "𝔅".
  const text = '😀 Ada saw 𝔅, é.';
  const read = async (...spans: [number, number][]) =>
    (await all(readSentences(write('astral.jsonl', JSON.stringify({ text, spans })))))[0];
  const { spans } = await read([2, 5], [10, 11], [0, 1], [0, 15]);
  assert.deepEqual(
    spans?.map(({ start, end }) => text.slice(start, end)),
    ['😀', text, 'Ada', '𝔅'],
  );
  await refuses(read([14, 16]), /span \[14,16\] is not a \[start, end\] in the 15 characters of "text"/);
});

test('lists, indexes, outlines and disambiguation pages are not articles', () => {
  for (const title of [
    'List of kings',
    'Index of x',
    'Outline of y',
    'Mercury (disambiguation)',
    'A (Disambiguation page)',
  ])
    assert.equal(isArticle(title), false, title);
  for (const title of ['Lists', 'Playlist of x', 'Mercury (planet)', 'List of '])
    assert.equal(isArticle(title), true, title);
});
