import assert from 'node:assert/strict';
import { test } from 'node:test';
import { loadConfig } from '../../src/config.ts';
import {
  type Encoder,
  fitToHours,
  isTooSlow,
  type Proposal,
  propose,
  type Setting,
  type Survey,
  sizeOf,
} from '../../src/init/proposal.ts';
import type { Head } from '../../src/model/head.ts';

const FILES = { documents: '/d', train: '/t', dev: '/v', test: null };
const FAST = { ict: 1e-4, readerWarmup: 1e-4, pretrain: 1e-4, qa: 1e-4, index: 1e-3, beside: 0 };

function survey(documents: number, more: Partial<Survey> = {}): Survey {
  return {
    documents,
    tokens: 200 * documents,
    trainQuestions: 3 * documents,
    devQuestions: documents,
    questionsNameDocuments: false,
    spans: true,
    gpu: false,
    ...more,
  };
}

const ENCODER: Encoder = {
  name: '/encoder',
  layers: 6,
  hidden: 384,
  heads: 12,
  intermediate: 1536,
  positions: 512,
  gelu: 'exact',
  fillsMasks: true,
};
/** Of cosines, without a head for masks, as all-MiniLM-L6-v2. */
const SENTENCE_ENCODER: Encoder = {
  ...ENCODER,
  head: { pooling: 'mean', projection: 'none', normalize: true },
  fillsMasks: false,
};

const named = (settings: readonly Setting[], path: string) =>
  settings.find((setting) => setting.path === path)?.value;
const configOf = (settings: readonly Setting[]) =>
  loadConfig(
    undefined,
    settings.map(({ path, value }) => `${path}=${JSON.stringify(value)}`),
  );

test('the size depends on the documents, and a long one counts as several', () => {
  assert.deepEqual(
    [300, 3000, 30_000, 300_000, 30_000_000].map((documents) =>
      sizeOf({ documents, tokens: 150 * documents }),
    ),
    ['tiny', 'small', 'medium', 'large', 'large'],
  );
  assert.equal(sizeOf({ documents: 300, tokens: 300 * 900 }), 'tiny');
  assert.equal(sizeOf({ documents: 300, tokens: 300 * 130_000 }), 'medium');
});

test('every proposal is a valid configuration, names no setting twice, and has a reason for each', () => {
  for (const documents of [1, 300, 3000, 30_000, 300_000, 21_000_000])
    for (const encoder of [
      undefined,
      ENCODER,
      { ...ENCODER, positions: 112 },
      { ...ENCODER, projection: 64 },
      SENTENCE_ENCODER,
    ])
      for (const gpu of [false, true])
        for (const trainQuestions of [0, 5, 100_000]) {
          const proposal = propose(survey(documents, { encoder, gpu, trainQuestions }), FILES);
          const { settings } = fitToHours(proposal, FAST, trainQuestions > 0);
          const paths = settings.map(({ path }) => path);
          assert.equal(new Set(paths).size, paths.length);
          assert.ok(settings.every(({ why }) => why.length > 5));
          const config = configOf(settings); // it checks that the lengths fit the encoder
          assert.equal(config.data.documents, '/d');
          assert.equal(config.model.initial, encoder ? '/encoder' : null);
        }
});

test('a larger corpus gets a larger model, vocabulary and more time; a GPU gets a larger model', () => {
  const of = (documents: number, more?: Partial<Survey>) => {
    const { settings, hours } = propose(survey(documents, more), FILES);
    return ['model.hidden', 'text.vocabularySize', 'index.kind']
      .map((path) => named(settings, path))
      .concat(hours);
  };
  assert.deepEqual(of(300), [128, 8000, 'exact', 0.75]);
  assert.deepEqual(of(3000), [128, 16_000, 'exact', 3]);
  assert.deepEqual(of(30_000), [256, 30_522, 'exact', 12]);
  assert.deepEqual(of(300_000), [256, 30_522, 'graph', 48]);
  assert.deepEqual(of(300, { gpu: true }), [384, 30_522, 'exact', 0.75]);
});

test("an encoder's sizes are used and its learning rates are low", () => {
  const { model, text, ict, qa } = configOf(propose(survey(300, { encoder: ENCODER }), FILES).settings);
  assert.deepEqual(
    [model.layers, model.hidden, model.heads, model.intermediate, model.positions, model.gelu],
    [6, 384, 12, 1536, 512, 'exact'],
  );
  assert.deepEqual([text.blockTokens, text.sentenceTokens, qa.readerTokens], [192, 64, 224]);
  assert.equal(ict.optimizer.learningRate, 5e-5);
  const short = configOf(propose(survey(300, { encoder: { ...ENCODER, positions: 112 } }), FILES).settings);
  assert.deepEqual(
    [short.text.blockTokens, short.text.sentenceTokens, short.text.questionTokens, short.qa.readerTokens],
    [84, 28, 28, 112],
  );
});

const STAGES = ['ict', 'readerWarmup', 'pretrain', 'qa'] as const;
const stepsOf = ({ settings }: Proposal) => STAGES.map((stage) => named(settings, `${stage}.steps`) ?? 0);
const PACE = { ict: 2, readerWarmup: 0.5, pretrain: 1, qa: 1, index: 1, beside: 0 };

test('a sentence encoder gets neither the inverse cloze task nor pretraining: its reader is warmed up, then fine-tuned', () => {
  const fitted = (encoder: Encoder, trainQuestions = 90_000) =>
    fitToHours(propose(survey(30_000, { encoder, trainQuestions }), FILES, 1), PACE, trainQuestions > 0);
  // An hour of steps of a second (two in the inverse cloze task): shares of 0.45, 0.3 and 0.25, rounded down to two digits.
  assert.deepEqual(stepsOf(fitted(ENCODER)), [810, 0, 1000, 900]);
  // 600 steps of half a second leave 3,300 s to fine-tuning.
  assert.deepEqual(stepsOf(fitted(SENTENCE_ENCODER)), [0, 600, 0, 3300]);
  const ict = fitted(SENTENCE_ENCODER).settings.filter(({ path }) => path.startsWith('ict.'));
  assert.deepEqual(
    ict.map(({ path }) => path),
    ['ict.steps'],
  );
  // Without questions pretraining is all that can follow.
  assert.deepEqual(stepsOf(fitted(SENTENCE_ENCODER, 0)).slice(0, 3), [0, 600, 3300]);
  // Where it has BERT's head, there is nothing to warm up.
  assert.deepEqual(stepsOf(fitted({ ...SENTENCE_ENCODER, fillsMasks: true })), [0, 0, 0, 3600]);
  // A BERT that was saved without that head is warmed up, too: 3,300 s for the others.
  assert.deepEqual(stepsOf(fitted({ ...ENCODER, fillsMasks: false })), [740, 600, 990, 820]);
});

test('the warm-up of the reader gets 600 steps, fewer where they take more than a third of the time, none where too few are left', () => {
  const config = (hours: number, beside = 0) => {
    const proposal = propose(survey(30_000, { encoder: SENTENCE_ENCODER }), FILES, hours);
    const { settings } = fitToHours(proposal, { ...PACE, beside }, true);
    return { settings, ...configOf(settings) };
  };
  const { batch, microBatch, optimizer } = config(1).readerWarmup;
  assert.deepEqual(
    [batch, microBatch, optimizer.learningRate, optimizer.warmupSteps],
    [16, 16, 1.2e-4, 30], // as in configs/squad-encoder.yaml
  );
  const steps = (hours: number, beside = 0) => config(hours, beside).readerWarmup.steps;
  // A third of 600 s are 400 steps of half a second, of 180 s 120, of 100 s 66.
  assert.deepEqual(
    [steps(1), steps(0.25), steps(1 / 6), steps(0.05), steps(1 / 36)],
    [600, 600, 400, 120, 0],
  );
  assert.equal(steps(1, 3000), 400, 'what is done outside steps leaves 600 s');
  const short = config(1 / 6);
  assert.equal(short.readerWarmup.optimizer.warmupSteps, 20);
  assert.equal(short.qa.steps, 400);
  assert.equal(short.qa.optimizer.warmupSteps, 40);
  const why = (hours: number) =>
    config(hours).settings.find(({ path }) => path === 'readerWarmup.steps')!.why;
  assert.match(why(1), /cannot fill masks.*copy them from a block/);
  assert.match(why(1 / 36), /more than a third of the hours; set 600 if you have the time/);
});

test('documents without a name or a date leave nothing to mask: no warm-up of the reader and no pretraining', () => {
  for (const encoder of [undefined, ENCODER, SENTENCE_ENCODER]) {
    const [, readerWarmup, pretrain] = stepsOf(
      fitToHours(propose(survey(300, { encoder, spans: false }), FILES), FAST, true),
    );
    assert.deepEqual([readerWarmup, pretrain], [0, 0]);
  }
});

test("the user's own steps are not limited, and the time that they take is not given away", () => {
  const proposal = propose(survey(30_000, { encoder: SENTENCE_ENCODER }), FILES, 1);
  const own = (path: string, value: number): Setting => ({ path, value, why: 'your own', own: true });
  const settings = proposal.settings.map((one) =>
    one.path === 'readerWarmup.steps' ? own(one.path, 4000) : one,
  );
  const fitted = fitToHours(
    { ...proposal, settings: [...settings, own('qa.optimizer.warmupSteps', 7)] },
    PACE,
    true,
  );
  assert.deepEqual(stepsOf(fitted), [0, 4000, 0, 1600]);
  const of = (path: string) => fitted.settings.filter((one) => one.path === path).map(({ value }) => value);
  assert.deepEqual(of('qa.optimizer.warmupSteps'), [7]);
  assert.deepEqual(of('readerWarmup.optimizer.warmupSteps'), [], 'the default suits so many steps');
});

test('a sentence encoder of cosines is fine-tuned by contrast, with hybrid retrieval; others as in ORQA', () => {
  const settingsOf = (head?: Head) => {
    const { qa, hybrid } = configOf(
      propose(survey(30_000, { encoder: { ...ENCODER, head } }), FILES).settings,
    );
    return [hybrid.weight, qa.contrastive, qa.minedNegatives, qa.refreshEvery, qa.retrieverLearningRate];
  };
  const head = { pooling: 'mean', projection: 'none' } as const;
  assert.deepEqual(settingsOf({ ...head, normalize: true }), [0.5, 1, 1, 1_000_000, 3e-5]);
  for (const other of [undefined, { ...head, normalize: false }])
    assert.deepEqual(settingsOf(other), [null, 0, 0, null, null]);
});

test('gold blocks are read if the questions name their documents', () => {
  const gold = (questionsNameDocuments: boolean) =>
    configOf(propose(survey(300, { questionsNameDocuments }), FILES).settings).qa.gold;
  assert.deepEqual([gold(true), gold(false)], [true, false]);
});

test('steps are limited to what the hours allow, in fixed shares, and never below 20', () => {
  const proposal = propose(survey(300), FILES, 1);
  const steps = (pace: Partial<typeof FAST>, questions = true) => {
    const { ict, pretrain, qa } = configOf(fitToHours(proposal, { ...FAST, ...pace }, questions).settings);
    return [ict.steps, pretrain.steps, qa.steps];
  };
  const most = steps({});
  assert.ok(
    most.every((n) => n >= 1000),
    `${most}`,
  );
  // 45 % of 3,600 s at 2 s a step are 810 steps, 30 % are 540, 25 % are 450.
  assert.deepEqual(steps({ ict: 2, pretrain: 2, qa: 2 }), [810, 540, 450]);
  // Without questions their share goes to the other two: 1,080 of 2,160 s, and so on.
  assert.deepEqual(steps({ ict: 2, pretrain: 2 }, false).slice(0, 2), [1000, 720]);
  assert.deepEqual(steps({ ict: 1e4, pretrain: 1e4, qa: 1e4 }), [20, 20, 20]);
});

test('the index is refreshed five times, less often if a refresh is slow, and never if it is too slow', () => {
  const proposal = propose(survey(300), FILES, 1);
  const refresh = (index: number) => {
    const { refresh, pretrain } = configOf(
      fitToHours(proposal, { ...FAST, pretrain: 1.07, index }, true).settings,
    );
    assert.equal(pretrain.steps, 1000);
    return refresh.mode === 'off' ? 'off' : refresh.every;
  };
  assert.equal(refresh(1), 200);
  assert.equal(refresh(81), 300);
  assert.equal(refresh(200), 'off');
});

test('if the machine is too slow for the model, the smallest one is proposed', () => {
  const slow = { ...FAST, ict: 10, pretrain: 10, qa: 10, index: 1 };
  const fitted = (more: Partial<Survey>, pace: typeof slow) =>
    fitToHours(propose(survey(30_000, more), FILES), pace, true);
  assert.equal(isTooSlow(fitted({}, slow)), true);
  assert.equal(isTooSlow(fitted({}, FAST)), false);
  const smaller = fitted({ slow: true }, slow);
  assert.deepEqual(
    [named(smaller.settings, 'model.layers'), named(smaller.settings, 'model.hidden')],
    [2, 128],
  );
  assert.equal(isTooSlow(smaller), false, 'there is none smaller');
  assert.equal(isTooSlow(fitted({ encoder: ENCODER }, slow)), false, 'an encoder has its own size');
});
