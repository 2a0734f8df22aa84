import type { Corpus } from '../corpus/store/reader.ts';
import { needWords } from '../datasets/question-text.ts';
import { type Answered, answerQuestions, questionsAtOnce } from '../eval/answer.ts';
import {
  type ExtraDocuments,
  type GivenDocument,
  makeExtraDocuments,
  withExtraDocuments,
} from '../eval/extra-documents.ts';
import { blockSequences, embedAll, textFormat } from '../model/embedder.ts';
import { disposeModel, type Model } from '../model/model.ts';
import { type EncodedQuestion, encodeQuestions } from '../model/questions.ts';
import type { Bm25 } from '../retrieval/bm25.ts';
import type { SearchIndex } from '../retrieval/search.ts';
import { modelFingerprint } from '../run/fingerprints.ts';
import { UserError } from '../system/errors.ts';
import { say } from '../system/progress.ts';
import { closedBookLogLikelihoods, closedBookShapes } from '../train/closed-book.ts';
import { hybridBm25 } from './bm25.ts';
import { existingIndex, openRunIndex, retrieverBeforeQa } from './build-index.ts';
import { type Context, emptyModel, hasWeights, runCorpus, stageWeights } from './context.ts';
import { type FineTuned, fineTunedModels } from './fine-tuned.ts';
import { firstMissing } from './next-command.ts';

/** One answer with its passage. */
export interface AskAnswer {
  answer: string;
  /** Probability of this span among all spans of all blocks read. */
  probability: number;
  /** p(z|x) of its block among those read, and p(y|z,x) of the answer among the spans of its block. */
  retrieval: number;
  reading: number;
  title: string;
  document: string;
  /** The passage's text around the answer. */
  before: string;
  after: string;
  /** Its passage is from the documents given with the question, not from the corpus. */
  extraDocument?: true;
}

/** A question with its answers. */
export interface AnsweredQuestion {
  question: string;
  /** One for each block read, best first. */
  answers: AskAnswer[];
  /** See `nullProbabilityOf`; undefined if the retriever was not pretrained with the null document. */
  nullProbability?: number;
  /** See `utilities`; undefined in a run without a closed-book reader. */
  retrievalUtility?: number;
  /** The question is longer than `text.questionTokens` and was truncated, as in training. */
  truncated?: true;
}

/** A fine-tuned run, opened to answer questions. */
export interface QaSession {
  /**
   * Answers questions, each independently of the others. Calls wait for each other.
   * @param options.documents documents to search in addition to the corpus; prepared once while the same array is passed
   */
  ask(
    questions: readonly string[],
    options?: { documents?: readonly GivenDocument[] },
  ): Promise<AnsweredQuestion[]>;
  /** Waits for questions in progress. Asking afterwards throws. */
  close(): Promise<void>;
}

/** The parts of a run that a session has in memory. */
interface Parts extends Omit<FineTuned, 'stage'> {
  corpus: Corpus;
  index: SearchIndex;
  /** With `hybrid.weight`. */
  bm25?: Bm25;
  /** [P] vector of the null document, if the retriever was pretrained with it. */
  nullDocument?: Float32Array;
  /** The reader that was tuned to answer from the null document alone. */
  closedBook?: Model;
}

/**
 * Opens the fine-tuned model of a run with the index of its document tower. The run is neither changed nor locked, so a
 * process may train in it at the same time.
 */
export async function openQaSession(context: Context): Promise<QaSession> {
  const parts = await openSettled({ ...context, readOnly: true });
  const prepared = new WeakMap<readonly GivenDocument[], Promise<ExtraDocuments>>();
  const extraDocumentsOf = (documents: readonly GivenDocument[]) => {
    let extra = prepared.get(documents);
    if (!extra) {
      extra = makeExtraDocuments(documents, parts.corpus, parts.embedder, parts.index, context.config);
      prepared.set(documents, extra);
    }
    return extra;
  };
  let last: Promise<unknown> = Promise.resolve();
  let closed = false;
  return {
    async ask(questions, { documents } = {}) {
      if (closed) throw new Error('the run is closed');
      const answers = last.then(async () => {
        const encoded = encode(parts.corpus, questions);
        return answer(
          context,
          parts,
          encoded,
          documents?.length ? await extraDocumentsOf(documents) : undefined,
        );
      });
      last = answers.catch(() => {});
      return answers;
    },
    async close() {
      closed = true;
      await last;
      closeParts(parts);
    },
  };
}

/** Opening a run can fail because a training process replaces a checkpoint or index that is being read. */
const MAX_RETRIES = 5;

async function openSettled(context: Context): Promise<Parts> {
  for (let left = MAX_RETRIES; ; left--) {
    const before = modelFingerprint(context.run);
    try {
      return await openParts(context);
    } catch (error) {
      if (left === 0 || modelFingerprint(context.run) === before) throw error;
    }
  }
}

async function openParts(context: Context): Promise<Parts> {
  const { run, config } = context;
  const corpus = runCorpus(context);
  const parts: Partial<Parts> & { corpus: Corpus } = { corpus };
  try {
    if (!hasWeights(context, 'finetune-qa')) {
      throw new UserError(
        `${run.dir}: is not fine-tuned, so it cannot answer; the next command is "${firstMissing(context)}"`,
      );
    }
    const { model, embedder } = await fineTunedModels(context, corpus);
    Object.assign(parts, { model, embedder });
    parts.index = openRunIndex(context, corpus, await existingIndex(context, embedder, corpus));
    parts.bm25 = await hybridBm25(context, corpus);
    if (retrieverBeforeQa(context) === 'pretrain' && config.pretrain.nullDocument) {
      parts.nullDocument = await nullVector(context, corpus, embedder);
    }
    parts.closedBook = await closedBookReader(context, corpus);
    return parts as Parts;
  } catch (error) {
    closeParts(parts);
    throw error;
  }
}

function closeParts({ corpus, index, bm25, model, embedder, closedBook }: Partial<Parts>): void {
  bm25?.close();
  index?.close();
  corpus?.close();
  for (const part of new Set([model, embedder, closedBook])) if (part) disposeModel(part);
}

/** Vector of the null document `[CLS] [SEP] [SEP]`, [P]. */
function nullVector({ config }: Context, corpus: Corpus, embedder: Model): Promise<Float32Array> {
  const none = new Int32Array(0);
  const { text, index } = config;
  return embedAll(
    embedder.params,
    embedder.documentTower,
    embedder.embedder,
    blockSequences(
      textFormat(corpus.tokenizer, embedder.embedder),
      [{ title: none, body: none }],
      text.blockTokens,
    ),
    index.tokensPerBatch,
  );
}

/** The closed-book baseline, if the run has one. If it cannot be read, questions are still answered. */
async function closedBookReader(context: Context, corpus: Corpus): Promise<Model | undefined> {
  if (!hasWeights(context, 'closed-book')) return undefined;
  const model = emptyModel(context, corpus);
  try {
    await stageWeights(context, 'closed-book', corpus, model, closedBookShapes(model));
    return model;
  } catch (error) {
    disposeModel(model);
    if (!(error instanceof UserError)) throw error;
    say(`without retrieval utility: ${error.message}`);
    return undefined;
  }
}

function encode(corpus: Corpus, questions: readonly string[]): EncodedQuestion[] {
  questions.forEach(needWords);
  return encodeQuestions(
    corpus,
    questions.map((question) => ({ question, answers: [] })),
  );
}

async function answer(
  { config }: Context,
  parts: Parts,
  questions: readonly EncodedQuestion[],
  extra: ExtraDocuments | undefined,
): Promise<AnsweredQuestion[]> {
  const { model } = parts;
  const { corpus, index, bm25 } = extra ? withExtraDocuments(parts, extra) : parts;
  const atOnce = questionsAtOnce(config);
  const results: AnsweredQuestion[] = [];
  for (let at = 0; at < questions.length; at += atOnce) {
    const part = questions.slice(at, at + atOnce);
    const answered = await answerQuestions({ model, corpus, index, bm25, config }, part, 1);
    const utility = await utilities(parts, part, answered, config);
    answered.forEach((one, b) => {
      const nullProbability = nullProbabilityOf(one, parts.nullDocument, model.temperature);
      results.push({
        question: part[b].question,
        answers: one.answers.map(({ text, block, passage, start, end, probability, prior, likelihood }) => ({
          answer: text,
          probability,
          retrieval: prior,
          reading: likelihood,
          title: corpus.title(block),
          document: corpus.documentId(block),
          before: passage.slice(0, start),
          after: passage.slice(end),
          ...(block >= parts.corpus.blocks && { extraDocument: true as const }),
        })),
        ...(nullProbability !== undefined && { nullProbability }),
        ...(utility[b] !== undefined && { retrievalUtility: utility[b] }),
        ...(part[b].ids.length > config.text.questionTokens - 2 && { truncated: true as const }),
      });
    });
  }
  return results;
}

/**
 * Null document probability: the share that the null document ∅ would have of p(z|x) among the blocks read,
 * exp f(x, ∅) / (exp f(x, ∅) + Σ exp f(x, z)), as in pretraining's softmax (paper, section 3.4), with the current query
 * tower and the document tower that made the index. Fine-tuning and answering have no ∅ (orqa_model.py), so this does not
 * lower the answers' own p(z|x). A high value means that the retriever found nothing relevant.
 */
function nullProbabilityOf(
  { vector, scores }: Answered,
  nullDocument: Float32Array | undefined,
  temperature: number,
): number | undefined {
  if (!nullDocument) return undefined;
  const score = vector.reduce((sum, value, p) => sum + value * nullDocument[p], 0) / temperature;
  return 1 / (1 + scores.reduce((sum, s) => sum + Math.exp(s - score), 0));
}

/**
 * Retrieval utility of the best answer's block, log p(y|z,x) − log p(y|∅,x), in nats (paper, equation 2), for each question
 * with an answer. p(y|z,x) is the share of the span among the spans of its block; p(y|∅,x) comes from another reader, the closed-book
 * baseline, which predicts the answer's word pieces from the whole vocabulary and is given their number. The paper uses the
 * masked-language-model head for both, on masked sentences.
 */
async function utilities(
  { corpus, closedBook }: Parts,
  questions: readonly EncodedQuestion[],
  answered: readonly Answered[],
  config: Context['config'],
): Promise<(number | undefined)[]> {
  const values: (number | undefined)[] = questions.map(() => undefined);
  if (!closedBook) return values;
  const withAnswer = questions.flatMap(({ ids }, b) => {
    const best = answered[b].answers[0];
    const answer = best ? corpus.tokenizer.encode(best.text).ids : new Int32Array(0);
    return answer.length > 0 ? [{ b, ids, answer, reading: Math.log(best.likelihood) }] : [];
  });
  const without = await closedBookLogLikelihoods(closedBook, corpus.tokenizer, withAnswer, config);
  withAnswer.forEach(({ b, reading }, i) => {
    values[b] = reading - without[i];
  });
  return values;
}
