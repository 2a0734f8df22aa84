import { z } from 'zod';
import { DOCUMENT_FORMATS } from './datasets/document-formats.ts';
import { isSchedule, SCHEDULE_FORM } from './schedule.ts';

// All settings: name, meaning, unit, default and source. docs/settings.md and `realm config` are made from them.
// A default is the number of the paper (Guu et al. 2020, arXiv 2002.08909) or of the released code where there is one;
// `source` says where it is from. A setting without a source has a default of our own.

/** In google-research/language on GitHub. */
const ORQA = 'language/orqa';
const REALM = 'language/realm';

/** A whole number. The upper limit is beyond any use: a mistyped zero more must not ask for all memory. */
const count = (value: number, least = 1, most = 1e9) => z.int().min(least).max(most).default(value);
const share = (value: number) => z.number().min(0).max(1).default(value);
const flag = (value: boolean) => z.boolean().default(value);
/** A setting that names a file or folder; null: none. A NUL character would end a path early, and Node throws. */
const path = (description: string, source?: string) =>
  z
    .string()
    .refine((text) => !text.includes('\0'), { error: 'a path cannot hold a NUL character' })
    .nullable()
    .default(null)
    .meta({ description, unit: 'path', ...(source && { source }) });
const field = z
  .union([z.string().min(1), z.int().min(1)])
  .nullable()
  .default(null);

/** A text before another one. Its word pieces must be the same alone, so it must not end within a word. */
const prefix = (description: string) =>
  z
    .string()
    .max(1000)
    .refine((text) => text === '' || /[\s\p{P}]$/u.test(text), {
      error: 'a prefix must end with a space or a punctuation mark',
    })
    .nullable()
    .default(null)
    .meta({ description });

/** What null means in the settings of the retriever's head. */
const OWN_HEAD = 'null: as model.initial has it if that is a folder of sentence-transformers, else ';

/** Steps between two, or a schedule such as 0-1000:500,1000-:2000. */
const schedule = z.union([z.int().min(1), z.string().refine(isSchedule, { error: SCHEDULE_FORM })]);

/** A group of settings in which every one has a default. */
function section<T extends z.ZodRawShape>(description: string, shape: T) {
  return z
    .strictObject(shape)
    .prefault({} as never)
    .meta({ description });
}

const optimizer = (learningRate: number, source?: string) =>
  section('Adam with decoupled weight decay, linear warm-up and linear decay to 0.', {
    learningRate: z
      .number()
      .positive()
      .default(learningRate)
      .meta({
        description: 'Highest learning rate.',
        ...(source && { source }),
      }),
    warmupSteps: z.int().min(0).nullable().default(null).meta({
      description: 'Steps of linear warm-up. null: min(10000, max(100, steps / 10)).',
      unit: 'steps',
      source: ORQA,
    }),
    weightDecay: z
      .number()
      .min(0)
      .default(0.01)
      .meta({ description: 'Weight decay.', ...(source && { source }) }),
    beta1: share(0.9).meta({
      description: 'Decay of the mean of the gradients.',
      source: 'google-research/bert',
    }),
    beta2: share(0.999).meta({
      description: 'Decay of the mean of the squared gradients.',
      source: 'google-research/bert',
    }),
    epsilon: z.number().positive().default(1e-6).meta({
      description: 'Added to the root of the mean squared gradient.',
      source: 'google-research/bert',
    }),
    clipNorm: z.number().positive().default(1).meta({
      description: 'Gradients are scaled down to this global norm.',
      source: 'google-research/bert',
    }),
    biasCorrection: z.boolean().default(false).meta({
      description:
        "Corrects Adam's averages, which start at 0, as PyTorch does and BERT does not. Without it the learning rate of the first hundred steps is in effect two to six times as high.",
      source: 'google-research/bert',
    }),
  });

export const schema = section('All settings.', {
  seed: z.int().min(0).default(1).meta({ description: 'Seed of everything random in a run.' }),
  data: section('The data of a run.', {
    documents: path(
      'Z: a file or folder of documents, plain, .gz, .zst or .bz2. "-": standard input.',
      'paper, section 4.3: 13,353,718 blocks of English Wikipedia, 2018-12-20',
    ),
    format: z
      .enum(['auto', ...DOCUMENT_FORMATS])
      .default('auto')
      .meta({
        description:
          'Format of data.documents. auto: detected from the names of the files and their first bytes.',
      }),
    fields: section('Where a document has its id, title and text. null: one of the usual names.', {
      id: field.meta({ description: 'Key, or name or number of a column, of the id.' }),
      title: field.meta({ description: 'Key, or name or number of a column, of the title.' }),
      text: field.meta({ description: 'Key, or name or number of a column, of the text.' }),
    }),
    articlesOnly: flag(false).meta({
      description:
        'Leave out lists, indexes, outlines and disambiguation pages of Wikipedia by their titles, as ORQA and DPR do.',
    }),
    sentences: path(
      'X: sentences, with or without spans to mask. null: the sentences of the documents.',
      'paper, section 4.2: Wikipedia or CC-News',
    ),
    train: path('Training questions with their answers.'),
    dev: path(
      'Questions with their answers to measure each stage before and after it trains, and to choose the best checkpoint.',
    ),
    test: path('Questions with their answers to evaluate.'),
    answers: z.enum(['auto', 'string', 'regex']).default('auto').meta({
      description:
        'What the answers are. auto: regular expressions if the file is CuratedTREC by its name or its contents, else strings.',
    }),
  }),
  world: section('The generated world of the demo.', {
    documents: z.int().min(20).default(1500).meta({
      description: 'Documents: one for each person, town, firm and book.',
      unit: 'documents',
    }),
    heldOut: share(0.15).meta({ description: 'Share of the facts that only test questions ask for.' }),
  }),
  text: section('How text becomes tokens, blocks and sentences.', {
    vocabulary: path(
      'A vocab.txt. null: the one next to model.initial, or else one trained on the documents.',
      "paper, section 4.3: BERT-base uncased's",
    ),
    vocabularySize: count(30522).meta({
      description: 'Size of a vocabulary trained on the documents.',
      unit: 'word pieces',
      source: 'google-research/bert: BERT-base uncased',
    }),
    lowercase: z.boolean().nullable().default(null).meta({
      description:
        "Whether text is made lower case, without accents. null: as the vocabulary's own files say (do_lower_case, tokenizer.json), else by whether it has capital letters; true for one trained on the documents.",
      source: 'paper, section 4.3: BERT-base uncased',
    }),
    ner: path(
      'A folder with a NER model of Hugging Face exported to ONNX, or one on the Hub (hf:owner/name), that finds the names to mask. null: rules find them.',
      'paper, section 3.4: a BERT trained on CoNLL-2003, not published',
    ),
    splitting: z.enum(['sentences', 'dpr', 'as-is']).default('sentences').meta({
      description:
        'How a document is split into blocks. sentences: whole sentences, as in ORQA; dpr: 100 words; as-is: one document is one block.',
      source: ORQA,
    }),
    blockTokens: count(288, 16).meta({
      description: 'Longest block, with its title and special tokens.',
      unit: 'tokens',
      source: 'paper, section 4.3',
    }),
    sentenceTokens: count(96, 8).meta({
      description: 'Longest masked sentence, with its special tokens.',
      unit: 'tokens',
      source: `${REALM}: query_seq_len of the launcher`,
    }),
    questionTokens: count(64, 8).meta({
      description: 'Longest question or ICT query, with its special tokens.',
      unit: 'tokens',
      source: `${ORQA}/experiments/orqa_experiment.py: query_seq_len`,
    }),
  }),
  model: section('Sizes and first weights of the encoders.', {
    layers: count(12, 1, 1000).meta({
      description: 'Transformer layers of each encoder.',
      unit: 'layers',
      source: 'paper, section 4.3: BERT-base',
    }),
    hidden: count(768, 1, 1e6).meta({
      description: 'Size of the hidden states.',
      unit: 'numbers',
      source: 'paper, section 4.3: BERT-base',
    }),
    heads: count(12, 1, 1e6).meta({
      description: 'Attention heads of a layer. model.hidden must be a multiple of it.',
      unit: 'heads',
      source: 'paper, section 4.3: BERT-base',
    }),
    intermediate: count(3072, 1, 1e6).meta({
      description: 'Size of the feed-forward layer.',
      unit: 'numbers',
      source: 'paper, section 4.3: BERT-base',
    }),
    recompute: flag(false).meta({
      description:
        'Keep less for the gradients and compute it again: a step takes a third more time, and a fraction of the memory.',
    }),
    positions: count(512).meta({
      description: 'Longest sequence that the encoder can read.',
      unit: 'tokens',
      source: 'paper, section 4.3: BERT-base',
    }),
    gelu: z.enum(['exact', 'tanh']).default('tanh').meta({
      description: 'Form of the GELU: exact, or its approximation with tanh.',
      source: 'google-research/bert, modeling.py',
    }),
    dropout: z.number().min(0).max(0.9).default(0.1).meta({
      description: 'Dropout probability in training.',
      source: 'google-research/bert: BERT-base',
    }),
    layerNormEps: z.number().positive().default(1e-12).meta({
      description: "Epsilon of the encoder's layer normalization.",
      source: 'google-research/bert',
    }),
    pooling: z
      .enum(['pooler', 'cls', 'mean'])
      .nullable()
      .default(null)
      .meta({
        description: `What the vector of a text is made from: BERT's tanh pooler, the first token, or the mean of all tokens. ${OWN_HEAD}pooler. If you set it, the head of that folder is not used at all.`,
      }),
    dense: z
      .array(
        z.strictObject({
          size: z.int().min(1).max(1e6),
          activation: z.enum(['none', 'tanh']),
        }),
      )
      .nullable()
      .default(null)
      .meta({
        description: `Dense layers after pooling: {size, activation} of each. ${OWN_HEAD}no such layer.`,
      }),
    projection: z
      .union([z.int().min(1).max(1e9), z.literal('none')])
      .nullable()
      .default(null)
      .meta({
        description: `Length of the vector that REALM's projection with its layer normalization makes. none: no projection. ${OWN_HEAD}128 with the pooler, none with other poolings.`,
        unit: 'numbers',
        source: `${ORQA}: retriever_proj_size`,
      }),
    width: z.int().min(1).max(1e6).nullable().default(null).meta({
      description:
        "Length of the index's vectors, below the encoder's own, with model.pooling cls or mean: a dense layer that starts as the principal components (PCA) of blocks' vectors. null: the encoder's own length.",
      unit: 'numbers',
    }),
    normalize: z
      .boolean()
      .nullable()
      .default(null)
      .meta({ description: `Scale vectors to length 1, so that scores are cosines. ${OWN_HEAD}false.` }),
    queryPrefix: prefix(`Text before each query, such as "query: ". ${OWN_HEAD}no text.`),
    documentPrefix: prefix(`Text before each block, such as "passage: ". ${OWN_HEAD}no text.`),
    sequenceTokens: z
      .int()
      .min(8)
      .max(1e9)
      .nullable()
      .default(null)
      .meta({
        description: `Longest sequence that the retriever reads with model.pooling cls or mean; the rest is truncated. ${OWN_HEAD}model.positions.`,
        unit: 'tokens',
      }),
    projectionLayerNormEps: z
      .number()
      .positive()
      .default(1e-3)
      .meta({
        description:
          'Epsilon of the layer normalization of retrieval vectors. The published weights need 1e-12.',
        source: `${ORQA}/utils: the default of Keras`,
      }),
    sharedTowers: flag(true).meta({
      description: 'One tower for queries and documents, as released. false: two, as the paper counts.',
      source: `${REALM}; the 330 M parameters of the paper's section 4.3 are those of two towers`,
    }),
    temperature: z.number().positive().default(1).meta({
      description: 'Retrieval scores are divided by this before the softmax. 1: plain inner products.',
      source: 'paper, section 3.1',
    }),
    spanHidden: count(256).meta({
      description: 'Size of the hidden layer of the answer-span scorer.',
      unit: 'numbers',
      source: `${ORQA}/models/orqa_model.py`,
    }),
    maxSpanWidth: count(10).meta({
      description: 'Widest answer span.',
      unit: 'word pieces',
      source: ORQA,
    }),
    spanLayerNormEps: z
      .number()
      .positive()
      .default(1e-3)
      .meta({
        description: 'Epsilon of the layer normalization of the answer-span scorer.',
        source: `${ORQA}: the default of Keras`,
      }),
    initial: path(
      'A folder to start from, a BERT or REALM of Hugging Face or Google or a sentence encoder of sentence-transformers, with its vocab.txt or tokenizer.json, or such a model on the Hub as hf:owner/name or hf:owner/name@revision. null: random weights.',
      'paper, section 3.4: both encoders start from BERT',
    ),
    initialReader: path('Another such folder or model for the reader. null: model.initial.'),
  }),
  ict: section('The ict-warmup stage: the inverse cloze task.', {
    steps: count(100_000, 0).meta({
      description: 'Training steps. 0: the retriever of a sentence encoder (model.initial) is used as it is.',
      unit: 'steps',
      source: `${ORQA}, README`,
    }),
    batch: count(4096).meta({
      description: 'Sentences of a step.',
      unit: 'examples',
      source: `${ORQA}, README`,
    }),
    microBatch: count(64).meta({
      description:
        'Sequences embedded at once. A larger batch is embedded in micro-batches, with exactly the same gradients.',
      unit: 'sequences',
    }),
    keepSentence: share(0.1).meta({
      description: 'Probability that the query sentence stays in its block.',
      source: 'Lee et al. 2019, section 4: the sentence is removed 90 % of the time',
    }),
    optimizer: optimizer(1e-4, `${ORQA}, README`),
  }),
  index: section('The index of all blocks, for maximum inner product search.', {
    kind: z.enum(['graph', 'exact']).default('graph').meta({
      description:
        'graph: an HNSW graph, fast and nearly exact. exact: every block is compared, and no graph is built.',
    }),
    subIndexes: count(1, 1, 1000).meta({
      description:
        'Graphs that share the blocks: building takes the memory of one, a search the time of all.',
      unit: 'graphs',
    }),
    dtype: z.enum(['auto', 'f32', 'f16']).default('auto').meta({
      description: 'Number format of the vectors in a graph. auto: f32 up to a million blocks, f16 beyond.',
    }),
    m: count(16).meta({
      description:
        'M of HNSW: links of a node on each level. More links: better recall, more memory, a slower build.',
      unit: 'links',
      source: "USearch's default",
    }),
    efConstruction: count(128).meta({
      description: 'efConstruction of HNSW: candidates kept while a node is added.',
      unit: 'candidates',
      source: "USearch's default",
    }),
    efSearch: count(128).meta({
      description: 'efSearch of HNSW: candidates kept while searching. More: better recall, slower search.',
      unit: 'candidates',
    }),
    precision: z.enum(['auto', 'f32']).default('auto').meta({
      description:
        'Of the products that embed a block. auto: bf16, about 1.5 times as fast, where the processor has AVX-512 BF16 and 99.5 % of the ten best blocks of a sample stay the same; else f32. Shards, of realm embed and of workers, are always f32.',
    }),
    tokensPerBatch: count(8192).meta({
      description: 'Tokens embedded in one call while building.',
      unit: 'tokens',
    }),
    threads: count(1).meta({
      description:
        'Processor threads that build a graph. With more than 1 the graph differs from build to build.',
      unit: 'threads',
    }),
  }),
  hybrid: section('Retrieval by inner product and by BM25, a word search, together.', {
    weight: z.number().gt(0).max(1).nullable().default(null).meta({
      description:
        'Share of the inner product in a block\'s score; BM25 has the rest, both scaled for each question. null: the inner product alone. "realm eval recall --fit-hybrid" finds a good one.',
      source: 'null: paper, section 3.1. The combination: Bruch et al. 2022, arXiv 2210.11934',
    }),
  }),
  readerWarmup: section(
    'The reader-warmup stage: masked salient spans, copied from a document that is given. For encoders without a masked-language-model head.',
    {
      steps: count(0, 0).meta({
        description: 'Training steps. 0: no such stage, as in the paper.',
        unit: 'steps',
        source: 'paper, section 3.4: the reader starts from BERT, which has that head',
      }),
      batch: count(32).meta({ description: 'Sentences of a step.', unit: 'examples' }),
      microBatch: count(16).meta({
        description:
          'Examples in one forward and backward pass; the gradients of a batch are summed over passes.',
        unit: 'examples',
      }),
      optimizer: optimizer(1e-4),
    },
  ),
  pretrain: section('The pretrain stage: masked salient spans, predicted through retrieval.', {
    steps: count(200_000, 0).meta({
      description: 'Training steps. 0: no pretraining.',
      unit: 'steps',
      source: 'paper, section 4.3',
    }),
    batch: count(512).meta({
      description: 'Sentences of a step.',
      unit: 'examples',
      source: 'paper, section 4.3',
    }),
    microBatch: count(16).meta({
      description:
        'Examples in one forward and backward pass; the gradients of a batch are summed over passes.',
      unit: 'examples',
    }),
    candidates: count(8).meta({
      description: 'K: documents read for an example, with the null document.',
      unit: 'documents',
      source: 'paper, section 4.3',
    }),
    maxMasks: count(10).meta({
      description: 'Most masked word pieces of an example.',
      unit: 'word pieces',
      source: `${REALM}: the launcher`,
    }),
    masking: z.enum(['salient', 'tokens', 'spans']).default('salient').meta({
      description:
        'What is masked of a sentence. salient: a salient span; tokens: 15 % of its word pieces, one by one; spans: 15 %, in spans of whole words.',
      source: 'paper, section 3.4 and Table 2',
    }),
    nullDocument: flag(true).meta({
      description: 'Whether the null document is a candidate.',
      source: 'paper, section 3.4',
    }),
    dropTrivial: flag(true).meta({
      description: 'Whether the block that holds the sentence is removed from its candidates.',
      source: 'paper, section 3.4',
    }),
    hybrid: flag(false).meta({
      description:
        'Whether the candidates are those of hybrid retrieval, found with BM25 too (hybrid.weight). p(z|x) stays the softmax of inner products.',
    }),
    marginalize: z.enum(['span', 'token']).default('span').meta({
      description:
        'span: one latent document for all masked word pieces of an example; token: one for each, as in the released code.',
      source: 'paper, equation 1',
    }),
    trivialOverlap: share(0.8).meta({
      description:
        "A retrieved block with this share of the sentence's word-piece 5-grams is a trivial candidate.",
    }),
    optimizer: optimizer(3e-5, 'paper, section 4.3'),
  }),
  refresh: section('Refreshing the index while a stage trains the document tower.', {
    every: schedule.default(500).meta({
      description:
        'Steps between two snapshots for the refresher, or a schedule such as 0-1000:500,1000-:2000.',
      unit: 'steps',
      source: 'paper, section 3.3: "approximately every 500 training steps"',
    }),
    mode: z.enum(['async', 'sync', 'off']).default('async').meta({
      description:
        'async: the index is built while training continues; sync: training waits for it; off: the first index stays in use.',
      source: 'paper, section 3.3',
    }),
    onLate: z.enum(['continue', 'wait']).default('continue').meta({
      description:
        'When a refresh is due and the last one is not finished: continue with the old index, or wait.',
    }),
    onFailure: z.enum(['continue', 'stop']).default('continue').meta({
      description:
        'When the refresher has failed refresh.maxFailures times in a row: continue with the current index, or stop.',
    }),
    maxFailures: count(5).meta({
      description: 'Failures in a row before refresh.onFailure applies.',
      unit: 'failures',
    }),
    engine: z.enum(['tensorflow', 'webgpu', 'wasm', 'cpu']).nullable().default(null).meta({
      description: "Engine of the refresher. null: the trainer's.",
    }),
    threads: z.int().min(0).default(0).meta({
      description: 'Processor threads of the refresher. 0: all.',
      unit: 'threads',
    }),
    nice: z.int().min(0).max(19).default(5).meta({
      description: 'Nice value of the refresher process: 0 is normal priority, 19 the lowest.',
    }),
    keepIndexes: count(2).meta({ description: 'Indexes kept on disk.', unit: 'indexes' }),
    queue: z
      .string()
      .regex(/^rediss?:\/\/[^\s@]+$/, {
        error:
          'expected redis://HOST:PORT, or rediss:// with TLS, without a password; set the variable REALM_QUEUE_PASSWORD instead',
      })
      .nullable()
      .default(null)
      .meta({
        description:
          'Redis server whose workers (realm worker) embed the blocks of an index, such as redis://host:6379. null: this machine does.',
        unit: 'address',
      }),
    shards: z.int().min(1).max(100_000).nullable().default(null).meta({
      description: 'Parts into which the blocks are divided for the workers. null: one for 8,192 blocks.',
      unit: 'shards',
    }),
  }),
  qa: section('The finetune-qa stage: open-domain question answering.', {
    retriever: z.enum(['pretrain', 'ict-warmup']).default('pretrain').meta({
      description:
        'Stage that gives the retriever to start with. A run that was not pretrained takes that of ict-warmup.',
    }),
    reader: z.enum(['pretrain', 'initial']).default('pretrain').meta({
      description:
        'The reader to start with: the pretrained one (without pretraining, that of reader-warmup if it was run), or the weights of model.initial.',
    }),
    steps: count(300_000).meta({
      description: 'Training steps.',
      unit: 'steps',
      source: `${REALM}: last step of the released model for Natural Questions`,
    }),
    batch: count(1).meta({ description: 'Questions of a step.', unit: 'questions', source: ORQA }),
    microBatch: count(16).meta({
      description:
        'Questions in one forward and backward pass; the gradients of a batch are summed over passes.',
      unit: 'questions',
    }),
    retrieverBlocks: count(5000).meta({
      description: "Blocks in the retriever's loss.",
      unit: 'blocks',
      source: `${ORQA}: retriever_beam_size`,
    }),
    readerBlocks: count(5).meta({
      description: 'Blocks that the reader reads for a question.',
      unit: 'blocks',
      source: 'paper, section 4.3',
    }),
    gold: flag(false).meta({
      description:
        'Also train with those blocks of a question\'s own document ("passage_id") that hold an answer. ORQA does not.',
    }),
    hardNegatives: count(0, 0, 1000).meta({
      description:
        "More blocks without an answer in the retriever's loss: those that DPR's questions name, else BM25's best. ORQA has none.",
      unit: 'blocks',
    }),
    contrastive: z.number().min(0).default(0).meta({
      description:
        "Weight of a softmax over the blocks of the batch: a question's right block against those of the other questions and all hard negatives. Needs qa.refreshEvery. 0: no such loss, as in ORQA and REALM.",
    }),
    weakSupervision: z.number().min(0).default(1).meta({
      description:
        "Weight, for the retriever, of the losses that know only a question's answers, not its right block: ORQA's two and qa.distillation. 0: the retriever learns from qa.contrastive alone, and the reader as before.",
    }),
    minedNegatives: count(0, 0, 1000).meta({
      description:
        'Blocks without an answer that the search itself finds for a question, as hard negatives of qa.contrastive.',
      unit: 'blocks',
    }),
    readQuestions: z.int().min(1).nullable().default(null).meta({
      description:
        'Questions of a batch that the reader reads; the others train the retriever alone. Needs qa.contrastive. null: all.',
      unit: 'questions',
    }),
    distillation: z.number().min(0).default(0).meta({
      description:
        'Weight of a loss that draws the retriever to the blocks in which the reader finds the answer. 0: no such loss, as in ORQA and REALM.',
    }),
    refreshEvery: schedule.nullable().default(null).meta({
      description:
        'Also train the document tower, and refresh the index every so many steps (or by a schedule), by the other settings of refresh. null: both stay fixed, as in ORQA and REALM.',
      unit: 'steps',
    }),
    readerTokens: count(320).meta({
      description: 'Longest question and block together.',
      unit: 'tokens',
      source: `${ORQA}: 288 + 32`,
    }),
    devQuestions: count(200, 0).meta({
      description: 'Questions of data.dev answered before the first step and at each checkpoint. 0: none.',
      unit: 'questions',
    }),
    retrieverLearningRate: z.number().positive().nullable().default(null).meta({
      description:
        "Highest learning rate of the retriever's towers. null: qa.optimizer.learningRate, as that of the reader.",
    }),
    optimizer: optimizer(1e-5, ORQA),
  }),
  closedBook: section('The baseline that answers with the null document alone.', {
    steps: count(20_000).meta({ description: 'Training steps.', unit: 'steps' }),
    batch: count(32).meta({ description: 'Questions of a step.', unit: 'questions' }),
    optimizer: optimizer(1e-5),
  }),
  train: section('Logs and checkpoints of all stages.', {
    logEvery: count(10).meta({ description: 'Steps between two lines of metrics.', unit: 'steps' }),
    saveEvery: count(500).meta({ description: 'Steps between two checkpoints.', unit: 'steps' }),
    keep: count(2).meta({
      description: 'Latest checkpoints of a stage kept on disk; the best one is kept too.',
      unit: 'checkpoints',
    }),
    use: z.enum(['latest', 'best']).default('latest').meta({
      description:
        'Checkpoint of a stage that later stages and evaluations use. A stage itself always resumes from its latest.',
    }),
    bestBy: z.enum(['auto', 'recall']).default('auto').meta({
      description:
        'What the best checkpoint is chosen by. auto: exact match on qa.devQuestions questions of data.dev while fine-tuning, else the mean loss; recall: the mean of recall@1, @5 and @20 on data.dev, measured at each checkpoint.',
    }),
    maxSkipped: count(10).meta({
      description:
        'Steps skipped because the loss was not finite or exploded, since the last good checkpoint, after which a stage stops.',
      unit: 'steps',
    }),
  }),
});

/** All settings of a run, checked and complete. */
export type Config = z.infer<typeof schema>;

/** The settings that describe the head of the retriever's encoder. */
export const HEAD_SETTINGS = [
  'pooling',
  'dense',
  'projection',
  'normalize',
  'queryPrefix',
  'documentPrefix',
  'sequenceTokens',
] as const satisfies (keyof Config['model'])[];

/** One setting, for people. */
export interface Setting {
  /** Such as qa.optimizer.learningRate. */
  name: string;
  description: string;
  /** What it counts; undefined of a number without a unit, a choice and a switch. */
  unit?: string;
  default: unknown;
  /** Section of the paper, or repository and file, that the default is from; undefined: realm's own choice. */
  source?: string;
  /** What it can be, such as "1 or more" or "latest | best". */
  values: string;
}

/** A group of settings, such as qa or qa.optimizer. */
export interface Section {
  name: string;
  description: string;
}

/** All settings and all groups, in the order of the schema; a group comes before what it holds. */
export function settingsReference(): (Setting | Section)[] {
  return referenceOf(z.toJSONSchema(schema, { io: 'input' }), '').slice(1);
}

export function isSetting(entry: Setting | Section): entry is Setting {
  return 'default' in entry;
}

/** Names of the settings that are paths, such as data.documents. */
export const PATHS: ReadonlySet<string> = new Set(
  settingsReference()
    .filter((entry) => isSetting(entry) && entry.unit === 'path')
    .map(({ name }) => name),
);

type Json = z.core.JSONSchema.BaseSchema;

function referenceOf(node: Json, name: string): (Setting | Section)[] {
  const { description = '', unit, source } = node as { description?: string; unit?: string; source?: string };
  if (node.properties === undefined) {
    const values = valuesOf(node, unit === 'path' ? 'path' : 'text').join(' | ');
    return [
      { name, description, ...(unit && { unit }), default: node.default, ...(source && { source }), values },
    ];
  }
  const inner = Object.entries(node.properties).flatMap(([key, value]) =>
    referenceOf(value as Json, name === '' ? key : `${name}.${key}`),
  );
  return [{ name, description }, ...inner];
}

/** The choices, in words where they are numbers or texts. */
function valuesOf(node: Json, text: string): string[] {
  if (node.anyOf) return node.anyOf.flatMap((choice) => valuesOf(choice as Json, text));
  if (node.enum) return node.enum.map(String);
  if (node.const !== undefined) return [String(node.const)];
  const types = [node.type].flat() as (string | undefined)[];
  return types.flatMap((type) => {
    if (type === 'null') return ['null'];
    if (type === 'boolean') return ['true', 'false'];
    if (type === 'array') return ['list'];
    return [type === 'string' ? text : rangeOf(node)];
  });
}

function rangeOf({ type, minimum, maximum, exclusiveMinimum }: Json): string {
  const kind = type === 'integer' ? 'whole number' : 'number';
  if (exclusiveMinimum !== undefined) return `${kind} above ${exclusiveMinimum}`;
  // Limits of a billion and more only catch slips.
  if (maximum !== undefined && maximum < 1e9) return `${kind} from ${minimum} to ${maximum}`;
  return `${kind}, ${minimum} or more`;
}
