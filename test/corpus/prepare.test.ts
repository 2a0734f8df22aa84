import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import {
  appendFileSync,
  createReadStream,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  truncateSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { createGunzip } from 'node:zlib';
import { hundredWords } from '../../src/corpus/passages.ts';
import { type PrepareOptions, prepare } from '../../src/corpus/prepare.ts';
import { tokenSpans } from '../../src/corpus/split.ts';
import { type Corpus, openCorpus } from '../../src/corpus/store/reader.ts';
import { writeCorpus } from '../../src/corpus/store/writer.ts';
import { random } from '../../src/random.ts';
import { UserError } from '../../src/system/errors.ts';
import { trainVocabulary } from '../../src/tokenizer/train-vocabulary.ts';
import { splitWords } from '../../src/tokenizer/unspaced.ts';
import { loadWordPiece, SPECIAL_TOKENS, wordPiece } from '../../src/tokenizer/wordpiece.ts';
import { NO_TEST_DATA, testData } from '../support/test-data.ts';

const folder = mkdtempSync(join(tmpdir(), 'prepare-'));
after(() => rmSync(folder, { recursive: true }));

const documents = [
  {
    id: 'd0',
    title: 'Talvora Benik',
    text: 'Talvora Benik was born in Quenfell. She moved to Drost in 1812.\nThere is no name here. Drost lies on the river Osk.',
  },
  { id: 'd1', title: 'Empty', text: ' \n ' },
  { id: 'd2', title: 'Río Osk', text: 'The river Osk 😀 runs to Vell.' },
  { id: 'd3', title: 'Río Osk', text: 'The river Osk 😀 runs to Vell.' },
];
const vocab = wordPiece(
  await trainVocabulary(
    documents.flatMap(({ title, text }) => Array<string>(3).fill(`${title} ${text}`)),
    400,
    true,
  ),
  true,
);
const path = join(folder, 'documents.jsonl');
writeFileSync(path, documents.map((document) => `${JSON.stringify(document)}\n`).join(''));

let made = 0;
async function prepared(options: Partial<PrepareOptions> = {}) {
  const dir = join(folder, `corpus-${made++}`);
  const counts = await prepare({ documents: path, vocab, blockTokens: 24, queryTokens: 20, dir, ...options });
  return { dir, counts };
}

function spansOf(corpus: Corpus, i: number): string[] {
  const ids = corpus.sentences.ids(i);
  const spans = corpus.sentences.spans(i);
  const found: string[] = [];
  for (let s = 0; s < spans.length; s += 2)
    found.push(corpus.tokenizer.decode(ids.subarray(spans[s], spans[s + 1])));
  return found;
}

test('documents become blocks with titles, texts, tokens and sentence starts', async () => {
  const { dir, counts } = await prepared();
  const corpus = openCorpus(dir);
  const texts = Array.from({ length: corpus.blocks }, (_, b) => corpus.text(b));
  assert.deepEqual(texts, [
    'Talvora Benik was born in Quenfell. She moved to Drost in 1812.',
    'There is no name here. Drost lies on the river Osk.',
    'The river Osk 😀 runs to Vell.',
    'The river Osk 😀 runs to Vell.',
  ]);
  assert.deepEqual([0, 1, 2, 3].map(corpus.documentId), ['d0', 'd0', 'd2', 'd3']);
  assert.deepEqual([3, 0, 1].map(corpus.title), ['Río Osk', 'Talvora Benik', 'Talvora Benik']);
  for (let b = 0; b < corpus.blocks; b++) {
    assert.deepEqual(corpus.bodyIds(b), vocab.encode(texts[b]).ids);
    assert.equal(corpus.bodyLength(b), corpus.bodyIds(b).length);
    assert.deepEqual(corpus.titleIds(b), vocab.encode(corpus.title(b)).ids);
    const digest = createHash('sha1')
      .update(`${corpus.title(b)} <sep> ${texts[b]}`)
      .digest('hex');
    assert.equal(corpus.hash(b).toString(16).padStart(16, '0'), digest.slice(0, 16));
  }
  const second = vocab.encode('Talvora Benik was born in Quenfell.').ids.length;
  assert.deepEqual([...corpus.sentenceStarts(0)], [0, second]);
  assert.deepEqual([...corpus.sentenceStarts(2)], [0]);
  const tokens = texts.reduce((sum, text) => sum + vocab.encode(text).ids.length, 0);
  assert.deepEqual(counts, {
    documents: 3,
    blocks: 4,
    tokens,
    sentences: 5,
    spans: 10,
    skippedPages: 0,
    emptyDocuments: 1,
    leftOutFiles: 0,
    redirects: 0,
    otherPages: 0,
    nearEmptyBlocks: 0,
    duplicateBlocks: 1,
    duplicateIds: 0,
    readBytes: documents.reduce((sum, { text }) => sum + Buffer.byteLength(text), 0),
    skippedBytes: 0,
    splitSentences: 0,
    cutSentences: 0,
    cutTokens: 0,
    cutBytes: 0,
    cutTitles: 0,
    cutQueries: 0,
    withoutSpan: 1,
    spanTooFar: 0,
  });
  corpus.close();
});

test('X holds the sentences with spans, each with its block', async () => {
  const { dir } = await prepared();
  const corpus = openCorpus(dir);
  assert.equal(corpus.sentences.count, 5);
  const sentences = [0, 1, 2, 3, 4].map((i) => ({
    source: corpus.sentences.source(i),
    text: corpus.tokenizer.decode(corpus.sentences.ids(i)),
    spans: spansOf(corpus, i),
  }));
  assert.deepEqual(sentences.slice(0, 3), [
    { source: 0, text: 'talvora benik was born in quenfell .', spans: ['talvora benik', 'quenfell'] },
    { source: 0, text: 'she moved to drost in 1812 .', spans: ['drost', '1812'] },
    { source: 1, text: 'drost lies on the river osk .', spans: ['drost', 'osk'] },
  ]);
  assert.deepEqual(sentences[4], { ...sentences[3], source: 3 });
  corpus.close();
});

test('a sentence longer than a block continues in the next one without loss', async () => {
  const long = join(folder, 'long.jsonl');
  const text = `Osk and we know that ${'the river runs and '.repeat(10)}ends in Vell.`;
  writeFileSync(long, `${JSON.stringify({ title: 'Osk', text: `${text} Drost too.` })}\n`);
  const { dir, counts } = await prepared({ documents: long });
  const corpus = openCorpus(dir);
  assert.deepEqual([counts.splitSentences, counts.cutSentences, counts.cutBytes], [1, 0, 0]);
  const room = 24 - 3 - corpus.titleIds(0).length;
  const bodies = Array.from({ length: corpus.blocks }, (_, b) => [...corpus.bodyIds(b)]);
  assert.deepEqual(bodies.flat(), [...vocab.encode(`${text} Drost too.`).ids]);
  assert.ok(corpus.blocks > 2);
  for (const [b, body] of bodies.entries()) {
    assert.ok(body.length <= room && (b === corpus.blocks - 1 || body.length > room - 4));
    assert.ok(!vocab.vocabulary[body[0]].startsWith('##'), 'no word is split');
    assert.deepEqual(body, [...vocab.encode(corpus.text(b)).ids]);
    // The pieces of the long sentence are short enough for X and for the inverse cloze task.
    const starts = [...corpus.sentenceStarts(b), body.length];
    for (let s = 1; s < starts.length; s++) assert.ok(starts[s] - starts[s - 1] <= 18);
  }
  const names = Array.from({ length: corpus.sentences.count }, (_, i) => spansOf(corpus, i)).flat();
  assert.deepEqual(names, ['osk', 'vell', 'drost']);
  corpus.close();
});

test('of a sentence longer than a query, X uses the beginning that fits', async () => {
  const long = join(folder, 'long.jsonl');
  const text = `We know that ${'the river runs and '.repeat(10)}ends in Vell.`;
  const line = (text: string) => `${JSON.stringify({ title: 'Osk', text })}\n`;
  writeFileSync(long, line(text) + line(`Osk and ${text}`));
  const { counts, dir } = await prepared({ documents: long, blockTokens: 100 });
  assert.deepEqual([counts.sentences, counts.spanTooFar, counts.cutQueries], [1, 1, 2]);
  assert.deepEqual([counts.splitSentences, counts.cutSentences], [0, 0]);
  const corpus = openCorpus(dir);
  assert.equal(corpus.sentences.ids(0).length, 18);
  assert.deepEqual(spansOf(corpus, 0), ['osk']);
  corpus.close();
});

test('the blocks of any document hold all its words, in blocks of any size, by sentences and by 100 words', async () => {
  const rng = random(11);
  const letters = [...'abcdefghijklmnopqrstuvwxyzäéñ'];
  const word = () => {
    const kind = rng.int(12);
    if (kind === 0) return String.fromCodePoint(0x4e00 + rng.int(200), 0x4e00 + rng.int(200));
    if (kind === 1) return String(rng.int(100_000));
    if (kind === 4) return ['東京都の塔', '海港大桥', 'เมืองหลวง', 'ភ្នំពេញ', 'カール・バルト'][rng.int(5)];
    if (kind === 2)
      return ['Café', 'U.S.', '25,000', '한국', '[MASK]', 'e\u0301', '\u200b', '😀'][rng.int(8)];
    const length = kind === 3 ? 20 + rng.int(90) : 1 + rng.int(9);
    return Array.from({ length }, () => letters[rng.int(letters.length)]).join('');
  };
  const ends = [' ', ' ', ' ', ' ', ' ', ' ', '. The ', ', ', '\n', '\u3000', '', '', '。', '។', '!”', '「'];
  const many = join(folder, 'any.jsonl');
  for (const splitting of ['sentences', 'dpr'] as const) {
    for (const blockTokens of [16, 24, 61, 130, 512]) {
      const texts = Array.from({ length: 12 }, () =>
        Array.from({ length: rng.int(150) }, () => word() + ends[rng.int(ends.length)]).join(''),
      );
      const lines = texts.map((text, id) => JSON.stringify({ id, title: word(), text }));
      writeFileSync(many, `${lines.join('\n')}\n{"id": "last", "text": "Osk saw Vell in 1812."}\n`);
      const { dir } = await prepared({ documents: many, splitting, blockTokens, queryTokens: 20 });
      const corpus = openCorpus(dir);
      const blocks = new Map<string, string[]>();
      for (let b = 0; b < corpus.blocks; b++) {
        const id = corpus.documentId(b);
        blocks.set(id, [...(blocks.get(id) ?? []), corpus.text(b)]);
        assert.deepEqual(corpus.bodyIds(b), vocab.encode(corpus.text(b)).ids);
        assert.ok(3 + corpus.titleIds(b).length + corpus.bodyLength(b) <= blockTokens);
      }
      for (const [id, text] of texts.entries()) {
        const all = (text: string) => text.normalize('NFC').replace(/[\s\u200b]+/g, '');
        const kept = all((blocks.get(String(id)) ?? []).join(''));
        // The last hundred words are filled up from the beginning of the document.
        if (splitting === 'dpr') assert.ok(kept.startsWith(all(text)), text);
        else assert.equal(kept, all(text));
      }
      corpus.close();
    }
  }
});

test('hundreds of thousands of words without a full stop are kept, in time that grows with them', async () => {
  const many = join(folder, 'endless.jsonl');
  const text = 'the river osk runs and '.repeat(80_000);
  writeFileSync(many, `${JSON.stringify({ title: 'Osk', text })}\n{"text": "Osk saw Vell in 1812."}\n`);
  const { dir, counts } = await prepared({ documents: many, blockTokens: 288 });
  const corpus = openCorpus(dir);
  let words = 0;
  for (let b = 0; b < corpus.blocks - 1; b++) words += corpus.text(b).split(' ').length;
  assert.equal(words, 400_000);
  assert.equal(counts.cutBytes, 0);
  corpus.close();
});

test('a title longer than a block leaves room for text', async () => {
  const titled = join(folder, 'titled.jsonl');
  writeFileSync(titled, JSON.stringify({ title: 'river '.repeat(50), text: 'Osk lies on the river.' }));
  const { dir, counts } = await prepared({ documents: titled });
  const corpus = openCorpus(dir);
  assert.equal(corpus.titleIds(0).length, 10);
  assert.equal(counts.cutTitles, 1);
  assert.equal(corpus.text(0), 'Osk lies on the river.');
  corpus.close();
});

test('X from a file of sentences, with spans ready-made or found', async () => {
  const sentences = join(folder, 'sentences.jsonl');
  const lines = [
    {
      text: 'the river runs to Drost',
      spans: [
        [18, 23],
        [4, 9],
        [11, 12],
      ],
    },
    { text: 'She moved to Quenfell in 1812.' },
    { text: 'There is no name here.' },
    { text: 'Here Drost is not marked.', spans: [] },
  ];
  writeFileSync(sentences, lines.map((line) => JSON.stringify(line)).join('\n'));
  const { dir, counts } = await prepared({ sentences });
  const corpus = openCorpus(dir);
  assert.deepEqual([counts.sentences, counts.spans, counts.withoutSpan], [2, 4, 2]);
  assert.deepEqual([corpus.sentences.source(0), corpus.sentences.source(1)], [-1, -1]);
  assert.deepEqual(spansOf(corpus, 0), ['river', 'drost']);
  assert.deepEqual(spansOf(corpus, 1), ['quenfell', '1812']);
  assert.deepEqual(corpus.sentences.ids(1), vocab.encode(lines[1].text).ids);
  corpus.close();

  const refuses = async (spans: unknown, message: RegExp) => {
    writeFileSync(sentences, JSON.stringify({ text: 'Drost', spans }));
    await assert.rejects(
      prepared({ sentences }),
      (error) => error instanceof UserError && message.test(error.message),
    );
  };
  await refuses(
    [[0, 6]],
    /sentences\.jsonl: line 1: span \[0,6\] is not a \[start, end\] in the 5 characters/,
  );
  await refuses([[3, 3]], /span \[3,3\]/);
  await refuses([['0', 3]], /span \["0",3\]/);
  await refuses({ 0: 3 }, /"spans" must be a list/);
});

test('word pieces wholly inside a range are masked, others are not', () => {
  const encoding = {
    ids: Int32Array.of(1, 2, 3, 4),
    starts: Int32Array.of(0, 2, 5, 6),
    ends: Int32Array.of(2, 4, 6, 9),
  };
  assert.deepEqual(
    tokenSpans(encoding, [
      { start: 0, end: 4 },
      { start: 5, end: 9 },
    ]),
    [0, 2, 2, 4],
  );
  assert.deepEqual(
    tokenSpans(encoding, [
      { start: 1, end: 4 },
      { start: 5, end: 8 },
      { start: 7, end: 9 },
    ]),
    [1, 2, 2, 3],
  );
  assert.deepEqual(
    tokenSpans(encoding, [
      { start: 0, end: 6 },
      { start: 2, end: 9 },
    ]),
    [0, 3, 1, 4],
  );
});

test('an error leaves nothing behind, and an earlier corpus stays', async () => {
  const { dir } = await prepared();
  const before = readFileSync(join(dir, 'manifest.json'), 'utf8');
  const bad = join(folder, 'bad.jsonl');
  writeFileSync(bad, `${JSON.stringify(documents[0])}\nnot JSON\n`);
  await assert.rejects(prepared({ documents: bad, dir }), /bad\.jsonl: line 2/);
  assert.equal(readFileSync(join(dir, 'manifest.json'), 'utf8'), before);
  assert.deepEqual(
    readdirSync(folder).filter((name) => name.endsWith('.tmp') || name.endsWith('.old')),
    [],
  );
  writeFileSync(bad, JSON.stringify(documents[1]));
  await assert.rejects(
    prepared({ documents: bad }),
    (error) => error instanceof UserError && /holds no document with text/.test(error.message),
  );
});

test('the same documents make the same corpus', async () => {
  const one = openCorpus((await prepared()).dir);
  const two = openCorpus((await prepared()).dir);
  assert.equal(one.sha256, two.sha256);
  const other = openCorpus((await prepared({ blockTokens: 40 })).dir);
  assert.notEqual(one.sha256, other.sha256);
  for (const corpus of [one, two, other]) corpus.close();
});

test('vocabularies of more than 65536 pieces keep their ids', () => {
  const large = wordPiece([...SPECIAL_TOKENS, ...Array.from({ length: 70_000 }, (_, i) => `p${i}`)], true);
  const dir = mkdtempSync(join(folder, 'large-'));
  const writer = writeCorpus(dir, large);
  writer.addDocument('d', 'T', Int32Array.of(70_004));
  writer.addBlock(0, 'T', 'p69999 p0', Int32Array.of(70_004, 5), [0]);
  writer.finish();
  const corpus = openCorpus(dir);
  assert.deepEqual([...corpus.bodyIds(0)], [70_004, 5]);
  assert.deepEqual([...corpus.titleIds(0)], [70_004]);
  corpus.close();
});

test('every damaged file is a user error that names it', async () => {
  const { dir } = await prepared();
  openCorpus(dir).close();
  const isUserError = (name: string) => (error: unknown) =>
    error instanceof UserError &&
    error.message.includes(name) &&
    /prepare the corpus again/.test(error.message);
  for (const name of readdirSync(dir).filter((name) => name !== 'verified.json')) {
    const file = join(dir, name);
    const content = readFileSync(file);
    const broken = () => openCorpus(dir).close();
    const tries: [string, () => void][] = [
      ['longer', () => appendFileSync(file, 'x')],
      ['missing', () => rmSync(file)],
    ];
    if (content.length > 0) {
      tries.push(['shorter', () => truncateSync(file, content.length - (name === 'manifest.json' ? 3 : 1))]);
      const flipped = Buffer.from(content);
      flipped[flipped.length >> 1] ^= 1;
      tries.push(['changed', () => writeFileSync(file, flipped)]);
    }
    for (const [what, damage] of tries) {
      // If a digit of the manifest changes, the error may name the file that no longer agrees with it: see below.
      if (name === 'manifest.json' && what === 'changed') continue;
      damage();
      assert.throws(broken, isUserError(name), `${name} ${what}`);
      writeFileSync(file, content);
    }
  }
  openCorpus(dir).close();
  assert.throws(() => openCorpus(join(folder, 'none')), UserError);
  const manifest = join(dir, 'manifest.json');
  const changed = (from: RegExp, to: string, message: RegExp) => {
    const text = readFileSync(manifest, 'utf8');
    assert.match(text, from);
    writeFileSync(manifest, text.replace(from, to));
    assert.throws(
      () => openCorpus(dir),
      (error) => error instanceof UserError && message.test(error.message),
    );
    writeFileSync(manifest, text);
  };
  changed(/"version": 1/, '"version": 2', /has format version 2, but this program reads 1/);
  changed(/"blocks": 4/, '"blocks": 5', /counts do not agree with the length of blocks\.idx/);
  changed(/"realm corpus"/, '"other"', /is not the manifest of a prepared corpus \(format/);
  changed(/"blocks": 4/, '"blocks": -4', /is not the manifest of a prepared corpus \(blocks/);
  rmSync(join(dir, 'text.bin'));
  mkdirSync(join(dir, 'text.bin'));
  assert.throws(() => openCorpus(dir), /text\.bin: is not a file; the corpus is damaged/);
});

test('offsets and ids that point outside are user errors, not wrong data', async () => {
  const { dir } = await prepared();
  const outside = (name: string, at: number, bytes: number[], reads: (corpus: Corpus) => unknown) => {
    const file = join(dir, name);
    const content = readFileSync(file);
    const changed = Buffer.from(content);
    changed.set(bytes, at);
    // Overwritten while the corpus is open: when it is opened, the hash would show the damage.
    const corpus = openCorpus(dir);
    writeFileSync(file, changed);
    assert.throws(
      () => reads(corpus),
      (error) => error instanceof UserError && /is damaged/.test(error.message),
    );
    corpus.close();
    writeFileSync(file, content);
  };
  outside('tokens.bin', 0, [0xff, 0xff], (corpus) => corpus.bodyIds(0));
  outside('blocks.idx', 8, [0xff, 0xff, 0xff], (corpus) => corpus.bodyIds(0));
  outside('blocks.idx', 8, [0xff, 0xff, 0xff], (corpus) => corpus.bodyLength(0));
  outside('blocks.idx', 5, [0xff], (corpus) => corpus.text(0));
  outside('blocks.idx', 32, [9], (corpus) => corpus.title(0));
  outside('documents.bin', 0, [0xff], (corpus) => corpus.title(0));
  outside('documents.idx', 4, [0xff], (corpus) => corpus.documentId(0));
  outside('sentences.idx', 16, [0xff, 0xff], (corpus) => corpus.sentences.ids(0));
  outside('sentences.idx', 12, [0xff], (corpus) => corpus.sentences.spans(0));
});

test('a number outside the corpus is a bug of the caller', async () => {
  const corpus = openCorpus((await prepared()).dir);
  assert.throws(() => corpus.text(4), RangeError);
  assert.throws(() => corpus.bodyIds(-1), RangeError);
  assert.throws(() => corpus.sentences.ids(5), RangeError);
  corpus.close();
});

const data = testData();

test('real documents: blocks fit, and their tokens are those of their text', {
  skip: !existsSync(data) && NO_TEST_DATA,
}, async () => {
  const some = join(folder, 'real.jsonl');
  let head = '';
  for await (const piece of createReadStream(join(data, 'wiki-articles.jsonl.gz'), { end: 1 << 20 }).pipe(
    createGunzip(),
  )) {
    head += piece;
    if (head.length > 1 << 20) break;
  }
  writeFileSync(some, head.slice(0, head.lastIndexOf('\n')));
  const bert = loadWordPiece(join(data, 'bert-base-uncased-vocab.txt'), true);
  const { dir, counts } = await prepared({ documents: some, vocab: bert, blockTokens: 128, queryTokens: 64 });
  const corpus = openCorpus(dir);
  assert.ok(corpus.blocks > 1000);
  for (let b = 0; b < corpus.blocks; b++) {
    const ids = corpus.bodyIds(b);
    assert.ok(3 + corpus.titleIds(b).length + ids.length <= 128);
    assert.deepEqual(ids, bert.encode(corpus.text(b)).ids);
    const starts = corpus.sentenceStarts(b);
    assert.equal(starts[0], 0);
    for (let s = 1; s < starts.length; s++) assert.ok(starts[s] > starts[s - 1] && starts[s] < ids.length);
  }
  let spans = 0;
  for (let i = 0; i < corpus.sentences.count; i++) {
    const pairs = corpus.sentences.spans(i);
    spans += pairs.length / 2;
    for (let s = 0; s < pairs.length; s += 2) {
      assert.ok(pairs[s] < pairs[s + 1] && pairs[s + 1] <= corpus.sentences.ids(i).length);
      if (s > 0) assert.ok(pairs[s] >= pairs[s - 1]);
    }
  }
  assert.equal(spans, counts.spans);
  corpus.close();
});

test('splitting as-is: every document makes one block, truncated if it is full', async () => {
  const { dir, counts } = await prepared({ splitting: 'as-is' });
  const corpus = openCorpus(dir);
  assert.equal(corpus.blocks, 3);
  assert.equal(counts.emptyDocuments, 1);
  assert.equal(counts.cutSentences, 2); // of the first: one within, one behind
  const lost = vocab.encode(documents[0].text).ids.length - corpus.bodyLength(0);
  assert.deepEqual([counts.cutTokens, counts.splitSentences], [lost, 0]);
  const without = documents[0].text.length - corpus.text(0).length; // with the white space between sentences
  assert.ok(counts.cutBytes <= without && counts.cutBytes >= without - 3, `${counts.cutBytes}`);
  const room = 24 - 3 - corpus.titleIds(0).length;
  const whole = vocab.encode(documents[0].text).ids;
  assert.ok(corpus.bodyLength(0) <= room && corpus.bodyLength(0) > room - 3);
  assert.deepEqual(corpus.bodyIds(0), whole.subarray(0, corpus.bodyLength(0)));
  assert.equal(corpus.text(1), documents[2].text);
  assert.deepEqual(
    corpus.sentenceStarts(0).slice(0, 2),
    Int32Array.of(0, vocab.encode('Talvora Benik was born in Quenfell.').ids.length),
  );
  corpus.close();
});

test('splitting dpr: a hundred words each, the last filled up from the beginning', async () => {
  const words = Array.from({ length: 230 }, (_, i) => `w${i}${i % 10 === 9 ? '.' : ''}`);
  assert.deepEqual(hundredWords(words.join(' \n')), [
    words.slice(0, 100).join(' '),
    words.slice(100, 200).join(' '),
    [...words.slice(200), ...words.slice(0, 70)].join(' '),
  ]);
  assert.deepEqual(hundredWords('one two'), ['one two one two']);
  assert.equal(hundredWords(words.slice(0, 200).join(' ')).length, 2);
  assert.deepEqual(hundredWords(' \n '), []);

  const long = join(folder, 'words.jsonl');
  const text = `The river Osk runs to Vell and on. ${'It runs and runs. '.repeat(40)}`;
  writeFileSync(long, `${JSON.stringify({ id: 'x', title: 'Osk', text })}\n`);
  const { dir, counts } = await prepared({ documents: long, splitting: 'dpr', blockTokens: 400 });
  const corpus = openCorpus(dir);
  assert.deepEqual([counts.documents, counts.blocks, counts.cutSentences], [1, 2, 0]);
  assert.deepEqual([0, 1].map(corpus.text), hundredWords(text));
  assert.deepEqual([corpus.documentId(1), corpus.title(1)], ['x', 'Osk']);
  corpus.close();
});

test('articlesOnly leaves out lists and disambiguation pages', async () => {
  const pages = join(folder, 'pages.jsonl');
  const page = (title: string) => `${JSON.stringify({ title, text: 'The river Osk runs to Vell.' })}\n`;
  writeFileSync(pages, page('List of rivers') + page('Osk') + page('Vell (disambiguation)'));
  const { counts } = await prepared({ documents: pages, articlesOnly: true });
  assert.deepEqual([counts.documents, counts.skippedPages], [1, 2]);
  assert.equal((await prepared({ documents: pages })).counts.documents, 3);
});

test('a manifest that takes external sentences for sentences of the blocks is refused', async () => {
  const sentences = join(folder, 'own.jsonl');
  writeFileSync(sentences, '{"text": "Osk was born in 1812."}\n');
  const { dir } = await prepared({ sentences });
  const manifest = join(dir, 'manifest.json');
  const text = readFileSync(manifest, 'utf8');
  writeFileSync(manifest, text.replace('"sentencesFromBlocks": false', '"sentencesFromBlocks": true'));
  assert.throws(
    () => openCorpus(dir),
    (error) =>
      error instanceof UserError && /manifest\.json: sentence-tokens\.bin must be empty/.test(error.message),
  );
});

test('texts without a name or a date make no corpus', async () => {
  const sentences = join(folder, 'plain.jsonl');
  writeFileSync(sentences, '{"text": "it rained."}\n');
  const dir = join(folder, 'none');
  await assert.rejects(
    prepare({ documents: path, sentences, vocab, blockTokens: 24, queryTokens: 20, dir }),
    (error) =>
      error instanceof UserError &&
      /plain\.jsonl: no sentence has a name or a date to mask/.test(error.message),
  );
  assert.ok(!existsSync(dir));
});

test('documents without a name or a date are kept', async () => {
  const plain = join(folder, 'plain-documents.jsonl');
  writeFileSync(plain, '{"text": "it rained. it snowed."}\n');
  const { dir } = await prepared({ documents: plain });
  const corpus = openCorpus(dir);
  assert.equal(corpus.blocks, 1);
  assert.equal(corpus.sentences.count, 0);
  corpus.close();
});

test('in scripts without spaces nothing is put between sentences, and long ones are cut between words', async () => {
  const many = join(folder, 'unspaced.jsonl');
  const sentence = (n: number) => `南河镇第${n}座水塔建于${1750 + n}年，`;
  const long = `${Array.from({ length: 40 }, (_, n) => sentence(n)).join('')}完。`;
  const text = `第一句。“第二句！”他说。${long}`;
  writeFileSync(many, `${JSON.stringify({ id: 1, title: '南河', text })}\n`);
  // With every character of the text in the vocabulary, a Chinese character is a token.
  const own = wordPiece(
    [...SPECIAL_TOKENS, ...new Set(text), ...[...'0123456789'].map((d) => `##${d}`)],
    true,
  );
  for (const splitting of ['sentences', 'dpr'] as const) {
    const { dir, counts } = await prepared({
      documents: many,
      vocab: own,
      splitting,
      blockTokens: 60,
      queryTokens: 30,
    });
    const corpus = openCorpus(dir);
    const texts = Array.from({ length: corpus.blocks }, (_, b) => corpus.text(b));
    for (let b = 0; b < corpus.blocks; b++) assert.deepEqual(corpus.bodyIds(b), own.encode(texts[b]).ids);
    assert.ok(texts.join('').startsWith(text));
    if (splitting === 'sentences') {
      assert.equal(texts.join(''), text);
      const starts = new Set(splitWords(text).map(({ start }) => start));
      let at = 0;
      for (const block of texts) {
        assert.ok(starts.has(at), `a block starts within a word: ${block}`);
        at += block.length;
      }
    }
    assert.equal(counts.cutBytes, 0);
    assert.ok(corpus.sentences.count > 15, 'sentences with years are short enough to be masked');
    corpus.close();
  }
});

test('documents that share an id are counted', async () => {
  const twice = join(folder, 'twice.jsonl');
  const lines = ['a', 'b', 'a', 'c', 'a', 'b'].map((id) =>
    JSON.stringify({ id, title: 'Osk', text: `Osk saw Vell in 1812, ${id}.` }),
  );
  writeFileSync(twice, lines.join('\n'));
  const { counts } = await prepared({ documents: twice });
  assert.equal(counts.duplicateIds, 3);
  assert.equal((await prepared()).counts.duplicateIds, 0);
});
