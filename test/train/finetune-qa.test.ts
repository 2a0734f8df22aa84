import assert from 'node:assert/strict';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import * as tf from '@tensorflow/tfjs';
import { answerFinder } from '../../src/answers/answer-finder.ts';
import type { Config } from '../../src/config.ts';
import { prepare } from '../../src/corpus/prepare.ts';
import { type Corpus, openCorpus } from '../../src/corpus/store/reader.ts';
import type { Question } from '../../src/datasets/types.ts';
import { answerQuestions } from '../../src/eval/answer.ts';
import { encode, encoderInput } from '../../src/model/bert.ts';
import { embedSequences } from '../../src/model/embedder.ts';
import { describeModel, disposeModel, type Model } from '../../src/model/model.ts';
import { type EncodedQuestion, encodeQuestions } from '../../src/model/questions.ts';
import { ensureBm25 } from '../../src/retrieval/bm25.ts';
import { makeIndex } from '../../src/retrieval/ensure-index.ts';
import { currentIndex } from '../../src/retrieval/publish.ts';
import { openIndex, type SearchIndex } from '../../src/retrieval/search.ts';
import { SPECIAL_TOKENS, wordPiece } from '../../src/tokenizer/wordpiece.ts';
import { qaRateFactor, qaShapes, qaStep } from '../../src/train/finetune-qa.ts';
import { disposeQaBatch, type QaSource, scored } from '../../src/train/qa-batch.ts';
import { goldBlocks, hardNegatives } from '../../src/train/qa-candidates.ts';
import type { World } from '../../src/world/world.ts';
import { startTestEngine } from '../support/engine.ts';
import { assertSameStep, assertSlope, descend } from '../support/gradients.ts';
import { temporaryFolder, tinyConfig, tinyCorpus, tinyModel } from '../support/tiny.ts';

const folder = temporaryFolder('qa');
const config = tinyConfig(
  'qa.batch=4',
  'qa.retrieverBlocks=12',
  'qa.readerBlocks=3',
  'model.maxSpanWidth=9',
  'model.temperature=2',
);
const vary = (changes: Partial<Config['qa']>): Config => ({ ...config, qa: { ...config.qa, ...changes } });
let corpus: Corpus;
let world: World;
let model: Model;
let index: SearchIndex;
/** Four questions, one for each case; together they are a batch. */
let questions: EncodedQuestion[];
before(async () => {
  await startTestEngine();
  ({ corpus, world } = await tinyCorpus(folder, config));
  model = tinyModel(config, corpus.tokenizer.size);
  await makeIndex(folder, 'index', { model, corpus, config, step: 0 });
  index = openIndex(currentIndex(folder)!, { efSearch: 128 });
  questions = encodeQuestions(corpus, cases());
});
after(() => index?.close());

/** Answers that occur in the blocks which a model with random weights happens to retrieve. */
function cases(): Question[] {
  const some = [0, 20, 40, 60].map((i) => world.train[i].question);
  const ranked = encodeQuestions(
    corpus,
    some.map((question) => ({ question, answers: [] })),
  ).map((question) => ranking(question).map(({ block }) => corpus.text(block)));
  const words = (text: string) => text.match(/\p{L}+/gu)!;
  const far = words(ranked[1][7]).find((w) => !ranked[1].slice(0, 3).some((text) => holds(text, [w])))!;
  return [
    // In many blocks, once as the last word of a block, which may be truncated.
    { question: some[0], answers: ['the', words(ranked[0][1]).at(-1)!], answerKind: 'string' },
    // In a block that is retrieved but not read.
    { question: some[1], answers: [far], answerKind: 'string' },
    // Nowhere.
    { question: some[2], answers: ['zzz'], answerKind: 'string' },
    // In the best block, but too wide for the reader.
    { question: some[3], answers: [words(ranked[3][0]).slice(0, 6).join(' ')], answerKind: 'string' },
  ];
}

const step = async (settings: Config, n = 0) => {
  const stage = qaStep(model, corpus, index, questions, settings);
  const result = await stage.step(n);
  stage.dispose();
  return result;
};

// ------------------------------------------------------------------ one question, one block, one span at a time

const sum = (list: number[]) => list.reduce((a, b) => a + b, 0);
const logSumExp = (list: number[]) => Math.log(sum(list.map(Math.exp)));

function vector(ids: number[], firstSegment: number, of = model, tower = of.queryTower): number[] {
  return tf.tidy(() => {
    const input = encoderInput([Int32Array.from(ids)], [firstSegment]);
    return [...embedSequences(of.params, tower, of.embedder, input).dataSync()];
  });
}

/** `[CLS] question [SEP]`, the question truncated to fit. */
function asked({ ids }: EncodedQuestion): number[] {
  const { cls, sep } = corpus.tokenizer;
  return [cls, ...ids.slice(0, config.text.questionTokens - 2), sep];
}

/** Vectors of all blocks. */
let vectors: number[][] | undefined;

/** Blocks with their retrieval scores, best first. */
function ranking(question: EncodedQuestion): { block: number; score: number }[] {
  const { cls, sep } = corpus.tokenizer;
  const q = vector(asked(question), asked(question).length);
  vectors ??= Array.from({ length: corpus.blocks }, (_, block) => {
    const title = [...corpus.titleIds(block)];
    return vector([cls, ...title, sep, ...corpus.bodyIds(block), sep], title.length + 2);
  });
  return vectors
    .map((z, block) => ({ block, score: sum(z.map((value, d) => value * q[d])) / 2 }))
    .sort((a, b) => b.score - a.score);
}

/** Whether the text contains an answer's words; names of the world consist of letters and digits only. */
function holds(text: string, answers: string[]): boolean {
  const words = (s: string) =>
    ` ${s
      .toLowerCase()
      .match(/[\p{L}\p{N}]+/gu)!
      .join(' ')} `;
  return answers.some((answer) => words(text).includes(words(answer)));
}

interface Span {
  block: number;
  /** Word pieces [start, end) of the block. */
  start: number;
  end: number;
  /** Without the block's retrieval score. */
  score: number;
  correct: boolean;
}

/** Every span of a block that the reader may choose as the answer. */
function spansOf(question: EncodedQuestion, block: number, readerTokens: number): Span[] {
  const { sep } = corpus.tokenizer;
  const first = asked(question);
  const body = [...corpus.bodyIds(block)].slice(0, readerTokens - first.length - 1);
  const outputs = tf.tidy(() => {
    const input = encoderInput([Int32Array.from([...first, ...body, sep])], [first.length]);
    return encode(model.params, model.readerTower, model.reader, input).arraySync() as number[][];
  });
  const get = (name: string) => [...model.params.get(name)!.dataSync()];
  const S = model.reader.spanHidden;
  const kernel = get('span.hidden.kernel');
  const bias = get('span.hidden.bias');
  const gain = get('span.norm.gain');
  const shift = get('span.norm.bias');
  const output = get('span.output.kernel');
  const [constant] = get('span.output.bias');
  const project = (token: number, half: number) =>
    Array.from(
      { length: S },
      (_, s) => bias[half + s] + sum(outputs[token].map((v, h) => v * kernel[h * 2 * S + half + s])),
    );
  const starts = body.map((_, t) => project(first.length + t, 0));
  const ends = body.map((_, t) => project(first.length + t, S));
  const spans: Span[] = [];
  for (let start = 0; start < body.length; start++) {
    for (let end = start + 1; end <= Math.min(body.length, start + model.reader.maxSpanWidth); end++) {
      const x = starts[start].map((v, s) => Math.max(0, v + ends[end - 1][s]));
      const mean = sum(x) / S;
      const deviation = Math.sqrt(sum(x.map((v) => (v - mean) ** 2)) / S + model.reader.spanLayerNormEps);
      const score =
        constant + sum(x.map((v, s) => output[s] * (((v - mean) / deviation) * gain[s] + shift[s])));
      const pieces = body.slice(start, end).join();
      spans.push({
        block,
        start,
        end,
        score,
        correct: question.answerIds.some((ids) => ids.join() === pieces),
      });
    }
  }
  return spans;
}

/** What the reader scores for a question: all spans of the best three blocks, with their blocks' scores added. */
function reading(question: EncodedQuestion, readerTokens: number): Span[] {
  return ranking(question)
    .slice(0, 3)
    .flatMap(({ block, score }) =>
      spansOf(question, block, readerTokens).map((span) => ({ ...span, score: span.score + score })),
    );
}

// ------------------------------------------------------------------------------------------------------- tests

for (const readerTokens of [104, 52]) {
  test(`losses and metrics equal those computed span by span, ${readerTokens} tokens`, async () => {
    const found = { retriever: 0, reader: 0, hits: 0, retrieved: 0, read: 0 };
    for (const question of questions) {
      const ranked = ranking(question).slice(0, 12);
      const right = ranked.filter(({ block }) => holds(corpus.text(block), question.answers));
      if (right.length > 0) {
        found.retrieved++;
        found.retriever += logSumExp(ranked.map((r) => r.score)) - logSumExp(right.map((r) => r.score));
      }
      const spans = reading(question, readerTokens);
      const correct = spans.filter((span) => span.correct);
      if (correct.length > 0) {
        found.read++;
        found.reader += logSumExp(spans.map((s) => s.score)) - logSumExp(correct.map((s) => s.score));
      }
      if (spans.filter(isWhole).reduce((a, b) => (b.score > a.score ? b : a)).correct) found.hits++;
    }
    assert.deepEqual([found.retrieved, found.read], [3, 1]);
    const { metrics, gradients } = await step(vary({ readerTokens }));
    tf.dispose(gradients);
    const close = (name: string, wanted: number) =>
      assert.ok(
        Math.abs(metrics[name] - wanted) <= 1e-5 * Math.max(1, wanted),
        `${name}: ${metrics[name]}, ${wanted}`,
      );
    close('retrieverLoss', found.retriever / 4);
    close('readerLoss', found.reader / 4);
    close('loss', (found.retriever + found.reader) / 4);
    close('exactMatch', found.hits / 4);
    close('retrieved', found.retrieved / 4);
    close('read', found.read / 4);
  });
}

test('gold blocks are read and are positives for the retriever, hard negatives are negatives', async () => {
  const bm25 = await ensureBm25(join(folder, 'bm25'), corpus);
  const [question] = questions;
  const worst = ranking(question).at(-1)!.block;
  const [answer] = corpus.text(worst).match(/\p{L}{4,}/u)!;
  const [gold] = encodeQuestions(corpus, [
    { question: question.question, answers: [answer], passageId: corpus.documentId(worst) },
  ]);
  const run = async (changes: Partial<Config['qa']>) => {
    const settings = vary({ batch: 1, retrieverBlocks: 4, ...changes });
    const stage = qaStep(model, corpus, index, [gold], settings, { words: bm25 });
    const { metrics, gradients } = await stage.step(0);
    stage.dispose();
    tf.dispose(gradients);
    return metrics;
  };
  // By hand: the four best, the gold blocks and BM25's blocks.
  const has = answerFinder(corpus);
  const negatives = hardNegatives(corpus, [gold], 5, has, bm25)(gold);
  const scores = new Map(ranking(gold).map(({ block, score }) => [block, score]));
  const best = ranking(gold)
    .slice(0, 4)
    .map(({ block }) => block);
  const own = goldBlocks(corpus, [gold], has)(gold);
  const all = [...new Set([...best, ...own, ...negatives])];
  const right = all.filter((block) => has(block, gold));
  assert.ok(own.includes(worst) && all.length > best.length + own.length);
  const of = (blocks: number[]) => logSumExp(blocks.map((block) => scores.get(block)!));
  const { retrieverLoss, retrieved, read } = await run({ gold: true, hardNegatives: 5 });
  assert.ok(Math.abs(retrieverLoss - (of(all) - of(right))) < 1e-5 * Math.max(1, retrieverLoss));
  assert.deepEqual([retrieved, read], [1, 1]);
  bm25.close();
});

test('distillation compares the retriever with what the reader finds, span by span', async () => {
  // A word in several blocks that are read.
  const [first] = questions;
  const read = ranking(first).slice(0, 3);
  const spans = read.map(({ block }) => spansOf(first, block, config.qa.readerTokens));
  const mass = spans.map((own) => sum(own.filter((s) => s.correct).map((s) => Math.exp(s.score))));
  assert.ok(mass.filter((m) => m > 0).length > 1, 'the answer is in several blocks');
  const retriever = read.map(({ score }) => score - logSumExp(read.map((r) => r.score)));
  const divergence = sum(
    mass.map((m, r) => (m === 0 ? 0 : (m / sum(mass)) * (Math.log(m / sum(mass)) - retriever[r]))),
  );
  const plain = await step(config);
  const { metrics, gradients } = await step(vary({ distillation: 2 }));
  // The other three questions have no answer that the reader can find.
  assert.ok(Math.abs(metrics.distillationLoss - divergence / 4) < 1e-5, `${divergence / 4}`);
  assert.ok(Math.abs(metrics.loss - plain.metrics.loss - divergence / 2) < 1e-5 * metrics.loss);
  assert.equal(plain.metrics.distillationLoss, undefined);
  // The reader learns nothing from it; the retriever does.
  for (const [name, gradient] of Object.entries(gradients)) {
    if (isTower({ name })) continue;
    assert.deepEqual([...gradient.dataSync()], [...plain.gradients[name].dataSync()], name);
  }
  // With all blocks, so that the loss stays the same function when the query moves.
  const all = vary({ distillation: 2, retrieverBlocks: 42, readerBlocks: 42 });
  const every = await step(all);
  const towers = Object.entries(every.gradients).filter(([name]) => isTower({ name }));
  await assertSlope(model, Object.fromEntries(towers), async () => {
    const { metrics, gradients } = await step(all);
    tf.dispose(gradients);
    return metrics.loss;
  });
  tf.dispose(every.gradients);
  tf.dispose([plain.gradients, gradients]);
});

/** Whether a span consists of whole words. */
function isWhole({ block, start, end }: Span): boolean {
  const body = corpus.bodyIds(block);
  const continues = (token: number) =>
    token < body.length && corpus.tokenizer.vocabulary[body[token]].startsWith('##');
  return !continues(start) && !continues(end);
}

test('answers are the best spans of whole words in the blocks read, with their probabilities', async () => {
  const answered = await answerQuestions({ model, corpus, index, config }, questions, 5);
  let torn = 0;
  questions.forEach((question, i) => {
    const ranked = ranking(question);
    assert.deepEqual(
      answered[i].retrieved,
      ranked.slice(0, 5).map((r) => r.block),
    );
    const every = reading(question, config.qa.readerTokens);
    const spans = every.filter(isWhole);
    torn += every.length - spans.length;
    const all = logSumExp(spans.map((s) => s.score));
    const prior = logSumExp(ranked.slice(0, 3).map((r) => r.score));
    const best = ranked
      .slice(0, 3)
      .map(({ block, score }) => {
        const own = spans.filter((s) => s.block === block);
        const span = own.reduce((a, b) => (b.score > a.score ? b : a));
        return { ...span, prior: score - prior, likelihood: span.score - logSumExp(own.map((s) => s.score)) };
      })
      .sort((a, b) => b.score - a.score);
    best.forEach((span, rank) => {
      const answer = answered[i].answers[rank];
      assert.equal(answer.block, span.block);
      const close = (a: number, log: number) => assert.ok(Math.abs(a - Math.exp(log)) < 1e-5, `${a}`);
      close(answer.probability, span.score - all);
      close(answer.prior, span.prior);
      close(answer.likelihood, span.likelihood);
      // The answer's original text, tokenised again, equals the span.
      const pieces = corpus.bodyIds(span.block).subarray(span.start, span.end);
      assert.equal(answer.text, corpus.text(span.block).slice(answer.start, answer.end));
      const decoded = corpus.tokenizer.decode(pieces);
      assert.equal(answer.text.toLowerCase().replaceAll(/\W/g, ''), decoded.replaceAll(/\W/g, ''));
    });
  });
  assert.ok(torn > 1000);
});

test('if a block is truncated within a word, the answer does not end there', async () => {
  // The block is truncated after every token in turn; most of these positions are within a word.
  for (let readerTokens = 52; readerTokens < 72; readerTokens++) {
    const short = vary({ readerTokens, readerBlocks: 5 });
    const answered = await answerQuestions({ model, corpus, index, config: short }, questions, 5);
    for (const { block, start, end, text } of answered.flatMap(({ answers }) => answers)) {
      const around = corpus.text(block);
      assert.ok(text.length > 0 && text === around.slice(start, end));
      assert.doesNotMatch(around.slice(Math.max(0, start - 1), start + 1), /^[\p{L}\p{N}]{2}$/u);
      assert.doesNotMatch(around.slice(end - 1, end + 1), /^[\p{L}\p{N}]{2}$/u);
    }
  }
});

test("a word longer than the reader's widest span can still be the answer", async () => {
  const letters = [...'abcdefghijklmnopqrstuvwxyz'].flatMap((letter) => [letter, `##${letter}`]);
  const vocab = wordPiece([...SPECIAL_TOKENS, ...letters], true);
  const documents = join(folder, 'letters.jsonl');
  writeFileSync(documents, '{"text": "Talvorabenik saw Quenfelldrostan 2 Vellmarunosko"}\n');
  const dir = join(folder, 'letters');
  await prepare({ documents, vocab, blockTokens: 64, queryTokens: 40, dir });
  const own = openCorpus(dir);
  const narrow = tinyConfig('model.maxSpanWidth=2', 'qa.readerBlocks=1');
  const model = tinyModel(narrow, vocab.size);
  const one = {
    search: () => ({ blocks: Int32Array.of(0), scores: Float32Array.of(1), counts: Int32Array.of(1) }),
    vectors: () => new Float32Array(0),
  };
  const asked = encodeQuestions(own, [{ question: 'who', answers: [] }]);
  const [{ answers }] = await answerQuestions({ model, corpus: own, index: one, config: narrow }, asked, 1);
  // At most two letters fit; "2" is not in the vocabulary and so a word of one piece.
  assert.equal(answers[0].text, '2');
  const without = '{"text": "Talvorabenik saw Quenfelldrostan"}\n';
  writeFileSync(documents, without);
  await prepare({ documents, vocab, blockTokens: 64, queryTokens: 40, dir });
  const other = openCorpus(dir);
  const [{ answers: long }] = await answerQuestions(
    { model, corpus: other, index: one, config: narrow },
    asked,
    1,
  );
  assert.ok(['Talvorabenik', 'saw', 'Quenfelldrostan'].includes(long[0].text), long[0].text);
  for (const open of [own, other]) open.close();
  disposeModel(model);
});

test('the gradients match the slope of the loss, and following them lowers it', async () => {
  const { gradients } = await step(config);
  const loss = async () => {
    const { metrics, gradients } = await step(config);
    tf.dispose(gradients);
    return metrics.loss;
  };
  await assertSlope(model, gradients, loss);
  tf.dispose(gradients);
  const own = tinyModel(config, corpus.tokenizer.size);
  // All blocks, so that the loss stays the same function when the query moves.
  const stage = qaStep(own, corpus, index, questions, vary({ retrieverBlocks: 42, readerBlocks: 42 }));
  const losses = await descend(own, () => stage.step(0), 8, 0.1);
  assert.ok(losses.at(-1)! < 0.8 * losses[0], losses.join());
});

for (const sharedTowers of [true, false]) {
  test(`the document tower is trained through the blocks read, ${sharedTowers ? 'shared tower' : 'separate tower'}`, async () => {
    const settings = {
      ...vary({ refreshEvery: 1 }),
      model: { ...config.model, sharedTowers },
    };
    const own = tinyModel(settings, corpus.tokenizer.size);
    const root = join(folder, `towers-${sharedTowers}`);
    await makeIndex(root, 'index', { model: own, corpus, config: settings, step: 0 });
    const index = openIndex(currentIndex(root)!, { efSearch: 128 });
    const step = async (settings: Config) => {
      const stage = qaStep(own, corpus, index, questions, settings);
      const result = await stage.step(0);
      stage.dispose();
      return result;
    };
    const trained = await step(settings);
    const resting = await step({ ...settings, qa: { ...settings.qa, refreshEvery: null } });
    for (const [name, value] of Object.entries(resting.metrics))
      assert.ok(Math.abs(trained.metrics[name] - value) < 1e-5, `${name} is the same while the index is new`);
    const names = qaShapes(own, true).map(({ name }) => name);
    assert.deepEqual(Object.keys(trained.gradients).sort(), [...names].sort());
    assert.equal(
      names.length - qaShapes(own).length,
      sharedTowers ? 0 : qaShapes(own).filter(isTower).length,
    );

    const tower = Object.entries(trained.gradients).filter(([name]) => name.startsWith(own.documentTower));
    await assertSlope(own, Object.fromEntries(tower), async () => {
      const { metrics, gradients } = await step(settings);
      tf.dispose(gradients);
      return metrics.loss;
    });

    // The tower has changed since the index was made: only the blocks read are scored with its current vectors.
    const other = tinyModel(settings, corpus.tokenizer.size, 2);
    for (const [name, weight] of own.params)
      if (name.startsWith(own.documentTower)) weight.assign(other.params.get(name)!);
    const q = vector(asked(questions[0]), asked(questions[0]).length, own);
    const { blocks } = index.search(Float32Array.from(q), 12);
    const { cls, sep } = corpus.tokenizer;
    const scores = [...blocks].map((block, rank) => {
      const title = [...corpus.titleIds(block)];
      const ids = [cls, ...title, sep, ...corpus.bodyIds(block), sep];
      const now = () => vector(ids, title.length + 2, own, own.documentTower);
      const z = rank < 3 ? now() : [...index.vectors(Int32Array.of(block))];
      return sum(z.map((value, d) => value * q[d])) / 2;
    });
    const answer = corpus.text(blocks[1]).match(/\p{L}{6,}/u)![0];
    const [question] = encodeQuestions(corpus, [{ ...questions[0], answers: [answer] }]);
    const right = scores.filter((_, i) => holds(corpus.text(blocks[i]), question.answers));
    assert.ok(right.length < 12, answer);
    const one = qaStep(own, corpus, index, [question], { ...settings, qa: { ...settings.qa, batch: 1 } });
    const { metrics, gradients } = await one.step(0);
    one.dispose();
    const wanted = logSumExp(scores) - logSumExp(right);
    assert.ok(Math.abs(metrics.retrieverLoss - wanted) < 1e-5 * Math.max(1, wanted), `${wanted}`);
    tf.dispose([gradients, trained.gradients, resting.gradients]);
    for (const m of [own, other]) disposeModel(m);
    index.close();
  });
}

const isTower = ({ name }: { name: string }) => /^(embedder|queryEmbedder)\./.test(name);

test('the query tower and the reader are trained, the document tower and unused heads are not', async () => {
  const names = (settings: Config) => qaShapes(describeModel(settings.model, 300)).map(({ name }) => name);
  const parts = (list: string[]) => [...new Set(list.map((name) => name.replace(/\..*/, '')))];
  const shared = names(config);
  assert.deepEqual(parts(shared), ['embedder', 'reader', 'span']);
  assert.deepEqual(parts(names(tinyConfig('model.sharedTowers=false'))), ['queryEmbedder', 'reader', 'span']);
  assert.ok(shared.includes('embedder.projection.kernel') && shared.includes('embedder.pooler.kernel'));
  assert.ok(!shared.some((name) => name.startsWith('reader.mlm.') || name.startsWith('reader.pooler.')));
  const { gradients } = await step(config);
  assert.deepEqual(Object.keys(gradients).sort(), [...shared].sort(), 'each of them gets a gradient');
  tf.dispose(gradients);
});

test('loss and gradients in several passes equal those of one pass', async () => {
  const whole = await step(config);
  for (const microBatch of [1, 3]) {
    const parts = await step(vary({ microBatch }));
    assertSameStep(parts, whole, 1e-5);
    tf.dispose(parts.gradients);
  }
  tf.dispose(whole.gradients);
});

test('only a question with an answer in its blocks is read', async () => {
  const chosen = questions.map((question) => {
    const blocks = ranking(question).map(({ block }) => block);
    return { question, blocks: blocks.slice(0, 12) };
  });
  const source = { model, corpus, index, config, hasAnswer: answerFinder(corpus) } as QaSource;
  const batch = scored(source, chosen, true);
  assert.equal(batch.read!.reading.input.sequences, 3);
  assert.deepEqual(batch.read!.questions.arraySync(), [[1, 0, 0, 0]]);
  disposeQaBatch(batch);

  // The answer is nowhere: nothing is read, and the reader's gradient is 0.
  const stage = qaStep(model, corpus, index, [questions[2]], vary({ batch: 1, distillation: 1 }));
  const { metrics, gradients } = await stage.step(0);
  stage.dispose();
  assert.deepEqual(metrics, {
    loss: 0,
    retrieverLoss: 0,
    retrieved: 0,
    readerLoss: 0,
    exactMatch: 0,
    read: 0,
    distillationLoss: 0,
  });
  for (const { name, shape } of qaShapes(model)) {
    assert.deepEqual(gradients[name].shape, shape, name);
    assert.ok(
      gradients[name].dataSync().every((value) => value === 0),
      name,
    );
  }
  tf.dispose(gradients);
});

test('the learning rate of the retriever is that of both its towers, and of nothing else', () => {
  for (const shared of [true, false]) {
    const settings = tinyConfig(
      `model.sharedTowers=${shared}`,
      'qa.retrieverLearningRate=2e-5',
      'qa.optimizer.learningRate=1e-4',
    );
    const own = describeModel(settings.model, 300);
    const factorOf = qaRateFactor(own, settings.qa);
    for (const { name } of qaShapes(own, true))
      assert.equal(factorOf(name), /^(reader|span)\./.test(name) ? 1 : 0.2, name);
    assert.equal(qaRateFactor(own, { ...settings.qa, retrieverLearningRate: null })(own.queryTower), 1);
  }
});

test('with dropout, repeating a step gives the same result', async () => {
  const noisy = { ...config, model: { ...config.model, dropout: 0.2 } };
  const stage = qaStep(model, corpus, index, questions, noisy);
  tf.dispose((await stage.step(0)).gradients);
  const later = await stage.step(1);
  stage.dispose();
  const first = await step(noisy, 1);
  assertSameStep(first, later, 0);
  tf.dispose([later.gradients, first.gradients]);
});

test('fifty steps leak no tensor', async () => {
  const many = encodeQuestions(corpus, world.train);
  const noisy = { ...vary({ batch: 2, refreshEvery: 1 }), model: { ...config.model, dropout: 0.1 } };
  const empty = tf.memory().numTensors;
  const stage = qaStep(model, corpus, index, many, noisy);
  tf.dispose((await stage.step(0)).gradients);
  const held = tf.memory().numTensors;
  for (let n = 1; n <= 50; n++) tf.dispose((await stage.step(n)).gradients);
  assert.equal(tf.memory().numTensors, held);
  stage.dispose();
  assert.equal(tf.memory().numTensors, empty);
});

test('answering leaks no tensor', async () => {
  const before = tf.memory().numTensors;
  await answerQuestions({ model, corpus, index, config }, questions, 5);
  assert.equal(tf.memory().numTensors, before);
});

test('questions are tokenised once, and answers without word pieces are left out', () => {
  const [encoded] = encodeQuestions(corpus, [{ question: 'Who?', answers: ['the', ' '] }]);
  assert.deepEqual(encoded.ids, corpus.tokenizer.encode('who ?').ids);
  assert.deepEqual(encoded.answers, ['the', ' ']);
  assert.deepEqual(encoded.answerIds, [corpus.tokenizer.encode('the').ids]);
});

test('regular expressions that match the answers give the same step as the answers', async () => {
  const escaped = (answer: string) => `\\b${answer.replace(/[^\p{L}\p{N} ]/gu, '.')}\\b`;
  const asExpressions = encodeQuestions(
    corpus,
    cases().map((q) => ({ ...q, answers: [q.answers.map(escaped).join('|')], answerKind: 'regex' as const })),
  );
  const settings = vary({ batch: 4, microBatch: 4 });
  const metrics = async (asked: typeof questions) => {
    const stage = qaStep(model, corpus, index, asked, settings);
    const result = await stage.step(0);
    stage.dispose();
    tf.dispose(result.gradients);
    return result.metrics;
  };
  assert.deepEqual(await metrics(asExpressions), await metrics(questions));
});
