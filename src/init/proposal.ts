import type { Head } from '../model/head.ts';

// Proposes settings for a user's own data, each with its reason, from the sizes of the data and of the machine. Nothing here
// reads a file or measures anything.

/** What the settings are proposed for. */
export interface Survey {
  documents: number;
  /** Word pieces of all documents, estimated. */
  tokens: number;
  /** Questions to train on, and questions held out for measuring. */
  trainQuestions: number;
  devQuestions: number;
  /** True when most questions name the document that answers them. */
  questionsNameDocuments: boolean;
  /** True when the documents have names or dates to mask. */
  spans: boolean;
  /** True when the engine computes on a GPU. */
  gpu: boolean;
  /** The encoder to start from; undefined: random weights. */
  encoder?: Encoder;
  /** True when a model of this size would get too few steps (`isTooSlow`); the smallest one is proposed then. */
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
  /** Length of its retrieval vectors, if it is a REALM embedder. */
  projection?: number;
  /** How it makes one vector of a text, if it is a sentence encoder. */
  head?: Head;
  /** True when it comes with BERT's head, which predicts masked words. */
  fillsMasks: boolean;
}

/** Paths of the user's files; null if there is none. */
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
  /** True when the user has set it, so that nothing here may change it. */
  own?: boolean;
}

export type Size = 'tiny' | 'small' | 'medium' | 'large';

export interface Proposal {
  size: Size;
  /** Most hours that all stages together should take. */
  hours: number;
  settings: Setting[];
}

/**
 * Sizes by number of documents of about 1,000 word pieces each; longer ones count as several. `vocabulary`: word pieces
 * trained on the documents. `hours`: training time, more for a larger corpus because there is more to learn.
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
/** A GPU computes this size about as fast as two cores compute the sizes above. */
const GPU_SIZE = { layers: 6, hidden: 384, vocabulary: 30_522 };

/** BERT's. */
const HEAD_WIDTH = 64;
/** Longest block, masked sentence and question, if the encoder takes texts of this length. */
const BLOCK_TOKENS = 192;
const SENTENCE_TOKENS = 64;
const QUESTION_TOKENS = 40;
/** Of an average block without its title. */
const BODY_TOKENS = 150;

/** Layers and width of a model with random weights. */
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

/** @param hours most hours that all stages together should take; undefined: by the size of the corpus */
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
            why: 'questions that training does not see; used to choose the best checkpoint',
          },
        ]),
    ...(test === null
      ? []
      : [{ path: 'data.test', value: test, why: 'questions used only for the final measurement' }]),
  ];
}

/** Longest texts, in word pieces, that fit into the encoder's positions. */
function lengths(encoder: Encoder | undefined) {
  const positions = encoder?.positions ?? BLOCK_TOKENS + SENTENCE_TOKENS;
  const longest = encoder?.head?.sequenceTokens ?? positions;
  const sentence = Math.min(SENTENCE_TOKENS, Math.floor(positions / 4));
  const block = Math.min(BLOCK_TOKENS, positions - sentence, longest);
  return {
    sentence,
    block,
    question: Math.min(QUESTION_TOKENS, Math.floor(positions / 4)),
    // As in ORQA, a whole block leaves 32 word pieces for the question; with a longer question the block is truncated.
    reader: Math.min(block + 32, positions),
  };
}

function textSettings({ gpu, encoder }: Survey, vocabulary: number): Setting[] {
  const { sentence, block, question } = lengths(encoder);
  return [
    ...(encoder
      ? []
      : [
          {
            path: 'text.vocabularySize',
            value: gpu ? GPU_SIZE.vocabulary : vocabulary,
            why: 'size of the vocabulary made from your documents, in word pieces; rarer words are split',
          },
        ]),
    {
      path: 'text.blockTokens',
      value: block,
      why: 'documents are split into blocks of at most this many word pieces',
    },
    { path: 'text.sentenceTokens', value: sentence, why: 'longest sentence of pretraining, in word pieces' },
    {
      path: 'text.questionTokens',
      value: question,
      why: 'longest question, in word pieces; longer ones are truncated',
    },
  ];
}

/** Length of a retrieval vector, as in the paper. */
const PROJECTION = 128;
const TEMPERATURE: Setting = {
  path: 'model.temperature',
  value: 11.3,
  why: 'square root of 128, the length of a vector: without it the best block gets all of the probability',
};
const VECTOR_NORM: Setting = {
  path: 'model.projectionLayerNormEps',
  value: 1e-12,
  why: 'vectors of a new projection differ little; a larger value would make them equal',
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
  const fixed = 'as in the encoder';
  return [
    { path: 'model.initial', value: name, why: 'the pretrained encoder to start from' },
    { path: 'model.layers', value: layers, why: fixed },
    { path: 'model.hidden', value: hidden, why: fixed },
    { path: 'model.heads', value: heads, why: fixed },
    { path: 'model.intermediate', value: intermediate, why: fixed },
    { path: 'model.positions', value: positions, why: `${fixed}: its longest text` },
    { path: 'model.gelu', value: gelu, why: fixed },
    ...(head ? headSettings(head) : []),
    ...(projection === undefined
      ? head
        ? []
        : [TEMPERATURE, VECTOR_NORM]
      : [
          { path: 'model.projection', value: projection, why: `${fixed}: length of a retrieval vector` },
          { path: 'model.projectionLayerNormEps', value: 1e-12, why: fixed },
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
    { path: 'model.layers', value: layers, why: 'few, because the model starts from random weights' },
    { path: 'model.hidden', value: hidden, why: 'numbers for each word piece inside the model' },
    { path: 'model.heads', value: Math.max(4, hidden / HEAD_WIDTH), why: 'attention heads' },
    { path: 'model.intermediate', value: 4 * hidden, why: 'four times model.hidden, as in BERT' },
    {
      path: 'model.positions',
      value: BLOCK_TOKENS + SENTENCE_TOKENS,
      why: 'the longest text: text.blockTokens and text.sentenceTokens',
    },
    {
      path: 'model.dropout',
      value: 0,
      why: 'with random weights vectors differ so little that dropout would hide the differences, and nothing would be learned',
    },
    { path: 'model.spanHidden', value: PROJECTION, why: 'size of the part that scores answers' },
    TEMPERATURE,
    VECTOR_NORM,
  ];
}

/** With fewer blocks an exact search is fast enough. */
const MAX_EXACT_BLOCKS = 50_000;

function trainingSettings(survey: Survey): Setting[] {
  const { tokens, documents, trainQuestions, devQuestions, encoder, questionsNameDocuments, spans } = survey;
  const blocks = Math.max(documents, tokens / BODY_TOKENS);
  const passes = encoder ? PASSES.encoder : PASSES.random;
  const learningRates = encoder ? LEARNING_RATES.encoder : LEARNING_RATES.random;
  const batch = blocks < 5000 ? 64 : 128;
  const small = encoder !== undefined || blocks < 5000;
  const pretrainBatch = small ? 8 : 16;
  const steps = (examples: number, batch: number) => Math.max(1, Math.round(examples / batch));
  const ict = steps(within(passes.blocks * blocks, passes.ict), batch);
  const pretrain = steps(within((passes.blocks * blocks) / 4, passes.pretrain), pretrainBatch);
  // A sentence encoder of cosines, for which the contrastive recipe of configs/squad-encoder.yaml is made.
  const retrieves = encoder?.head?.normalize === true;
  const qaBatch = retrieves ? 24 : 8;
  const qa = steps(within(passes.questions * trainQuestions, passes.qa), qaBatch);
  const warmUp: Setting[] = [
    {
      path: 'ict.steps',
      value: ict,
      why: 'inverse cloze task: the retriever learns to find the block of a sentence',
    },
    { path: 'ict.batch', value: batch, why: 'the block of each sentence is chosen among this many' },
    {
      path: 'ict.microBatch',
      value: encoder ? 16 : 64,
      why: 'examples computed at once; fewer need less memory, and the result is the same',
    },
    ...(encoder
      ? []
      : [
          {
            path: 'ict.keepSentence',
            value: 0.5,
            why: 'how often the sentence stays in its block: a model with random weights learns names only from words that sentence and block share',
          },
        ]),
    { path: 'ict.optimizer.learningRate', value: learningRates.ict, why: learningRates.why },
  ];
  return [
    ...(encoder?.head
      ? [{ path: 'ict.steps', value: 0, why: 'a sentence encoder retrieves without the inverse cloze task' }]
      : warmUp),
    {
      path: 'index.kind',
      value: blocks < MAX_EXACT_BLOCKS ? 'exact' : 'graph',
      why:
        blocks < MAX_EXACT_BLOCKS
          ? 'with so few blocks, each query is compared with all of them'
          : 'a graph quickly finds the best of many blocks',
    },
    ...(retrieves ? [HYBRID] : []),
    ...(encoder && !encoder.fillsMasks && spans ? READER_WARMUP : []),
    pretrainSteps(survey, pretrain),
    { path: 'pretrain.batch', value: pretrainBatch, why: 'sentences in each step' },
    {
      path: 'pretrain.microBatch',
      value: pretrainBatch,
      why: 'of them computed at once; fewer need less memory',
    },
    {
      path: 'pretrain.candidates',
      value: 5,
      why: 'blocks read for each sentence, including the empty one; the paper has 8',
    },
    { path: 'pretrain.optimizer.learningRate', value: learningRates.pretrain, why: learningRates.why },
    { path: 'qa.steps', value: qa, why: 'the model learns to answer your questions' },
    { path: 'qa.batch', value: qaBatch, why: 'questions in each step' },
    {
      path: 'qa.microBatch',
      value: retrieves ? 12 : 8,
      why: 'of them computed at once; fewer need less memory',
    },
    ...(retrieves ? CONTRASTIVE : []),
    {
      path: 'qa.readerTokens',
      value: lengths(encoder).reader,
      why: 'longest question and block together, in word pieces',
    },
    { path: 'qa.retrieverBlocks', value: 100, why: "best blocks that the retriever's loss compares" },
    { path: 'qa.readerBlocks', value: 3, why: 'best blocks that are read for an answer; more take longer' },
    ...(questionsNameDocuments
      ? [
          {
            path: 'qa.gold',
            value: true,
            why: 'your questions name their documents, so training also reads those',
          },
          ...(retrieves
            ? [
                {
                  path: 'qa.weakSupervision',
                  value: 0,
                  why: 'the retriever learns from these alone: other blocks can hold an answer by chance',
                },
              ]
            : []),
        ]
      : []),
    {
      path: 'qa.devQuestions',
      value: Math.min(devQuestions, 100),
      why: 'questions of data.dev that each checkpoint answers, to find the best one',
    },
    {
      path: 'qa.optimizer.learningRate',
      value: retrieves ? 3e-4 : learningRates.qa,
      why: retrieves ? 'of the reader, which is new' : learningRates.why,
    },
    ...(retrieves
      ? [
          {
            path: 'qa.optimizer.biasCorrection',
            value: true,
            why: 'so that the first steps are not larger than the others',
          },
        ]
      : []),
  ];
}

/** As in configs/squad-encoder.yaml; docs/results.md has the measurement. */
const READER_WARMUP: readonly Setting[] = [
  {
    path: 'readerWarmup.steps',
    value: 600,
    why: 'this encoder cannot fill masks, so the reader first learns to copy them from a block; on SQuAD 600 steps raised exact match from 8 % to 21 %',
  },
  { path: 'readerWarmup.batch', value: 16, why: 'sentences in each step' },
  {
    path: 'readerWarmup.microBatch',
    value: 16,
    why: 'of them computed at once; fewer need less memory',
  },
  {
    path: 'readerWarmup.optimizer.learningRate',
    value: 1.2e-4,
    why: 'high, because the head for masks is new; four times as much diverged',
  },
];

function pretrainSteps({ encoder, trainQuestions, spans }: Survey, steps: number): Setting {
  const path = 'pretrain.steps';
  if (!spans) return { path, value: 0, why: 'no pretraining: your documents have no names or dates to mask' };
  if (encoder?.head && trainQuestions > 0)
    return {
      path,
      value: 0,
      why: 'no pretraining: this encoder retrieves well already, and on SQuAD 200 steps cost 1.8 points of exact match',
    };
  const why = 'the model learns to predict masked names and dates with the help of retrieved blocks';
  return { path, value: steps, why };
}

const HYBRID: Setting = {
  path: 'hybrid.weight',
  value: 0.5,
  why: 'blocks are also found by BM25, a word search: both together find more than either',
};

/** Fine-tuning that keeps what the encoder knows. The document tower is trained, and its index is built again at the end. */
const CONTRASTIVE: readonly Setting[] = [
  {
    path: 'qa.contrastive',
    value: 1,
    why: 'the blocks of the other questions are wrong answers too, so that the retriever does not forget',
  },
  {
    path: 'qa.minedNegatives',
    value: 1,
    why: 'blocks without the answer that the retriever finds for a question, also as wrong answers',
  },
  {
    path: 'qa.refreshEvery',
    value: 1_000_000,
    why: 'all of the retriever is trained; the index is built again only at the end',
  },
  { path: 'qa.retrieverLearningRate', value: 3e-5, why: "low, to keep the encoder's knowledge" },
];

/** How often each block (a fourth as often in pretraining) and each question is seen, and the least and most examples of a stage. */
const PASSES = {
  random: { blocks: 100, questions: 40, ict: [150_000, 6e6], pretrain: [20_000, 1.5e6], qa: [16_000, 1e6] },
  encoder: { blocks: 4, questions: 10, ict: [6400, 2e6], pretrain: [1200, 5e5], qa: [2400, 1e6] },
} as const;

/** Peak learning rates, from configs/squad-open.yaml and world.yaml, and from configs/squad-encoder.yaml. */
const LEARNING_RATES = {
  random: {
    ict: 3e-4,
    pretrain: 2e-4,
    qa: 3e-4,
    why: 'for random weights; training fails if it is much higher',
  },
  encoder: { ict: 5e-5, pretrain: 1e-5, qa: 1e-4, why: "low, to keep the encoder's knowledge" },
} as const;

function within(value: number, [least, most]: readonly [number, number]): number {
  return Math.min(most, Math.max(least, value));
}

/** Seconds of one step of each stage, of building an index, and of all that is done outside steps. */
export interface Pace {
  ict: number;
  readerWarmup: number;
  pretrain: number;
  qa: number;
  index: number;
  beside: number;
}

/** The sections of the stages that take steps. */
const STEPPED = ['ict', 'readerWarmup', 'pretrain', 'qa'] as const;
type Stepped = (typeof STEPPED)[number];

/** Most of the hours that the warm-up of the reader may take; the other stages share the rest. */
const MAX_READER_SHARE = 1 / 3;
const TIME_SHARES = { ict: 0.45, pretrain: 0.3, qa: 0.25 };
/** With fewer steps a stage does nothing useful. */
const MIN_STEPS = 20;
/** With fewer, the warm-up of the reader would hardly come to whole blocks, which start after a tenth of its steps. */
const MIN_READER_STEPS = 100;
/** Up to this number of steps the learning rate would rise in 100 of them (`warmupSteps: null`). */
const FEW_STEPS = 1000;
/** Share of the steps in which the learning rate rises: that of the default for more steps, and of configs/squad-encoder.yaml. */
const RISES = { ict: 0.1, readerWarmup: 0.05, pretrain: 0.1, qa: 0.1 };
/** How much longer an index takes while the trainer runs all the time: Linux gives the refresher about a fourth of the cores. */
const REFRESHER_SLOWDOWN = 4;

/**
 * The proposal with no more steps than its hours allow at this pace, and the settings that depend on the steps: how long the
 * learning rate rises, how often the index is refreshed and how often weights are saved. The user's own settings stay.
 * @param questions false leaves the hours of fine-tuning to the other stages
 */
export function fitToHours({ size, hours, settings }: Proposal, pace: Pace, questions: boolean): Proposal {
  const steps = fittedSteps({ hours, settings }, pace, questions);
  const added = [
    ...STEPPED.flatMap((stage) => riseOf(stage, steps[stage])),
    refreshOf(steps.pretrain, pace),
    { path: 'train.logEvery', value: 10, why: 'steps between two lines of metrics' },
    {
      path: 'train.saveEvery',
      value: Math.max(MIN_STEPS, round(Math.max(...Object.values(steps)) / 8)),
      why: 'steps between two checkpoints, from which a stopped stage resumes',
    },
  ];
  return {
    size,
    hours,
    settings: [
      ...settings.map((setting) => {
        const stage = STEPPED.find((stage) => setting.path === `${stage}.steps`);
        if (!stage || setting.own || setting.value === steps[stage]) return setting;
        const left = stage === 'readerWarmup' && steps[stage] === 0;
        return { ...setting, value: steps[stage], ...(left && { why: NO_TIME_FOR_READER }) };
      }),
      ...added.filter(({ path }) => !settings.some((setting) => setting.path === path)),
    ],
  };
}

const NO_TIME_FOR_READER = `the reader of this encoder should first learn to fill masks, but ${MIN_READER_STEPS} steps of it would take more than a third of the hours; set 600 if you have the time`;

function fittedSteps(
  { hours, settings }: Pick<Proposal, 'hours' | 'settings'>,
  pace: Pace,
  questions: boolean,
): Record<Stepped, number> {
  const settingOf = (stage: Stepped) => settings.find(({ path }) => path === `${stage}.steps`);
  const wantedOf = (stage: Stepped) => (settingOf(stage)?.value ?? 0) as number;
  const seconds = Math.max(0, 3600 * hours - pace.beside);
  const readerSteps = () => {
    const wanted = wantedOf('readerWarmup');
    if (wanted === 0 || settingOf('readerWarmup')?.own) return wanted;
    const fitting = round(Math.min(wanted, (seconds * MAX_READER_SHARE) / pace.readerWarmup));
    return fitting < MIN_READER_STEPS ? 0 : fitting;
  };
  const readerWarmup = readerSteps();
  const left = Math.max(0, seconds - readerWarmup * pace.readerWarmup);
  const sharing = (['ict', 'pretrain', 'qa'] as const).filter(
    (stage) => wantedOf(stage) > 0 && (stage !== 'qa' || questions),
  );
  const all = sharing.reduce((sum, stage) => sum + TIME_SHARES[stage], 0);
  const fitted = (stage: (typeof sharing)[number]) => {
    const wanted = wantedOf(stage);
    if (wanted === 0 || settingOf(stage)?.own) return wanted;
    const seconds = (left * TIME_SHARES[stage]) / all;
    return Math.max(MIN_STEPS, round(Math.min(wanted, seconds / pace[stage])));
  };
  return { ict: fitted('ict'), readerWarmup, pretrain: fitted('pretrain'), qa: fitted('qa') };
}

/** How long the learning rate of a stage rises, where the default would be too long. */
function riseOf(stage: Stepped, steps: number): Setting[] {
  if (steps === 0 || steps >= FEW_STEPS) return [];
  const value = Math.max(1, Math.round(RISES[stage] * steps));
  const why = 'steps in which the learning rate rises; the default would be 100';
  return [{ path: `${stage}.optimizer.warmupSteps`, value, why }];
}

/** Four new indexes while pretraining, as in the short demo, or none if even one would take most of the stage. */
function refreshOf(steps: number, pace: Pace): Setting {
  const least = (REFRESHER_SLOWDOWN * pace.index) / pace.pretrain;
  const every = round(Math.max(steps / 5, least));
  if (every <= steps / 2)
    return {
      path: 'refresh.every',
      value: every,
      why: 'steps after which the index is rebuilt from the newest weights',
    };
  const why =
    steps === 0
      ? 'the index is built again only after fine-tuning'
      : 'a new index would take as long as half of pretraining, so the first one is kept';
  return { path: 'refresh.mode', value: 'off', why };
}

/** With fewer steps of the inverse cloze task a model with random weights has learned almost nothing. */
const USEFUL_STEPS = 2000;

/** True if a model with random weights gets so few steps in its hours that a smaller one would learn more. */
export function isTooSlow(fitted: Proposal): boolean {
  const value = (path: string) => fitted.settings.find((setting) => setting.path === path)?.value;
  return (
    value('model.initial') === undefined &&
    (value('model.hidden') as number) > SIZES[0].hidden &&
    (value('ict.steps') as number) < USEFUL_STEPS
  );
}

/** A number of steps, rounded down to two digits. */
function round(steps: number): number {
  const n = Math.max(1, Math.floor(steps));
  const unit = 10 ** Math.max(0, Math.floor(Math.log10(n)) - 1);
  return Math.floor(n / unit) * unit;
}
