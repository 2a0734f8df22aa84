import assert from 'node:assert/strict';
import { mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { hostname } from 'node:os';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import type { Config } from '../../src/config.ts';
import { prepare } from '../../src/corpus/prepare.ts';
import { type Corpus, openCorpus } from '../../src/corpus/store/reader.ts';
import { vectorLength } from '../../src/model/head.ts';
import { disposeModel, type Model } from '../../src/model/model.ts';
import { encodeBlocks } from '../../src/retrieval/encode-blocks.ts';
import { lockIndexes, makeIndex } from '../../src/retrieval/ensure-index.ts';
import { dtypeOf } from '../../src/retrieval/graph.ts';
import { readManifest } from '../../src/retrieval/manifest.ts';
import { currentIndex } from '../../src/retrieval/publish.ts';
import { openReuse } from '../../src/retrieval/reuse.ts';
import { openIndex } from '../../src/retrieval/search.ts';
import { UserError } from '../../src/system/errors.ts';
import { takeLock } from '../../src/system/lock.ts';
import { startTestEngine } from '../support/engine.ts';
import { temporaryFolder, tinyConfig, tinyCorpus, tinyModel } from '../support/tiny.ts';

const folder = temporaryFolder('make-index');
const config = tinyConfig();
let model: Model;
/** `grown` has the documents of `corpus`, with one changed, a new one in front, and the last one removed. */
let corpus: Corpus;
let grown: Corpus;
before(async () => {
  await startTestEngine();
  ({ corpus } = await tinyCorpus(folder, config));
  model = tinyModel(config, corpus.tokenizer.size);
  const lines = readFileSync(join(folder, 'documents.jsonl'), 'utf8').trimEnd().split('\n');
  const [changed, ...rest] = lines.map((line) => JSON.parse(line));
  const documents = [
    { ...changed, id: 'new', title: 'A new one' },
    ...rest.slice(0, -1),
    { ...changed, text: `${changed.text} He came late.` },
  ];
  const path = join(folder, 'grown.jsonl');
  writeFileSync(path, documents.map((document) => `${JSON.stringify(document)}\n`).join(''));
  const dir = join(folder, 'grown');
  await prepare({
    documents: path,
    vocab: corpus.tokenizer,
    blockTokens: config.text.blockTokens,
    queryTokens: config.text.sentenceTokens,
    dir,
  });
  grown = openCorpus(dir);
});
after(() => {
  disposeModel(model);
  corpus.close();
  grown.close();
});

const SIZES = { blockTokens: 64, tokensPerBatch: 1000 };

let roots = 0;
const newRoot = () => join(folder, `root-${roots++}`);

/** The index that was made and published, with all its embeddings. */
async function made(root: string, name: string, of: Corpus, by = model, settings: Config = config, step = 0) {
  const result = await makeIndex(root, name, { model: by, corpus: of, config: settings, step });
  assert.equal(currentIndex(root), join(root, result.name));
  const index = openIndex(join(root, result.name), { corpusSha256: of.sha256, efSearch: 64 });
  const vectors = index.vectors(Int32Array.from({ length: of.blocks }, (_, b) => b));
  index.close();
  return { ...result, vectors };
}

const P = vectorLength(config.model);
const rowOf = (vectors: Float32Array, block: number) => [...vectors.subarray(block * P, (block + 1) * P)];

function assertClose(actual: Float32Array, expected: Float32Array): void {
  assert.equal(actual.length, expected.length);
  for (let i = 0; i < actual.length; i++) assert.ok(Math.abs(actual[i] - expected[i]) < 1e-4, `${i}`);
}

test('for another corpus only new blocks are embedded, the vectors of the others are bit-identical copies', async () => {
  const root = newRoot();
  const old = await made(root, 'step-0', corpus);
  assert.equal(old.manifest.reused, 0);
  const next = await made(root, 'step-1', grown);

  const held = new Map(Array.from({ length: corpus.blocks }, (_, b) => [corpus.hash(b), b]));
  const shared = Array.from({ length: grown.blocks }, (_, b) => [b, held.get(grown.hash(b)) ?? -1]);
  const copied = shared.filter(([, b]) => b >= 0);
  assert.ok(copied.length > 20 && copied.length < grown.blocks, `${copied.length} of ${grown.blocks}`);
  assert.equal(next.manifest.reused, copied.length);
  for (const [block, from] of copied) assert.deepEqual(rowOf(next.vectors, block), rowOf(old.vectors, from));
  const scratch = await made(newRoot(), 'step-1', grown);
  assert.equal(scratch.manifest.reused, 0);
  assertClose(next.vectors, scratch.vectors);
});

test('copied blocks are not embedded: a vector changed in the old index is found in the new one', async () => {
  const pieces = async (reuse?: Awaited<ReturnType<typeof openReuse>>) => {
    const all: number[] = [];
    for await (const piece of encodeBlocks(model, grown, { ...SIZES, reuse })) all.push(...piece);
    return Float32Array.from(all);
  };
  const full = await pieces();
  // Every second block, in a different order than in the corpus.
  const rows = Array.from({ length: grown.blocks }, (_, b) => b)
    .filter((b) => b % 2 === 1)
    .reverse();
  const reuse = {
    sha256: '',
    row: (hash: bigint) => rows.findIndex((b) => grown.hash(b) === hash),
    copy: (wanted: Int32Array, out: Float32Array) => {
      for (const [i, row] of wanted.entries()) if (row >= 0) out.fill(1000 + row, i * P, (i + 1) * P);
    },
    close() {},
  };
  const mixed = await pieces(reuse);
  const copies = new Map(rows.map((b, row) => [grown.hash(b), row]));
  for (let b = 0; b < grown.blocks; b++) {
    const row = copies.get(grown.hash(b));
    if (row !== undefined) assert.deepEqual(rowOf(mixed, b), Array(P).fill(1000 + row));
    else assertClose(mixed.subarray(b * P, (b + 1) * P), full.subarray(b * P, (b + 1) * P));
  }
});

test('an index to copy from finds rows by their hash, in any order, and reports missing ones', async () => {
  const root = newRoot();
  const { name, manifest, vectors } = await made(root, 'step-0', corpus);
  const reuse = (await openReuse(join(root, name), manifest, {}))!;
  const rows = Int32Array.of(2, 3, 4, -1, 0, 1, corpus.blocks - 1, -1, 3);
  const out = new Float32Array(rows.length * P).fill(7);
  reuse.copy(rows, out);
  for (const [i, row] of rows.entries())
    assert.deepEqual(rowOf(out, i), row < 0 ? Array(P).fill(7) : rowOf(vectors, row));
  const last = new Map(Array.from({ length: corpus.blocks }, (_, b) => [corpus.hash(b), b]));
  for (const [hash, b] of last) {
    assert.equal(reuse.row(hash), b);
    // Hashes that differ only in the high word, or only in the low word.
    assert.equal(reuse.row(hash ^ (1n << 63n)), -1);
    assert.equal(reuse.row(hash ^ 1n), -1);
  }
  reuse.close();
});

test('nothing is copied if the weights or embedding settings differ, or the index is damaged', async () => {
  const root = newRoot();
  await made(root, 'step-0', corpus);
  const other = tinyModel(config, corpus.tokenizer.size, 2);
  assert.equal((await made(root, 'step-1', grown, other)).manifest.reused, 0);
  disposeModel(other);
  rmSync(root, { recursive: true });

  await made(root, 'step-0', corpus);
  const shorter = tinyConfig('text.blockTokens=60');
  assert.equal((await made(root, 'step-1', grown, model, shorter)).manifest.reused, 0);
  rmSync(root, { recursive: true });

  for (const name of ['blocks.u64', 'embeddings.f32']) {
    await made(root, 'step-0', corpus);
    const path = join(root, 'step-0', name);
    const bytes = readFileSync(path);
    bytes[3] ^= 1;
    writeFileSync(path, bytes);
    assert.equal((await made(root, 'step-1', grown)).manifest.reused, 0, name);
    rmSync(root, { recursive: true });
  }
});

test('an existing index is published unchanged, with the step that requested it', async () => {
  const root = newRoot();
  const first = await made(root, 'step-0', corpus);
  const other = tinyModel(config, corpus.tokenizer.size, 2);
  await made(root, 'step-1', corpus, other);
  disposeModel(other);
  const again = await made(root, 'step-2', corpus, model, config, 2);
  assert.equal(again.name, 'step-0');
  assert.deepEqual(again.manifest, { ...first.manifest, step: 2 });
  assert.deepEqual(readManifest(join(root, 'step-0')), again.manifest);
  assert.deepEqual(readdirSync(root).sort(), ['current', 'step-0', 'step-1']);
  // If damaged, it is made again; if only the graph settings differ, its vectors are copied.
  const path = join(root, 'step-0', 'graph.usearch');
  const bytes = readFileSync(path);
  bytes[bytes.length >> 1] ^= 1;
  writeFileSync(path, bytes);
  const mended = await made(root, 'step-3', corpus);
  assert.deepEqual([mended.name, mended.manifest.reused], ['step-3', corpus.blocks]);
  assert.deepEqual(mended.vectors, first.vectors);
  const half = await made(root, 'step-3', corpus, model, tinyConfig('index.dtype=f16'));
  assert.deepEqual([half.manifest.dtype, half.manifest.reused], ['f16', corpus.blocks]);
});

test('an index with other graphs, or without graphs, is a new index of the same vectors', async () => {
  const root = newRoot();
  const first = await made(root, 'step-0', corpus);
  assert.equal(first.manifest.graphs.length, 1);
  const several = await made(root, 'step-1', corpus, model, tinyConfig('index.subIndexes=3'));
  assert.deepEqual([several.manifest.graphs.length, several.manifest.reused], [3, corpus.blocks]);
  const exact = tinyConfig('index.kind=exact', 'index.dtype=f16');
  const none = await made(root, 'step-2', corpus, model, exact);
  assert.deepEqual([none.manifest.graphs.length, none.manifest.reused], [0, corpus.blocks]);
  assert.deepEqual(none.vectors, first.vectors);
  // Without graphs there are no graph settings.
  const other = tinyConfig('index.kind=exact', 'index.m=9', 'index.subIndexes=2');
  assert.equal((await made(root, 'step-3', corpus, model, other)).name, 'step-2');
  const auto = await made(newRoot(), 'step-0', corpus, model, tinyConfig('index.dtype=auto'));
  assert.equal(auto.manifest.dtype, 'f32');
  assert.deepEqual(
    [dtypeOf('auto', 1e6), dtypeOf('auto', 1e6 + 1), dtypeOf('f32', 1e9)],
    ['f32', 'f16', 'f32'],
  );
});

test('if documents are removed and replaced, the blocks of the others keep bit-identical vectors', async () => {
  const root = newRoot();
  const documents = readFileSync(join(folder, 'documents.jsonl'), 'utf8')
    .trimEnd()
    .split('\n')
    .map((line) => JSON.parse(line));
  const gone = documents[3].id;
  const replaced = { ...documents[5], text: `${documents[5].text} He came late.` };
  const path = join(folder, 'fewer.jsonl');
  const kept = documents.filter(({ id }) => id !== gone).map((d) => (d.id === replaced.id ? replaced : d));
  writeFileSync(path, kept.map((document) => `${JSON.stringify(document)}\n`).join(''));
  await prepare({
    documents: path,
    vocab: corpus.tokenizer,
    blockTokens: config.text.blockTokens,
    queryTokens: config.text.sentenceTokens,
    dir: join(folder, 'fewer'),
  });
  const fewer = openCorpus(join(folder, 'fewer'));
  const old = await made(root, 'step-0', corpus);
  const next = await made(root, 'step-1', fewer);
  const blocks = Array.from({ length: corpus.blocks }, (_, b) => b);
  const before = new Map(blocks.map((b) => [corpus.hash(b), b]));
  let same = 0;
  let embedded = 0;
  for (let b = 0; b < fewer.blocks; b++) {
    assert.notEqual(fewer.documentId(b), gone);
    const held = before.get(fewer.hash(b));
    if (held === undefined) {
      assert.equal(fewer.documentId(b), replaced.id);
      embedded++;
    } else {
      assert.deepEqual(rowOf(next.vectors, b), rowOf(old.vectors, held));
      same++;
    }
  }
  assert.ok(
    embedded > 0 && next.manifest.reused === same,
    `${embedded} embedded, ${same} of ${next.manifest.reused}`,
  );
  const changed = blocks.filter((b) => [gone, replaced.id].includes(corpus.documentId(b))).length;
  assert.ok(same >= corpus.blocks - changed);
  fewer.close();
});

test('unfinished builds of other indexes are removed, and an index of an older version does no harm', async () => {
  const root = newRoot();
  mkdirSync(join(root, 'step-7.part'), { recursive: true });
  mkdirSync(join(root, 'step-0'));
  writeFileSync(join(root, 'step-0', 'manifest.json'), '{"format": 1}');
  writeFileSync(join(root, 'current'), 'step-0\n');
  let parts: string[] = [];
  const onProgress = () => {
    parts = readdirSync(root).filter((name) => name.endsWith('.part'));
  };
  await makeIndex(root, 'step-0', { model, corpus, config, step: 0 }, { onProgress });
  assert.deepEqual(parts, ['step-0.part'], 'before the new one needs space');
  assert.deepEqual(readdirSync(root).sort(), ['current', 'step-0']);
});

test('blocks get the same vectors wherever a build resumes, but only from the start of a piece', async () => {
  const { corpus: large } = await tinyCorpus(join(folder, 'large'), config, { documents: 720 });
  const encode = async (first: number) => {
    const pieces = [];
    for await (const piece of encodeBlocks(model, large, { ...SIZES, first })) pieces.push(piece);
    return pieces;
  };
  const all = await encode(0);
  assert.ok(all.length > 1, `${large.blocks} blocks`);
  assert.deepEqual(await encode(1024), all.slice(1));
  await assert.rejects(encode(5), /block 5 is not the start of a piece/);
  large.close();
});

test('two indexes are not built at once: the second build waits for the lock, and an error names its owner', async () => {
  const root = newRoot();
  mkdirSync(root);
  const { release } = takeLock(join(root, 'lock'), 'building an index') as { release: () => void };
  const names = (error: unknown) =>
    error instanceof UserError &&
    error.message.startsWith(
      `${join(root, 'lock')}: process ${process.pid} on ${hostname()} is building an index here and has not finished within 0.3 s;`,
    );
  await assert.rejects(lockIndexes(root, {}, 0.3), names);
  const stop = new AbortController();
  setTimeout(() => stop.abort(new Error('asked to stop')), 100);
  await assert.rejects(lockIndexes(root, { signal: stop.signal }), /asked to stop/);

  let built = false;
  const building = made(root, 'step-0', corpus).then(() => {
    built = true;
  });
  await new Promise((resolve) => setTimeout(resolve, 500));
  assert.deepEqual([built, readdirSync(root)], [false, ['lock']]);
  release();
  await building;
  assert.deepEqual(readdirSync(root).sort(), ['current', 'step-0']);
});
