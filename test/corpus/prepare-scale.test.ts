import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import {
  existsSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  truncateSync,
  utimesSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { type PrepareOptions, prepare } from '../../src/corpus/prepare.ts';
import type { Batch, SplitSettings } from '../../src/corpus/split.ts';
import { splitAll } from '../../src/corpus/split-workers.ts';
import { PART, RESUME } from '../../src/system/files.ts';
import { loadWordPiece, SPECIAL_TOKENS } from '../../src/tokenizer/wordpiece.ts';

const folder = mkdtempSync(join(tmpdir(), 'prepare-scale-'));
after(() => rmSync(folder, { recursive: true }));

const vocabulary = join(folder, 'vocab.txt');
const letters = [...'abcdefghijklmnopqrstuvwxyz0123456789.,'];
writeFileSync(
  vocabulary,
  [...SPECIAL_TOKENS, ...letters, ...letters.map((letter) => `##${letter}`)].join('\n'),
);
const vocab = loadWordPiece(vocabulary, true);

const DOCUMENTS = 1000;
const documents = join(folder, 'documents.jsonl');
writeFileSync(
  documents,
  Array.from({ length: DOCUMENTS }, (_, i) => {
    // Every 7th has no text, every 11th another's text, every 13th another's id; every 17th is not an article.
    const n = i % 11 === 10 ? i - 1 : i;
    const text =
      i % 7 === 6
        ? ' '
        : `The river Osk${n} runs on. ${'It rained. '.repeat(n % 20)}Vell fell in ${1000 + n}.`;
    const title = i % 17 === 16 ? `List of ${i}` : `Osk ${n}`;
    return `${JSON.stringify({ id: `d${i % 13 === 12 ? i - 1 : i}`, title, text })}\n`;
  }).join(''),
);
const sentences = join(folder, 'sentences.jsonl');
writeFileSync(
  sentences,
  Array.from({ length: DOCUMENTS }, (_, i) => {
    const text = i % 5 === 4 ? 'it rained.' : `They saw Osk in ${1000 + i}.`;
    return `${JSON.stringify(i % 3 === 2 ? { text, spans: [[0, 2]] } : { text })}\n`;
  }).join(''),
);

/** About two documents a batch, so that there are many batches. */
const SMALL: Omit<PrepareOptions, 'dir'> = {
  documents,
  vocab,
  articlesOnly: true,
  blockTokens: 40,
  queryTokens: 30,
  threads: 1,
  batch: 600,
};

let made = 0;
const newDir = () => join(folder, `corpus-${made++}`);

function filesOf(dir: string): Map<string, string> {
  const names = readdirSync(dir).filter((name) => name !== 'verified.json');
  return new Map(names.sort().map((name) => [name, readFileSync(join(dir, name), 'latin1')]));
}

const whole = newDir();
const wholeCounts = await prepare({ ...SMALL, dir: whole });

test('the corpus is the same to the byte on one thread and on three, whatever the batches', async () => {
  assert.ok(wholeCounts.skippedPages > 0 && wholeCounts.emptyDocuments > 0 && wholeCounts.duplicateIds > 0);
  assert.ok(wholeCounts.duplicateBlocks > 0 && wholeCounts.withoutSpan > 0);
  const dir = newDir();
  assert.deepEqual(await prepare({ ...SMALL, threads: 3, batch: 900, dir }), wholeCounts);
  assert.deepEqual(filesOf(dir), filesOf(whole));
  const given = [newDir(), newDir()];
  const one = await prepare({ ...SMALL, sentences, dir: given[0] });
  assert.deepEqual(await prepare({ ...SMALL, sentences, threads: 2, dir: given[1] }), one);
  assert.equal(one.withoutSpan, 134); // every 5th, but for those with ready-made spans
  assert.deepEqual(filesOf(given[1]), filesOf(given[0]));
});

/** Prepares in another process, which kills itself at the given batch; there is a checkpoint every 256 batches. */
function killedAt(batch: number, options: Omit<PrepareOptions, 'vocab'>): void {
  const script = join(folder, 'killed.mts');
  const source = (name: string) => JSON.stringify(join(import.meta.dirname, '../../src', name));
  writeFileSync(
    script,
    `import { prepare } from ${source('corpus/prepare.ts')};
    import { loadWordPiece } from ${source('tokenizer/wordpiece.ts')};
    const { vocabulary, batch, ...options } = JSON.parse(process.argv[2]);
    let n = 0;
    const onProgress = () => { if (++n === batch.last) process.kill(process.pid, 'SIGKILL'); };
    await prepare({ ...options, batch: batch.units, vocab: loadWordPiece(vocabulary, true), onProgress });`,
  );
  const input = JSON.stringify({ ...options, vocabulary, batch: { units: options.batch, last: batch } });
  const { signal, stderr } = spawnSync(process.execPath, ['--import', 'tsx', script, input], {
    encoding: 'utf8',
    cwd: join(import.meta.dirname, '../..'),
  });
  assert.equal(signal, 'SIGKILL', stderr);
}

/** Documents and sentences that were in the corpus when `prepare` had done its first batch. */
async function firstSeen(options: PrepareOptions) {
  let first: { documents: number; sentences: number } | undefined;
  const counts = await prepare({
    ...options,
    onProgress: ({ documents, sentences }) => {
      first ??= { documents, sentences };
    },
  });
  return { counts, first: first! };
}

test('a killed run is resumed and makes the same bytes', async () => {
  const { vocab: _, ...settings } = SMALL;
  const dir = newDir();
  killedAt(300, { ...settings, threads: 2, dir });
  assert.ok(existsSync(join(`${dir}${PART}`, RESUME)) && !existsSync(dir));
  killedAt(150, { ...settings, dir }); // in all 406: before the next checkpoint
  const { counts, first } = await firstSeen({ ...SMALL, batch: 5000, dir });
  assert.ok(first.documents > 300, `${first.documents} documents after the first batch`);
  assert.deepEqual(counts, wholeCounts);
  assert.deepEqual(filesOf(dir), filesOf(whole));
  assert.ok(!existsSync(`${dir}${PART}`));

  const [given, again] = [newDir(), newDir()];
  await prepare({ ...SMALL, sentences, dir: given });
  killedAt(800, { ...settings, sentences, dir: again }); // among the sentences
  const seen = await firstSeen({ ...SMALL, sentences, dir: again });
  assert.ok(seen.first.documents === wholeCounts.documents && seen.first.sentences > 100);
  assert.deepEqual(filesOf(again), filesOf(given));
});

test('a run with other input or settings, or one that is damaged, is not resumed', async () => {
  /** Leaves the folder as after a checkpoint. */
  const interrupt = async (dir: string) => {
    let n = 0;
    const onProgress = () => {
      if (++n === 300) throw new Error('stop');
    };
    await assert.rejects(prepare({ ...SMALL, dir, onProgress }), /stop/);
    assert.ok(existsSync(join(`${dir}${PART}`, RESUME)));
  };
  const restarts = async (dir: string, options: PrepareOptions, same: string) => {
    const { first } = await firstSeen({ ...options, dir });
    assert.ok(first.documents < 10);
    assert.deepEqual(filesOf(dir), filesOf(same));
  };
  const part = (name: string) => join(`${dir}${PART}`, name);
  const dir = newDir();
  const other = newDir();
  await prepare({ ...SMALL, blockTokens: 50, dir: other });
  await interrupt(dir);
  await restarts(dir, { ...SMALL, blockTokens: 50, dir }, other);

  await interrupt(dir);
  const text = readFileSync(part('text.bin'));
  text[10] ^= 1;
  writeFileSync(part('text.bin'), text);
  await restarts(dir, { ...SMALL, dir }, whole);

  await interrupt(dir);
  truncateSync(part('spans.bin'), 4);
  await restarts(dir, { ...SMALL, dir }, whole);

  await interrupt(dir);
  writeFileSync(part(RESUME), '{}');
  await restarts(dir, { ...SMALL, dir }, whole);

  await interrupt(dir);
  utimesSync(documents, new Date(), new Date(1e9));
  await restarts(dir, { ...SMALL, dir }, whole);
});

const settings: SplitSettings = {
  articlesOnly: false,
  splitting: 'sentences',
  blockTokens: 40,
  queryTokens: 30,
  sentences: true,
};

async function* batches(count: number, bad = -1, onPull = () => {}): AsyncGenerator<Batch> {
  for (let i = 0; i < count; i++) {
    onPull();
    const text = i === bad ? (null as unknown as string) : `Osk fell in ${i + 1000}.`;
    yield { documents: [{ id: `${i}`, title: '', text }], sentences: [] };
  }
}

test('an error in a worker ends all workers, and is thrown in the order of the batches', async () => {
  const seen: string[] = [];
  await assert.rejects(async () => {
    for await (const { batch } of splitAll(batches(50, 20), vocab, settings, 2))
      seen.push(batch.documents[0].id);
  }, TypeError);
  assert.deepEqual(
    seen,
    Array.from({ length: seen.length }, (_, i) => `${i}`),
  );
  assert.ok(seen.length >= 4 && seen.length <= 20, `${seen.length} batches before the bad one`);
});

test('only a few batches are read ahead for each worker', async () => {
  let pulled = 0;
  let taken = 0;
  let most = 0;
  for await (const _ of splitAll(
    batches(60, -1, () => pulled++),
    vocab,
    settings,
    2,
  )) {
    most = Math.max(most, pulled - ++taken);
  }
  assert.equal(taken, 60);
  assert.ok(most > 0 && most <= 6, `${most} batches read ahead`);
});
