import assert from 'node:assert/strict';
import { copyFileSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { prepare } from '../../src/corpus/prepare.ts';
import { formatOf, readDocuments } from '../../src/datasets/documents.ts';
import { UserError } from '../../src/system/errors.ts';
import { trainVocabulary } from '../../src/tokenizer/train-vocabulary.ts';
import { wordPiece } from '../../src/tokenizer/wordpiece.ts';
import { temporaryFolder } from '../support/tiny.ts';

// Dumps of MediaWiki, plain and in bzip2. The compressed fixtures are of Python's bz2: scripts/fixtures/mediawiki.py.

const fixtures = new URL('../fixtures/', import.meta.url).pathname;
const dump = join(fixtures, 'mediawiki/dump.xml');
const multistream = join(fixtures, 'mediawiki/belwiki-pages-articles-multistream.xml.bz2');
const folder = temporaryFolder('mediawiki');

function write(name: string, content: string | Uint8Array): string {
  writeFileSync(join(folder, name), content);
  return join(folder, name);
}
async function read(path: string) {
  const left = { redirects: 0, otherPages: 0 };
  const documents = [];
  for await (const document of readDocuments(path, 'auto', undefined, (why) => left[why]++))
    documents.push(document);
  return { documents, left };
}
async function refuses(promise: Promise<unknown>, message: RegExp): Promise<void> {
  await assert.rejects(promise, (error) => error instanceof UserError && message.test(error.message));
}

const documents = [
  {
    id: '12',
    title: 'Osk',
    text: 'Osk (Oske) is a river in Bel & Dro, 40 km long, of AT&T. It was deep, has 5 bridges <made of stone>, and 水 flows.',
  },
  {
    id: '12#History',
    title: 'Osk: History',
    text: 'It was dug in May 2, 1949, x^2 m deep.\na bridge\na mill\nYear: 1949; Event: Opened by Ada Vance\nYear: 1950; Event: Closed',
  },
  { id: '12#Early_years', title: 'Osk: History: Early years', text: 'Nobody knows.' },
  { id: '12#Early_years_2', title: 'Osk: Other: Early years', text: 'Nor here.' },
  { id: '16', title: 'Vance: Ada & Co', text: 'Born c. 1900.' },
  { id: '17', title: 'Deleted', text: '' },
];
const left = { redirects: 1, otherPages: 2 };

test('a dump: a document a section, the last revision, no redirects and no other namespaces', async () => {
  assert.equal(formatOf(dump), 'mediawiki');
  assert.deepEqual(await read(dump), { documents, left });
});

test('a dump in several streams of bzip2, as Wikimedia publishes it, and a folder of its parts', async () => {
  assert.deepEqual(await read(multistream), { documents, left });
  const parts = join(folder, 'parts');
  mkdirSync(parts);
  for (const part of ['1.xml-p1p9', '10.xml-p90p99', '2.xml-p10p89'])
    copyFileSync(multistream, join(parts, `belwiki-pages-articles${part}.bz2`));
  writeFileSync(join(parts, 'belwiki-pages-articles-multistream-index.txt.bz2'), 'no dump');
  assert.equal(formatOf(parts), 'mediawiki');
  const all = await read(parts);
  assert.equal(all.documents.length, 3 * documents.length);
  assert.deepEqual(all.left, { redirects: 3, otherPages: 6 });
  copyFileSync(multistream, join(parts, 'otherwiki-pages-articles.xml.bz2'));
  await refuses(
    read(parts),
    /parts: holds several dumps \(belwiki-pages-articles, otherwiki-pages-articles\)/,
  );
});

test('the paragraphs are those that WikiExtractor finds', async () => {
  // It drops lists, and adds headings with a full stop.
  const { documents } = await read(join(fixtures, 'wikiextractor/dump.xml'));
  const lines = readFileSync(join(fixtures, 'wikiextractor/json/AA/wiki_00'), 'utf8').trim().split('\n');
  const theirs = lines.map((line) => JSON.parse(line) as { id: string; title: string; text: string });
  const plain = (text: string) => text.replace(/&lt;/g, '<').replace(/&amp;/g, '&').split('\n');
  for (const { id, text } of theirs) {
    const ours = documents.filter((document) => document.id.split('#')[0] === id).map(({ text }) => text);
    const paragraphs = ours.flatMap((text) => text.split('\n'));
    for (const paragraph of plain(text))
      if (paragraph !== 'History.') assert.ok(paragraphs.includes(paragraph), paragraph);
  }
  assert.deepEqual(
    documents.map(({ id, title }) => `${id} ${title}`),
    ['12 Osk "River" & bridge', '12#History Osk "River" & bridge: History', '13 Bel'],
  );
});

test('bzip2: blocks, streams, an empty stream between others, and what is damaged', async () => {
  const lines = (await read(join(fixtures, 'mediawiki/rivers.jsonl.bz2'))).documents;
  assert.equal(lines.length, 20_000);
  assert.equal(lines.at(-1)?.text, '19999 rivers flow.');
  const empty = join(fixtures, 'mediawiki/empty-between.jsonl.bz2');
  assert.deepEqual(
    (await read(empty)).documents.map(({ text }) => text),
    ['one', 'two'],
  );
  const bytes = readFileSync(multistream);
  const flipped = Buffer.from(bytes);
  flipped[bytes.length >> 1] ^= 4;
  const damaged = [
    bytes.subarray(0, -3),
    flipped,
    Buffer.concat([bytes, Buffer.from('more')]),
    bytes.subarray(4),
  ];
  for (const [n, content] of [...damaged, Buffer.alloc(0)].entries())
    await refuses(read(write(`${n}.xml.bz2`, content)), /\.xml\.bz2: is not a complete bzip2 file; make or/);
  await refuses(read(join(folder, 'none.xml.bz2')), /none\.xml\.bz2: no such file/);
});

test('what is no dump is refused by line', async () => {
  const xml = readFileSync(dump, 'utf8');
  await refuses(read(write('cut.xml', xml.slice(0, 1800))), /cut\.xml: the file ends within <text>; make or/);
  await refuses(
    read(write('feed.xml', '<?xml version="1.0"?>\n<feed></feed>')),
    /feed\.xml: is XML of <feed>, and no dump of MediaWiki; convert it to JSON Lines/,
  );
  await refuses(
    read(write('tags.xml', xml.replace('</title>', '</titel>'))),
    /tags\.xml: line \d+: is not valid XML \(Unexpected close tag\)/,
  );
  await refuses(read(write('empty.xml', '')), /empty\.xml: is empty; make or/);
  await refuses(
    read(write('latin1.xml', Buffer.from(xml.replace('水', '\xe9'), 'latin1'))),
    /latin1\.xml: is not UTF-8 text/,
  );
  await refuses(
    read(write('old.xml', xml.replace('<ns>0</ns>', ''))),
    /old\.xml: line \d+: page "Osk" has no <ns>/,
  );
});

test('prepare counts what it leaves out, also when it is resumed', async () => {
  const vocab = wordPiece(await trainVocabulary(Array<string>(3).fill(documents[0].text), 200, true), true);
  // More pages than the batches between two checkpoints.
  const [head, ...pages] = readFileSync(dump, 'utf8').split('  <page>');
  const path = write(
    'many.xml',
    [head, ...Array<string[]>(60).fill(pages.slice(0, 5)).flat(), pages[5]].join('  <page>'),
  );
  // A document in a batch.
  const options = {
    documents: path,
    vocab,
    blockTokens: 128,
    queryTokens: 64,
    dir: join(folder, 'corpus'),
    batch: 1,
    threads: 1,
  };
  let resumed = 0;
  const stopAt = (documents: number) =>
    prepare({
      ...options,
      onProgress(done) {
        if (done.documents === documents) throw new Error('stopped');
      },
      onResume: (documents) => (resumed = documents),
    });
  await assert.rejects(stopAt(280), /stopped/);
  const counts = await stopAt(-1);
  assert.equal(resumed, 256);
  assert.deepEqual(
    [counts.documents, counts.emptyDocuments, counts.redirects, counts.otherPages],
    [300, 1, 60, 120],
  );
});
