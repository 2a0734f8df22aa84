import type { Head } from '../model/head.ts';

// Settings for a user's own data: sizes of the data and of the machine in, settings with a reason each out. Nothing here
// reads a file or measures anything.

/** What the settings are proposed for. */
export interface Survey {
  documents: number;
  /** Word pieces of all documents, estimated. */
  tokens: number;
  /** Questions to train on, and held out from them. */
  trainQuestions: number;
  devQuestions: number;
  /** True when most questions name the document that answers them. */
  questionsNameDocuments: boolean;
  /** True when the engine computes on a graphics card. */
  gpu: boolean;
  /** The encoder to start from; undefined: random weights. */
  encoder?: Encoder;
  /** True when the model of this size would get too few steps, by `isTooSlow`: then it is the smallest. */
  slow?: boolean;
}

/** The sizes of a pretrained encoder. */
export interface Encoder {
  /** Its folder, or its name on the Hub. */
  name: string;
  layers: number;
  hidden: number;
  heads: number;
  intermediate: number;
  positions: number;
  gelu: 'exact' | 'tanh';
  /** Length of its retrieval vectors, if it is a REALM's. */
  projection?: number;
  /** How it makes one vector of a text, if it is a sentence encoder. */
  head?: Head;
  lowercase: boolean;
}

/** Where the user's files are; null where there is none. */
export interface Files {
  documents: string;
  train: string | null;
  dev: string | null;
  test: string | null;
}

export interface Setting {
  /** As in --set: `section.name` or `section.group.name`. */
  path: string;
  value: string | number | boolean | null;
  why: string;
}

export type Size = 'tiny' | 'small' | 'medium' | 'large';

export interface Proposal {
  size: Size;
  /** Hours that all stages together should take at most. */
  hours: number;
  settings: Setting[];
}

/**
 * Sizes by documents, of about 1,000 word pieces each: long ones count for several. `vocabulary`: word pieces trained on
 * the documents. `hours`: what training is worth, since a larger corpus has more to learn.
 */
const SIZES: {
  size: Size;
  below: number;
  hours: number;
  layers: number;
  hidden: number;
  vocabulary: number;
}[] = [
  { size: 'tiny', below: 1000, hours: 0.75, layers: 2, hidden: 128, vocabulary: 8000 },
  { size: 'small', below: 10_000, hours: 3, layers: 2, hidden: 128, vocabulary: 16_000 },
  { size: 'medium', below: 100_000, hours: 12, layers: 4, hidden: 256, vocabulary: 30_522 },
  { size: 'large', below: Infinity, hours: 48, layers: 4, hidden: 256, vocabulary: 30_522 },
];
/** What a graphics card computes as fast as two cores do the sizes above. */
const GPU_SIZE = { layers: 6, hidden: 384, vocabulary: 30_522 };

/** Numbers of a head: BERT's. */
const HEAD = 64;
/** Word pieces of a block, a masked sentence and a question, where the encoder takes so long texts. */
const BLOCK = 192;
const SENTENCE = 64;
const QUESTION = 40;
/** Word pieces of a block besides its title, about. */
const BODY = 150;

/** Layers and width of a model from random weights. */
function modelOf({ documents, tokens, gpu, slow }: Survey): { layers: number; hidden: number } {
  if (slow) return SIZES[0];
  return gpu ? GPU_SIZE : sized(documents, tokens);
}

export function sizeOf({ documents, tokens }: Pick<Survey, 'documents' | 'tokens'>): Size {
  return sized(documents, tokens).size;
}

function sized(documents: number, tokens: number) {
  const units = Math.max(documents, tokens / 1000);
  return SIZES.find(({ below }) => units < below)!;
}

/** @param hours that all stages together should take at most; undefined: by the size of the corpus */
export function propose(survey: Survey, files: Files, hours?: number): Proposal {
  const { documents, tokens, encoder } = survey;
  const preset = sized(documents, tokens);
  return {
    size: preset.size,
    hours: hours ?? preset.hours,
    settings: [
      ...dataSettings(files),
      ...textSettings(survey, preset.vocabulary),
      ...(encoder ? encoderSettings(encoder) : randomSettings(modelOf(survey))),
      ...trainingSettings(survey),
    ],
  };
}

function dataSettings({ documents, train, dev, test }: Files): Setting[] {
  return [
    { path: 'data.documents', value: documents, why: 'your documents' },
    ...(train === null ? [] : [{ path: 'data.train', value: train, why: 'questions to train on' }]),
    ...(dev === null
      ? []
      : [
          {
            path: 'data.dev',
            value: dev,
            why: 'questions that training does not see; they choose the best checkpoint',
          },
        ]),
    ...(test === null
      ? []
      : [{ path: 'data.test', value: test, why: 'questions for the final measurement alone' }]),
  ];
}

/** Longest texts, word pieces, that an encoder of so many positions can take. */
function lengths(encoder: Encoder | undefined) {
  const positions = encoder?.positions ?? BLOCK + SENTENCE;
  const longest = encoder?.head?.sequenceTokens ?? positions;
  const sentence = Math.min(SENTENCE, Math.floor(positions / 4));
  const block = Math.min(BLOCK, positions - sentence, longest);
  return {
    sentence,
    block,
    question: Math.min(QUESTION, Math.floor(positions / 4)),
    // ORQA leaves 32 word pieces beside a whole block for the question; of a longer one the block's end is not read.
    reader: Math.min(block + 32, positions),
  };
}

function textSettings({ gpu, encoder }: Survey, vocabulary: number): Setting[] {
  const { sentence, block, question } = lengths(encoder);
  return [
    ...(encoder
      ? [{ path: 'text.lowercase', value: encoder.lowercase, why: "as the encoder's vocabulary was made" }]
      : [
          {
            path: 'text.vocabularySize',
            value: gpu ? GPU_SIZE.vocabulary : vocabulary,
            why: 'word pieces of the vocabulary made from your documents; rarer words are split',
          },
        ]),
    {
      path: 'text.blockTokens',
      value: block,
      why: 'documents are split into blocks of this many word pieces at most',
    },
    { path: 'text.sentenceTokens', value: sentence, why: 'longest sentence of pretraining, word pieces' },
    {
      path: 'text.questionTokens',
      value: question,
      why: 'longest question, word pieces; the rest is not read',
    },
  ];
}

/** Length of a retrieval vector, as in the paper. */
const PROJECTION = 128;
const TEMPERATURE: Setting = {
  path: 'model.temperature',
  value: 11.3,
  why: 'square root of 128, the length of a vector: without it the best block takes all of the probability',
};
const VECTOR_NORM: Setting = {
  path: 'model.projectionLayerNormEps',
  value: 1e-12,
  why: 'vectors of a new projection differ little; a larger value would level them',
};

function encoderSettings({
  name,
  layers,
  hidden,
  heads,
  intermediate,
  positions,
  gelu,
  projection,
  head,
}: Encoder): Setting[] {
  const its = "the encoder's own";
  return [
    { path: 'model.initial', value: name, why: 'the pretrained encoder to start from' },
    { path: 'model.layers', value: layers, why: its },
    { path: 'model.hidden', value: hidden, why: its },
    { path: 'model.heads', value: heads, why: its },
    { path: 'model.intermediate', value: intermediate, why: its },
    { path: 'model.positions', value: positions, why: `${its}: its longest text` },
    { path: 'model.gelu', value: gelu, why: its },
    ...(head ? headSettings(head) : []),
    ...(projection === undefined
      ? head
        ? []
        : [TEMPERATURE, VECTOR_NORM]
      : [
          { path: 'model.projection', value: projection, why: `${its}: length of a retrieval vector` },
          { path: 'model.projectionLayerNormEps', value: 1e-12, why: its },
        ]),
  ];
}

/** Temperature of cosines, which lie between -1 and 1: with 1 no block would get more probability than another. */
const COSINE_TEMPERATURE = 0.05;

/** `realm prepare` takes the head itself from the folder: only what it does not say is set here. */
function headSettings({ normalize }: Head): Setting[] {
  if (!normalize) return [];
  const why = 'of cosines: with 1 all blocks would get nearly the same probability';
  return [{ path: 'model.temperature', value: COSINE_TEMPERATURE, why }];
}

function randomSettings({ layers, hidden }: { layers: number; hidden: number }): Setting[] {
  return [
    { path: 'model.layers', value: layers, why: 'small, since it starts from random weights' },
    { path: 'model.hidden', value: hidden, why: 'numbers of a word piece within the model' },
    { path: 'model.heads', value: Math.max(4, hidden / HEAD), why: 'of attention' },
    { path: 'model.intermediate', value: 4 * hidden, why: "four times model.hidden, BERT's rule" },
    {
      path: 'model.positions',
      value: BLOCK + SENTENCE,
      why: 'the longest text: text.blockTokens and text.sentenceTokens',
    },
    {
      path: 'model.dropout',
      value: 0,
      why: 'vectors of random weights differ so little that dropout would hide it, and nothing would be learned',
    },
    { path: 'model.spanHidden', value: PROJECTION, why: 'size of the part that scores answers' },
    TEMPERATURE,
    VECTOR_NORM,
  ];
}

/** Blocks below which searching all of them is fast enough. */
const EXACT = 50_000;

function trainingSettings(survey: Survey): Setting[] {
  const { tokens, documents, trainQuestions, devQuestions, encoder, questionsNameDocuments } = survey;
  const blocks = Math.max(documents, tokens / BODY);
  const passes = encoder ? PASSES.encoder : PASSES.random;
  const rates = encoder ? RATES.encoder : RATES.random;
  const batch = blocks < 5000 ? 64 : 128;
  const small = encoder !== undefined || blocks < 5000;
  const pretrainBatch = small ? 8 : 16;
  const steps = (examples: number, of: number) => Math.max(1, Math.round(examples / of));
  const ict = steps(within(passes.blocks * blocks, passes.ict), batch);
  const pretrain = steps(within((passes.blocks * blocks) / 4, passes.pretrain), pretrainBatch);
  const qa = steps(within(passes.questions * trainQuestions, passes.qa), 8);
  return [
    {
      path: 'ict.steps',
      value: ict,
      why: 'inverse cloze task: the retriever learns to find the block of a sentence',
    },
    { path: 'ict.batch', value: batch, why: 'each sentence is told apart from this many blocks' },
    {
      path: 'ict.microBatch',
      value: encoder ? 16 : 64,
      why: 'of the batch at once; less takes less memory, and the result is the same',
    },
    ...(encoder
      ? []
      : [
          {
            path: 'ict.keepSentence',
            value: 0.5,
            why: 'how often the sentence stays in its block: a model without knowledge learns names only from words that both have',
          },
        ]),
    { path: 'ict.optimizer.learningRate', value: rates.ict, why: rates.why },
    {
      path: 'index.kind',
      value: blocks < EXACT ? 'exact' : 'graph',
      why:
        blocks < EXACT
          ? 'so few blocks are all compared, without a graph'
          : 'a graph finds the best of many blocks fast',
    },
    {
      path: 'pretrain.steps',
      value: pretrain,
      why: 'masked names and dates are predicted with the help of retrieved blocks',
    },
    { path: 'pretrain.batch', value: pretrainBatch, why: 'sentences of a step' },
    { path: 'pretrain.microBatch', value: pretrainBatch, why: 'of them at once; less takes less memory' },
    {
      path: 'pretrain.candidates',
      value: 5,
      why: 'blocks read for a sentence, the empty one counted; the paper has 8',
    },
    { path: 'pretrain.optimizer.learningRate', value: rates.pretrain, why: rates.why },
    { path: 'qa.steps', value: qa, why: 'the model learns to answer your questions' },
    { path: 'qa.batch', value: 8, why: 'questions of a step' },
    { path: 'qa.microBatch', value: 8, why: 'of them at once; less takes less memory' },
    {
      path: 'qa.readerTokens',
      value: lengths(encoder).reader,
      why: 'a question and a block together, word pieces',
    },
    { path: 'qa.retrieverBlocks', value: 100, why: "best blocks that are compared in the retriever's loss" },
    { path: 'qa.readerBlocks', value: 3, why: 'best blocks that are read for an answer; more are slower' },
    ...(questionsNameDocuments
      ? [
          {
            path: 'qa.gold',
            value: true,
            why: 'your questions name their documents, which are read in training too',
          },
        ]
      : []),
    {
      path: 'qa.devQuestions',
      value: Math.min(devQuestions, 100),
      why: 'of data.dev, answered at each checkpoint to find the best one',
    },
    { path: 'qa.optimizer.learningRate', value: rates.qa, why: rates.why },
  ];
}

/** How often blocks (inverse cloze task; a fourth of it in pretraining) and questions are seen, and examples at the least and at the most. */
const PASSES = {
  random: { blocks: 100, questions: 40, ict: [150_000, 6e6], pretrain: [20_000, 1.5e6], qa: [16_000, 1e6] },
  encoder: { blocks: 4, questions: 10, ict: [6400, 2e6], pretrain: [1200, 5e5], qa: [2400, 1e6] },
} as const;

/** Highest learning rates: those of configs/squad-open.yaml and world.yaml, and of configs/squad-encoder.yaml. */
const RATES = {
  random: { ict: 3e-4, pretrain: 2e-4, qa: 3e-4, why: 'for random weights; much higher and training fails' },
  encoder: { ict: 5e-5, pretrain: 1e-5, qa: 1e-4, why: "low, to keep the encoder's knowledge" },
} as const;

function within(value: number, [least, most]: readonly [number, number]): number {
  return Math.min(most, Math.max(least, value));
}

/** Seconds of one step of each stage, and of making an index. */
export interface Pace {
  ict: number;
  pretrain: number;
  qa: number;
  index: number;
}

/** What the hours are spent on. */
const SHARES = { ict: 0.45, pretrain: 0.3, qa: 0.25 };
/** Steps below which a stage does nothing of use. */
const LEAST_STEPS = 20;
/** How much longer an index takes beside a trainer that never rests: Linux gives it about a fourth. */
const BESIDE = 4;

/**
 * The proposal with no more steps than its hours allow at this pace, and the settings that follow from the steps: how
 * often the index is made and how often weights are saved.
 * @param questions false leaves the hours of fine-tuning to the other stages
 */
export function fitToHours({ size, hours, settings }: Proposal, pace: Pace, questions: boolean): Proposal {
  const all = questions ? 1 : SHARES.ict + SHARES.pretrain;
  const fitted = (stage: 'ict' | 'pretrain' | 'qa') => {
    const wanted = settings.find(({ path }) => path === `${stage}.steps`)!.value as number;
    const seconds = (3600 * hours * SHARES[stage]) / all;
    return Math.max(LEAST_STEPS, round(Math.min(wanted, seconds / pace[stage])));
  };
  const steps = { ict: fitted('ict'), pretrain: fitted('pretrain'), qa: fitted('qa') };
  // Four new indexes are as many as the short demo has; none where even one would take most of the stage.
  const least = (BESIDE * pace.index) / pace.pretrain;
  const every = round(Math.max(steps.pretrain / 5, least));
  const refresh: Setting[] =
    every > steps.pretrain / 2
      ? [
          {
            path: 'refresh.mode',
            value: 'off',
            why: 'a new index takes as long as half of pretraining; the first one stays',
          },
        ]
      : [
          {
            path: 'refresh.every',
            value: every,
            why: 'steps after which the index is made again from the newest weights',
          },
        ];
  return {
    size,
    hours,
    settings: [
      ...settings.map((setting) => {
        const [, stage] = /^(ict|pretrain|qa)\.steps$/.exec(setting.path) ?? [];
        return stage ? { ...setting, value: steps[stage as keyof typeof steps] } : setting;
      }),
      ...refresh,
      { path: 'train.logEvery', value: 10, why: 'steps between two lines of metrics' },
      {
        path: 'train.saveEvery',
        value: Math.max(LEAST_STEPS, round(Math.max(...Object.values(steps)) / 8)),
        why: 'steps between two checkpoints, from which a stopped stage resumes',
      },
    ],
  };
}

/** Steps of the inverse cloze task below which a model from random weights has learned next to nothing. */
const USEFUL_STEPS = 2000;

/** Whether the hours allow a model from random weights so few steps that a smaller one learns more. */
export function isTooSlow(fitted: Proposal): boolean {
  const value = (path: string) => fitted.settings.find((setting) => setting.path === path)?.value;
  return (
    value('model.initial') === undefined &&
    (value('model.hidden') as number) > SIZES[0].hidden &&
    (value('ict.steps') as number) < USEFUL_STEPS
  );
}

/** A number of steps with two digits. */
function round(steps: number): number {
  const n = Math.max(1, Math.floor(steps));
  const unit = 10 ** Math.max(0, Math.floor(Math.log10(n)) - 1);
  return Math.floor(n / unit) * unit;
}
