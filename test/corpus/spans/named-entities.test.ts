import assert from 'node:assert/strict';
import { cpSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { type PrepareOptions, prepare } from '../../../src/corpus/prepare.ts';
import { openTagger, taggerIdentity, withDates } from '../../../src/corpus/spans/named-entities.ts';
import { readNerFolder } from '../../../src/corpus/spans/ner-folder.ts';
import { openCorpus } from '../../../src/corpus/store/reader.ts';
import { UserError } from '../../../src/system/errors.ts';
import { PART, RESUME } from '../../../src/system/files.ts';
import { loadWordPiece } from '../../../src/tokenizer/wordpiece.ts';

const FIXTURES = join(import.meta.dirname, '../../fixtures/ner');
const CASED = join(FIXTURES, 'bert-cased');
const UNCASED = join(FIXTURES, 'distilbert-uncased');

const folder = mkdtempSync(join(tmpdir(), 'ner-'));
after(() => rmSync(folder, { recursive: true }));

let made = 0;
const newPath = () => join(folder, `${made++}`);

interface Expected {
  text: string;
  entities: [number, number, string][];
}
const expectedOf = (dir: string): Expected[] => JSON.parse(readFileSync(join(dir, 'expected.json'), 'utf8'));

async function found(dir: string, texts: string[]): Promise<[number, number, string][][]> {
  const entities = await (await openTagger(dir)).entities(texts);
  return entities.map((some) => some.map(({ start, end, kind }) => [start, end, kind]));
}

for (const dir of [CASED, UNCASED]) {
  const expected = expectedOf(dir);
  const texts = expected.map(({ text }) => text);
  const wanted = expected.map(({ entities }) => entities);

  test(`${dir.slice(FIXTURES.length + 1)}: the entities of transformers' pipeline, one sentence or many at a time`, async () => {
    assert.deepEqual(await found(dir, texts), wanted);
    // Each length many times, in another order.
    const many = Array.from({ length: 300 }, (_, i) => (i * 7) % texts.length);
    assert.deepEqual(
      await found(
        dir,
        many.map((i) => texts[i]),
      ),
      many.map((i) => wanted[i]),
    );
    assert.deepEqual(await found(dir, texts.slice(1, 2)), wanted.slice(1, 2));
    assert.deepEqual(await found(dir, []), []);
  });
}

test('a text longer than the positions is labelled in windows that split no word', async () => {
  const dir = copyOf(CASED);
  edit(join(dir, 'config.json'), (config) => ({ ...config, max_position_embeddings: 12 }));
  const vocab = loadWordPiece(join(CASED, 'vocab.txt'), false);
  const text = 'Ada met Bob in Rome and Eva in New York , met Vincent in Geneva and Ada unseen';
  // By hand: words as long as ten pieces allow.
  const windows: string[] = [];
  for (const word of text.split(' ')) {
    const longer = windows.length === 0 ? word : `${windows.at(-1)} ${word}`;
    if (windows.length > 0 && vocab.encode(longer).ids.length <= 10) windows[windows.length - 1] = longer;
    else windows.push(word);
  }
  assert.ok(windows.length > 2);
  const covered = (some: [number, number, string][], from: number) =>
    some.flatMap(([start, end, kind]) =>
      Array.from({ length: end - start }, (_, i) => `${from + start + i} ${text[from + start + i]} ${kind}`),
    );
  const apart = await found(CASED, windows);
  let from = 0;
  const wanted = windows.flatMap((window, w) => {
    const some = covered(apart[w], from);
    from += window.length + 1;
    return some;
  });
  // An entity may continue across the border of two windows; then the space there belongs to it.
  const [whole] = await found(dir, [text]);
  const borders = windows.map((_, w) => windows.slice(0, w + 1).join(' ').length);
  assert.deepEqual(
    covered(whole, 0).filter((character) => !borders.includes(Number(character.split(' ')[0]))),
    wanted,
  );
});

test('a date that touches an entity is dropped', () => {
  const text = 'The 2008 Summer Olympics began on 8 August 2008.';
  assert.deepEqual(withDates(text, [{ start: 4, end: 24 }]), [
    { start: 4, end: 24 },
    { start: 34, end: 47 },
  ]);
});

const documents = join(folder, 'documents.jsonl');
writeFileSync(
  documents,
  Array.from(
    { length: 60 },
    (_, i) =>
      `${JSON.stringify({ title: `Ada ${i}`, text: `Ada met Bob in Rome${i}. The name was said here. It fell in ${1900 + i}.` })}\n`,
  ).join(''),
);
const PREPARE: Omit<PrepareOptions, 'dir'> = {
  documents,
  vocab: loadWordPiece(join(UNCASED, 'vocab.txt'), true),
  ner: CASED,
  blockTokens: 60,
  queryTokens: 40,
  threads: 1,
  batch: 1500,
};

function filesOf(dir: string): Map<string, string> {
  const names = readdirSync(dir).filter((name) => name !== 'verified.json');
  return new Map(names.sort().map((name) => [name, readFileSync(join(dir, name), 'latin1')]));
}

test('a tagged corpus is the same to the byte on one thread and on two, and names its tagger', async () => {
  const [one, two, rules] = [newPath(), newPath(), newPath()];
  const counts = await prepare({ ...PREPARE, dir: one });
  assert.deepEqual(await prepare({ ...PREPARE, threads: 2, dir: two }), counts);
  assert.deepEqual(filesOf(two), filesOf(one));
  const manifest = JSON.parse(readFileSync(join(one, 'manifest.json'), 'utf8'));
  assert.equal(manifest.tagger, await taggerIdentity(CASED));
  openCorpus(one).close();

  await prepare({ ...PREPARE, ner: undefined, dir: rules });
  assert.notEqual(filesOf(rules).get('spans.bin'), filesOf(one).get('spans.bin'));
  assert.ok(!filesOf(rules).get('manifest.json')?.includes('tagger'));
});

test('an interrupted run is resumed only with the same tagger', async () => {
  for (const ner of [CASED, UNCASED]) {
    const [dir, whole] = [newPath(), newPath()];
    let batches = 0;
    const onProgress = () => {
      if (++batches === 20) throw new Error('stop');
    };
    await assert.rejects(prepare({ ...PREPARE, batch: 400, dir, onProgress }), /stop/);
    const { documents } = JSON.parse(readFileSync(join(`${dir}${PART}`, RESUME), 'utf8'));
    assert.ok(documents > 0);
    let first = 0;
    await prepare({ ...PREPARE, ner, batch: 400, dir, onProgress: (done) => (first ||= done.documents) });
    assert.equal(first > documents, ner === CASED);
    await prepare({ ...PREPARE, ner, batch: 400, dir: whole });
    assert.deepEqual(filesOf(dir), filesOf(whole));
  }
});

function copyOf(dir: string): string {
  const copy = newPath();
  cpSync(dir, copy, { recursive: true });
  return copy;
}

function edit(path: string, change: (json: Record<string, unknown>) => unknown): void {
  writeFileSync(path, JSON.stringify(change(JSON.parse(readFileSync(path, 'utf8')))));
}

const DAMAGED: [string, RegExp, (dir: string) => void][] = [
  [
    'a folder that does not exist',
    /config\.json: no such .*optimum-cli/,
    (dir) => rmSync(dir, { recursive: true }),
  ],
  [
    'a model of sentences',
    /config\.json: does not describe a model that labels tokens \(id2label/,
    (dir) => edit(join(dir, 'config.json'), ({ id2label: _, ...rest }) => rest),
  ],
  [
    'a family with other word pieces',
    /model_type is "roberta"; text\.ner needs a model with word pieces/,
    (dir) => edit(join(dir, 'config.json'), (config) => ({ ...config, model_type: 'roberta' })),
  ],
  [
    'labels without O',
    /have the label O/,
    (dir) => edit(join(dir, 'config.json'), (config) => ({ ...config, id2label: { 0: 'A', 1: 'B' } })),
  ],
  [
    'other labels than the network has',
    /model\.onnx: cannot compute .*shape/,
    (dir) => edit(join(dir, 'config.json'), (config) => ({ ...config, id2label: { 0: 'O', 1: 'PER' } })),
  ],
  [
    'a vocabulary of another model',
    /vocab\.txt: holds \d+ word pieces, but vocab_size in config\.json is 20/,
    (dir) => edit(join(dir, 'config.json'), (config) => ({ ...config, vocab_size: 20 })),
  ],
  ['no vocab.txt', /vocab\.txt: no such file; .*needs/, (dir) => rmSync(join(dir, 'vocab.txt'))],
  ['no network', /model\.onnx: no such file, nor onnx/, (dir) => rmSync(join(dir, 'model.onnx'))],
  [
    'half a network',
    /model\.onnx: cannot compute/,
    (dir) => {
      const path = join(dir, 'model.onnx');
      writeFileSync(path, readFileSync(path).subarray(0, 20_000));
    },
  ],
  [
    'another tokenizer',
    /tokenizer_config\.json: strip_accents is "yes", not true or false/,
    (dir) => edit(join(dir, 'tokenizer_config.json'), (json) => ({ ...json, strip_accents: 'yes' })),
  ],
];

for (const [what, message, damage] of DAMAGED) {
  test(`text.ner refuses ${what} with one sentence`, async () => {
    const dir = copyOf(CASED);
    damage(dir);
    await assert.rejects(openTagger(dir), (error: Error) => {
      assert.ok(error instanceof UserError, error.stack);
      assert.match(error.message, message);
      assert.ok(!error.message.includes('\n'));
      return true;
    });
  });
}

test('a UserError in a split worker reaches the caller as a UserError', async () => {
  const dir = copyOf(CASED);
  edit(join(dir, 'config.json'), (config) => ({ ...config, id2label: { 0: 'O', 1: 'PER' } }));
  await assert.rejects(prepare({ ...PREPARE, ner: dir, threads: 2, dir: newPath() }), UserError);
});

test('the word pieces can be in a tokenizer.json alone, as transformers 5 saves them', () => {
  const dir = mkdtempSync(join(tmpdir(), 'ner-json-'));
  cpSync(CASED, dir, { recursive: true });
  const { vocabulary } = loadWordPiece(join(CASED, 'vocab.txt'), false);
  const tokenizer = {
    model: { type: 'WordPiece', vocab: Object.fromEntries(vocabulary.map((piece, id) => [piece, id])) },
    normalizer: { type: 'BertNormalizer', lowercase: false, strip_accents: null },
    pre_tokenizer: { type: 'BertPreTokenizer' },
  };
  writeFileSync(join(dir, 'tokenizer.json'), JSON.stringify(tokenizer));
  rmSync(join(dir, 'vocab.txt'));
  const { vocab } = readNerFolder(dir);
  rmSync(dir, { recursive: true });
  assert.deepEqual([vocab.vocabulary, vocab.lowercase], [vocabulary, false]);
});

test('weights in a file beside the network are read, and belong to the identity of the tagger', async () => {
  const dir = newPath();
  cpSync(UNCASED, dir, { recursive: true });
  // Made by scripts/fixtures/ner_external.py from the same network.
  cpSync(join(FIXTURES, 'external'), join(dir, 'onnx'), { recursive: true });
  const expected = expectedOf(UNCASED);
  assert.deepEqual(
    await found(
      dir,
      expected.map(({ text }) => text),
    ),
    expected.map(({ entities }) => entities),
  );
  const before = await taggerIdentity(dir);
  const data = join(dir, 'onnx/model.onnx.data');
  const bytes = readFileSync(data);
  bytes[bytes.length - 1] ^= 1;
  writeFileSync(data, bytes);
  assert.notEqual(await taggerIdentity(dir), before);
  rmSync(data);
  await assert.rejects(openTagger(dir), /copy model\.onnx\.data too/);
});
