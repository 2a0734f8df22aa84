import assert from 'node:assert/strict';
import {
  appendFileSync,
  cpSync,
  existsSync,
  mkdirSync,
  readdirSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { after, before, mock, test } from 'node:test';
import * as tf from '@tensorflow/tfjs';
import { openCorpus } from '../../src/corpus/store/reader.ts';
import { EXTRA_DOCUMENTS_LIMIT } from '../../src/eval/extra-documents.ts';
import { bertShapes, encode, encoderInput, maskedLanguageModel } from '../../src/model/bert.ts';
import { embedderShapes, embedSequences } from '../../src/model/embedder.ts';
import { disposeModel, type Model } from '../../src/model/model.ts';
import { buildRunIndex } from '../../src/pipeline/build-index.ts';
import { type Context, emptyModel, stageWeights } from '../../src/pipeline/context.ts';
import { prepareCorpus } from '../../src/pipeline/prepare.ts';
import { type AnsweredQuestion, openQaSession, type QaSession } from '../../src/pipeline/qa-session.ts';
import { readManifest } from '../../src/retrieval/manifest.ts';
import { currentIndex } from '../../src/retrieval/publish.ts';
import { lockRun, runConfig, runFolder } from '../../src/run/folder.ts';
import { UserError } from '../../src/system/errors.ts';
import { releaseLocks } from '../../src/system/lock.ts';
import { qaShapes } from '../../src/train/finetune-qa.ts';
import type { World } from '../../src/world/world.ts';
import { temporaryFolder } from '../support/tiny.ts';
import { tunedRun } from '../support/tuned-run.ts';

const folder = temporaryFolder('asking');
let main: Context;
let world: World;
let questions: string[];
before(async () => {
  mock.method(process.stderr, 'write', () => true);
  ({ context: main, world } = await tunedRun(folder));
  questions = world.test.map(({ question }) => question);
});
after(() => mock.restoreAll());

async function asking<T>(work: (asking: QaSession) => Promise<T>, context = main): Promise<T> {
  const opened = await openQaSession(context);
  try {
    return await work(opened);
  } finally {
    await opened.close();
  }
}

/** Equal except for rounding: `tolerance` is relative to the number, or to 1 if that is larger. */
function assertSame(actual: unknown, expected: unknown, tolerance = 1e-4, where = 'it'): void {
  if (typeof expected === 'number' && typeof actual === 'number') {
    const off = Math.abs(actual - expected);
    assert.ok(off <= tolerance * Math.max(1, Math.abs(expected)), `${where}: ${actual}, not ${expected}`);
  } else if (typeof expected === 'object' && expected !== null) {
    assert.deepEqual(Object.keys(actual as object), Object.keys(expected), where);
    for (const [name, value] of Object.entries(expected))
      assertSame((actual as Record<string, unknown>)[name], value, tolerance, `${where}.${name}`);
  } else assert.equal(actual, expected, where);
}

test('many questions get the same answers as each one alone, in their order', async () => {
  const many = [...questions, ...questions].slice(0, 30); // more than are read at once
  await asking(async ({ ask }) => {
    const together = await ask(many);
    const alone: AnsweredQuestion[] = [];
    for (const question of many) alone.push((await ask([question]))[0]);
    assertSame(together, alone);
    assert.deepEqual(
      together.map(({ question }) => question),
      many,
    );
    assert.ok(new Set(together.map(({ answers }) => answers[0].answer)).size > 1, 'answers differ');
    assert.ok(together.every(({ answers }) => answers.length === 3));
    assert.deepEqual(await ask([]), []);
    // Calls that overlap wait for each other.
    assertSame((await Promise.all(many.slice(0, 4).map((q) => ask([q])))).flat(), together.slice(0, 4));
  });
});

/** Weights after a stage. */
async function weights(stage: 'pretrain' | 'finetune-qa' | 'closed-book'): Promise<Model> {
  const corpus = openCorpus(main.run.corpus);
  const model = emptyModel(main, corpus);
  const shapes = {
    pretrain: () => embedderShapes(model.documentTower, model.embedder),
    'finetune-qa': () => qaShapes(model),
    'closed-book': () =>
      bertShapes(model.readerTower, model.reader, true).filter(({ name }) => !name.includes('pooler.')),
  }[stage]();
  await stageWeights(main, stage, corpus, model, shapes);
  corpus.close();
  return model;
}

test('the null document probability is that of [CLS] [SEP] [SEP] among the blocks read', async () => {
  const corpus = openCorpus(main.run.corpus);
  const { cls, sep } = corpus.tokenizer;
  const tuned = await weights('finetune-qa');
  const pretrained = await weights('pretrain');
  const vector = (model: Model, p: string, ids: number[], firstSegment: number) =>
    tf.tidy(() => [
      ...embedSequences(
        model.params,
        p,
        model.embedder,
        encoderInput([Int32Array.from(ids)], [firstSegment]),
      ).dataSync(),
    ]);
  const zs = Array.from({ length: corpus.blocks }, (_, b) => {
    const title = [...corpus.titleIds(b)];
    return vector(
      pretrained,
      pretrained.documentTower,
      [cls, ...title, sep, ...corpus.bodyIds(b), sep],
      title.length + 2,
    );
  });
  const none = vector(pretrained, pretrained.documentTower, [cls, sep, sep], 2);
  const some = questions.slice(0, 4);
  const asked = await asking(({ ask }) => ask(some));
  some.forEach((question, i) => {
    const ids = [...corpus.tokenizer.encode(question).ids].slice(0, 38);
    const x = vector(tuned, tuned.queryTower, [cls, ...ids, sep], ids.length + 2);
    const e = (z: number[]) => Math.exp(z.reduce((sum, value, p) => sum + value * x[p], 0) / 2);
    const best = zs.map(e).sort((a, b) => b - a);
    const read = best[0] + best[1] + best[2];
    assertSame(asked[i].nullProbability, e(none) / (e(none) + read));
    const priors = asked[i].answers.map(({ retrieval }) => retrieval).sort((a, b) => b - a);
    assertSame(
      priors,
      best.slice(0, 3).map((value) => value / read),
    );
  });
  disposeModel(tuned);
  disposeModel(pretrained);
  corpus.close();
});

test('retrieval utility is log p(y|z,x) less the closed-book log p(y|∅,x) of the same answer', async () => {
  const corpus = openCorpus(main.run.corpus);
  const { cls, sep, mask, encode: tokenize } = corpus.tokenizer;
  const reader = await weights('closed-book');
  const some = questions.slice(0, 6);
  const asked = await asking(({ ask }) => ask(some));
  some.forEach((question, i) => {
    const { answer, reading } = asked[i].answers[0];
    const x = [...tokenize(question).ids].slice(0, 37);
    const y = [...tokenize(answer).ids];
    const sequence = [cls, ...x, ...y.map(() => mask), sep, sep];
    const logits = tf.tidy(() => {
      const input = encoderInput([Int32Array.from(sequence)], [sequence.length - 1]);
      const outputs = encode(reader.params, reader.readerTower, reader.reader, input);
      const all = outputs.reshape([sequence.length, reader.reader.hidden]) as tf.Tensor2D;
      return maskedLanguageModel(reader.params, reader.readerTower, reader.reader, all).arraySync();
    });
    const without = y.reduce((sum, piece, m) => {
      const row = logits[x.length + 1 + m];
      return sum + row[piece] - Math.log(row.reduce((total, value) => total + Math.exp(value), 0));
    }, 0);
    assertSame(asked[i].retrievalUtility, Math.log(reading) - without);
  });
  disposeModel(reader);
  corpus.close();
});

/** Two documents, one of which is split into several blocks. */
const extra = [
  { title: 'Orla Venn', text: 'Quonlip. '.repeat(3).trim() },
  {
    title: 'The Mill of Drost',
    text: Array.from({ length: 12 }, (_, i) => `In 18${10 + i} the mill of Drost had ${i + 2} wheels.`).join(
      ' ',
    ),
  },
];

for (const [kind, set] of [
  ['a graph', []],
  ['a graph in half precision', ['index.dtype=f16']],
  ['exact search', ['index.kind=exact']],
] as [string, string[]][]) {
  test(`extra documents are read as if they were in the corpus: ${kind}`, async () => {
    const copy = (name: string) => {
      const run = runFolder(join(folder, `${name}-${kind}`));
      cpSync(main.run.dir, run.dir, { recursive: true });
      return run;
    };
    const plain = copy('plain');
    const beside = { ...main, run: plain, config: runConfig(plain, { set }) };
    await buildRunIndex(beside);

    const run = copy('holding');
    const documents = join(run.dir, 'documents.jsonl');
    cpSync(join(folder, 'documents.jsonl'), documents);
    for (const [i, document] of extra.entries())
      appendFileSync(documents, `${JSON.stringify({ ...document, id: `open-${i}` })}\n`);
    const within = { ...main, run, config: runConfig(run, { set: [...set, `data.documents=${documents}`] }) };
    const { blocks } = await prepareCorpus(run, within.config);
    await buildRunIndex(within);
    const { dtype, graphs, rows } = readManifest(currentIndex(run.index)!);
    assert.deepEqual(
      [rows, dtype, graphs.length],
      [blocks, set[0] === 'index.dtype=f16' ? 'f16' : 'f32', kind === 'exact search' ? 0 : 1],
    );

    // The question is about the extra documents, so that some of their blocks are among the best.
    const about = [
      'Quonlip?',
      'How many wheels had the mill of Drost in 1815?',
      'The Mill of Drost',
      ...questions.slice(0, 8),
    ];
    const found = await asking(
      ({ ask }) => ask(about, { documents: extra.map((d, i) => ({ ...d, id: `open-${i}` })) }),
      beside,
    );
    const expected = await asking(({ ask }) => ask(about), within);
    const marked = found.map(({ answers }) => answers.map((a) => a.extraDocument === true));
    assert.deepEqual(
      marked,
      expected.map(({ answers }) => answers.map(({ document }) => document.startsWith('open-'))),
    );
    assert.ok(marked.flat().includes(true) && marked.flat().includes(false), 'both are found');
    const unmarked = found.map((asked) => ({
      ...asked,
      answers: asked.answers.map(({ extraDocument: _, ...a }) => a),
    }));
    assertSame(unmarked, expected, 1e-5);
  });
}

test('hybrid retrieval: words count, also those of extra documents', async () => {
  const hybrid: Context = { ...main, config: { ...main.config, hybrid: { weight: 0.05 } } };
  await assert.rejects(
    openQaSession(hybrid),
    (error) => error instanceof UserError && /has no BM25 index .*"realm build-index"/.test(error.message),
  );
  await buildRunIndex(hybrid);
  const { title } = world.documents[7];
  const documents = [{ title: 'Zorblatt', text: 'The Zorblatt crosses a river.' }];
  await asking(async ({ ask }) => {
    const mostLikely = ({ answers }: AnsweredQuestion) =>
      answers.reduce((a, b) => (b.retrieval > a.retrieval ? b : a)).document;
    const [named] = await ask([`${title}?`]);
    const corpus = openCorpus(main.run.corpus);
    const own = Array.from({ length: corpus.blocks }, (_, b) => b).find((b) => corpus.title(b) === title)!;
    assert.equal(mostLikely(named), corpus.documentId(own));
    corpus.close();
    const [extra] = await ask(['What does the Zorblatt cross?'], { documents });
    assert.equal(mostLikely(extra), 'Zorblatt');
    assert.ok(
      extra.answers.some(({ document }) => document !== 'Zorblatt'),
      'and blocks of the corpus',
    );
  }, hybrid);
});

test('a fact that is not in the corpus is answered from the extra documents, and not without them', async () => {
  const corpus = openCorpus(main.run.corpus);
  for (let b = 0; b < corpus.blocks; b++) assert.doesNotMatch(corpus.text(b), /quonlip/i);
  corpus.close();
  // A model trained for so few steps finds nothing by meaning; among many titles, one is near each question by chance.
  const text = 'Quonlip quonlip quonlip quonlip quonlip quonlip';
  const facts = world.documents.map(({ title }) => ({ title, text }));
  await asking(async ({ ask }) => {
    const before = await ask(questions);
    const during = await ask(questions, { documents: facts });
    const told = (all: AnsweredQuestion[]) =>
      all.map(({ answers }) => answers[0]).filter(({ extraDocument }) => extraDocument);
    assert.equal(told(before).length, 0);
    assert.ok(told(during).length > 0);
    for (const best of told(during)) {
      assert.ok(best.answer.length > 0);
      assert.equal(best.before + best.answer + best.after, text);
      assert.ok(world.documents.some(({ title }) => best.title === title && best.document === title));
    }
    assertSame(await ask(questions), before, 1e-6);
  });
});

/** Every file and folder with its length and time, without the notes on verified files. */
function contents(dir: string): string[] {
  return (readdirSync(dir, { recursive: true }) as string[])
    .filter((name) => !name.endsWith('verified.json'))
    .map((name) => {
      const stat = statSync(join(dir, name));
      return `${name} ${stat.isFile() ? `${stat.size} ${stat.mtimeMs}` : 'folder'}`;
    })
    .sort();
}

test('asking neither locks the run nor changes anything in it', async () => {
  const { run } = main;
  lockRun(run, 'pretrain');
  // The lock of a process on another host: no process here has that number.
  const aside = [run.checkpoint('finetune-qa'), run.checkpoint('pretrain'), run.index].map((dir) =>
    join(dir, 'step-9.4194305.tmp'),
  );
  for (const dir of aside) mkdirSync(dir);
  const before = contents(run.dir);
  const answers = await asking(({ ask }) => ask(questions.slice(0, 2), { documents: extra }));
  assert.equal(answers.length, 2);
  assert.deepEqual(contents(run.dir), before);
  releaseLocks();
  for (const dir of aside) rmSync(dir, { recursive: true });
});

test('opening is tried again if training replaces a file at the same time', async () => {
  // The pointer names a missing checkpoint; before the second try training has set it again.
  const root = main.run.checkpoint('finetune-qa');
  const [name] = readdirSync(root).filter((entry) => entry.startsWith('step-'));
  writeFileSync(join(root, 'latest'), 'step-0000099\n');
  const opening = openQaSession(main);
  writeFileSync(join(root, 'latest'), `${name}\n`);
  const opened = await opening.catch((error) => error as Error);
  // Opening starts at once, so the first try used the wrong pointer.
  assert.ok(!(opened instanceof Error), `${opened}`);
  await opened.close();
});

test('invalid questions are refused with a reason', async () => {
  const refused = (message: RegExp) => (error: unknown) =>
    error instanceof UserError && message.test(error.message);
  await asking(async ({ ask }) => {
    for (const empty of ['', ' \t', '???', '\u00ad', '\u2026 \u{1f600}'])
      await assert.rejects(
        ask(['Who?', empty]),
        refused(/^a question has no letter or digit; write it as text/),
      );
    await assert.rejects(
      ask(['Who?'], { documents: [{ title: '', text: 'x'.repeat(EXTRA_DOCUMENTS_LIMIT + 1) }] }),
      refused(/^the extra documents: more than 1048576 characters/),
    );
    await assert.rejects(
      ask(['Who?'], { documents: [{ title: 'x', text: ' ' }] }),
      refused(/no document with text/),
    );
    const long = `Who ${'wrote it '.repeat(60)}?`;
    const [one, other] = await ask(['Who wrote it?', long]);
    assert.deepEqual([one.truncated, other.truncated], [undefined, true]);
  });
  const opened = await openQaSession(main);
  await opened.close();
  await assert.rejects(opened.ask(['Who?']), /closed/);

  const run = runFolder(join(folder, 'untuned'));
  cpSync(main.run.dir, run.dir, { recursive: true });
  rmSync(join(run.index, 'current'));
  for (const entry of readdirSync(run.index)) rmSync(join(run.index, entry), { recursive: true });
  await assert.rejects(
    openQaSession({ ...main, run }),
    refused(/has no index for .* "realm build-index --run .*untuned"$/),
  );
  // The first command that is missing is named.
  for (const [stage, next] of [
    ['finetune-qa', 'finetune-qa'],
    ['pretrain', 'build-index'],
    ['ict-warmup', 'ict-warmup'],
  ] as const) {
    rmSync(run.checkpoint(stage), { recursive: true });
    await assert.rejects(
      openQaSession({ ...main, run }),
      refused(new RegExp(`not fine-tuned.* the next command is "realm ${next} --run .*untuned"$`)),
    );
  }
  cpSync(main.run.index, run.index, { recursive: true });
  await assert.rejects(openQaSession({ ...main, run }), refused(/"realm pretrain --run .*untuned"$/));
});

test('a run without pretraining or closed-book reader answers without their metrics', async () => {
  const run = runFolder(join(folder, 'few'));
  cpSync(main.run.dir, run.dir, { recursive: true });
  rmSync(run.checkpoint('closed-book'), { recursive: true });
  const [asked] = await asking(({ ask }) => ask([questions[0]]), { ...main, run });
  assert.deepEqual([typeof asked.nullProbability, 'retrievalUtility' in asked], ['number', false]);
  rmSync(run.checkpoint('pretrain'), { recursive: true });
  await buildRunIndex({ ...main, run });
  const [without] = await asking(({ ask }) => ask([questions[0]]), { ...main, run });
  assert.equal('nullProbability' in without, false);
  assert.ok(existsSync(run.checkpoint('ict-warmup')));
});

test('a retriever that was not pretrained with the null document gives no probability for it', async () => {
  const run = runFolder(join(folder, 'unshared'));
  cpSync(main.run.dir, run.dir, { recursive: true });
  const { config } = main;
  for (const changed of [
    { ...config, pretrain: { ...config.pretrain, nullDocument: false } },
    { ...config, qa: { ...config.qa, retriever: 'ict-warmup' as const } },
  ]) {
    const context = { ...main, run, config: changed };
    await buildRunIndex(context);
    const [asked] = await asking(({ ask }) => ask([questions[0]]), context);
    assert.deepEqual(['nullProbability' in asked, 'retrievalUtility' in asked], [false, true]);
  }
});

test('asking leaks no tensor', async () => {
  const before = tf.memory().numTensors;
  await asking(({ ask }) => ask(questions.slice(0, 3), { documents: extra }));
  assert.equal(tf.memory().numTensors, before);
});
