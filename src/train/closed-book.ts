import * as tf from '@tensorflow/tfjs';
import type { Config } from '../config.ts';
import {
  bertShapes,
  type DropoutRng,
  disposeInput,
  dropoutRng,
  encode,
  encoderInput,
  gatherRows,
  maskedLanguageModel,
  type Shape,
} from '../model/bert.ts';
import { pairIds, type SpecialIds } from '../model/embedder.ts';
import { fetchValues } from '../model/host-values.ts';
import { lossGradients, type Model } from '../model/model.ts';
import type { EncodedQuestion } from '../model/questions.ts';
import { readMasks } from '../model/realm.ts';
import type { MaskedBatch } from '../model/realm-batch.ts';
import type { WordPiece } from '../tokenizer/wordpiece.ts';
import { exampleAt, stepRandom } from './sampler.ts';
import type { StepResult } from './step.ts';

// The closed-book baseline: the same pretrained reader, tuned on the same questions, with the null document only.
// `[CLS] question [MASK]… [SEP] [SEP]`: p(y | ∅, x), what the parameters know without retrieval.

/** Shapes of what the baseline trains and answers with: the reader without its pooler. */
export function closedBookShapes(model: Model): Shape[] {
  return bertShapes(model.readerTower, model.reader, true).filter(({ name }) => !name.includes('pooler.'));
}

/** One step of tuning the reader to answer by its masked-language-model head. */
export function closedBookStep(
  model: Model,
  shapes: readonly Shape[],
  special: SpecialIds,
  questions: readonly EncodedQuestion[],
  config: Config,
): { step(step: number): Promise<StepResult>; dispose(): void } {
  const rng = dropoutRng(config.model.dropout, stepRandom(config.seed, -4));
  const { batch } = config.closedBook;
  const answerable = questions.filter((q) => q.answerIds.length > 0);
  return {
    step(step) {
      const random = stepRandom(config.seed, step);
      if (rng) rng.random = random.fork();
      const examples = [];
      for (let i = 0; i < batch; i++) {
        const question = answerable[exampleAt(config.seed + 3, answerable.length, step * batch + i)];
        const answer = random.pick(question.answerIds).subarray(0, config.model.maxSpanWidth);
        examples.push({ ids: question.ids, answer });
      }
      return gradientsOf(model, shapes, special, examples, config, rng);
    },
    dispose: () => rng?.dispose(),
  };
}

async function gradientsOf(
  model: Model,
  shapes: readonly Shape[],
  special: SpecialIds,
  examples: readonly { ids: Int32Array; answer: Int32Array }[],
  config: Config,
  rng: DropoutRng | undefined,
): Promise<StepResult> {
  const batch = answerBatch(special, examples, config);
  const { value, gradients } = lossGradients(
    model,
    shapes,
    () => readMasks(model.params, model.readerTower, model.reader, batch, rng).mean().neg() as tf.Scalar,
  );
  const [[loss]] = await fetchValues(value);
  value.dispose();
  disposeBatch(batch);
  return { gradients, metrics: { loss } };
}

/** Masks for the pieces of an answer to each question, and the hidden pieces, in order. */
function answerBatch(
  special: SpecialIds,
  examples: readonly { ids: Int32Array; answer: Int32Array }[],
  config: Config,
): MaskedBatch {
  const built = examples.map(({ ids, answer }) =>
    maskedQuestion(special, ids, answer.length, config.text.questionTokens),
  );
  const input = encoderInput(
    built.map((b) => b.sequence.ids),
    built.map((b) => b.sequence.firstSegment),
  );
  const masks = gatherRows(
    input,
    built.map((b) => b.masks),
  );
  const targets = tf.tensor1d(
    examples.flatMap((e) => [...e.answer]),
    'int32',
  );
  return { input, masks, targets };
}

function disposeBatch({ input, masks, targets }: MaskedBatch): void {
  targets.dispose();
  disposeInput(input);
  disposeInput(masks);
}

/**
 * log p(y | ∅, x) of an answer to each question: the sum over its word pieces, at most `model.maxSpanWidth` of them as in
 * tuning. The number of masks shows the reader how many there are. Every answer must have at least one.
 */
export async function closedBookLogLikelihoods(
  model: Model,
  special: SpecialIds,
  questions: readonly { ids: Int32Array; answer: Int32Array }[],
  config: Config,
): Promise<number[]> {
  if (questions.length === 0) return [];
  const examples = questions.map(({ ids, answer }) => ({
    ids,
    answer: answer.subarray(0, config.model.maxSpanWidth),
  }));
  const batch = answerBatch(special, examples, config);
  const values = readMasks(model.params, model.readerTower, model.reader, batch);
  const [logPieces] = await fetchValues(values);
  values.dispose();
  disposeBatch(batch);
  let at = 0;
  return examples.map(({ answer }) => {
    const own = logPieces.subarray(at, at + answer.length);
    at += answer.length;
    return own.reduce((sum, value) => sum + value, 0);
  });
}

/** `[CLS] question [MASK] × n [SEP] [SEP]`, the question truncated to fit, and the positions of the masks. */
function maskedQuestion(special: SpecialIds, question: Int32Array, n: number, limit: number) {
  const kept = question.subarray(0, limit - 3);
  const ids = new Int32Array(kept.length + n).fill(special.mask);
  ids.set(kept);
  return {
    sequence: pairIds(special, ids, new Int32Array(0), ids.length + 3),
    masks: Int32Array.from({ length: n }, (_, m) => kept.length + 1 + m),
  };
}

/** Answers from the parameters only: the likeliest pieces for each number of masks; the best mean log probability wins. */
export async function closedBookAnswers(
  model: Model,
  tokenizer: WordPiece,
  questions: readonly EncodedQuestion[],
  config: Config,
): Promise<string[]> {
  const best = questions.map(() => ({ score: -Infinity, text: '' }));
  for (let n = 1; n <= config.model.maxSpanWidth; n++) {
    const built = questions.map((q) => maskedQuestion(tokenizer, q.ids, n, config.text.questionTokens));
    const input = encoderInput(
      built.map((b) => b.sequence.ids),
      built.map((b) => b.sequence.firstSegment),
    );
    const masks = gatherRows(
      input,
      built.map((b) => b.masks),
    );
    const { scores, pieces } = tf.tidy(() => {
      const outputs = encode(model.params, model.readerTower, model.reader, input, undefined, masks);
      const logits = maskedLanguageModel(model.params, model.readerTower, model.reader, outputs);
      return {
        scores: tf.logSoftmax(logits).max(1).reshape([built.length, n]).mean(1),
        pieces: logits.argMax(1),
      };
    });
    const [score, piece] = await fetchValues(scores, pieces);
    tf.dispose([scores, pieces]);
    disposeInput(input);
    disposeInput(masks);
    best.forEach((b, i) => {
      if (score[i] <= b.score) return;
      b.score = score[i];
      b.text = tokenizer.decode(Int32Array.from(piece.subarray(i * n, (i + 1) * n)));
    });
  }
  return best.map((b) => b.text);
}
