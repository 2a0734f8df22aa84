import * as tf from '@tensorflow/tfjs';
import { answerSpans } from '../answers/has-answer.ts';
import type { Config } from '../config.ts';
import type { Corpus } from '../corpus/store/reader.ts';
import { alone, type Ranks } from '../engine/ranks.ts';
import {
  bertShapes,
  type DropoutRng,
  disposeInput,
  dropoutRng,
  encoderInput,
  gatherRows,
  type Shape,
} from '../model/bert.ts';
import { groupByLength, pairIds, type SpecialIds } from '../model/embedder.ts';
import { fetchValues } from '../model/host-values.ts';
import { lossGradients, type Model } from '../model/model.ts';
import { readMasks } from '../model/realm.ts';
import type { MaskedBatch, MaskedSentence } from '../model/realm-batch.ts';
import type { Random } from '../random.ts';
import { pause } from '../system/stop.ts';
import { ownPasses } from './passes.ts';
import { drawMasked } from './pretrain.ts';
import { stepRandom } from './sampler.ts';
import { addGradients, type StepResult } from './step.ts';

// The warm-up of the reader: masked salient spans, predicted with a document that is given, not retrieved. The paper has no
// such stage: its reader starts from BERT, whose masked-language-model head fills masks before any training. A sentence
// encoder comes without that head. Pretraining alone teaches the new one little: the retriever is rewarded for a document
// only if the reader can already copy from it, and the reader sees few right documents until the retriever is rewarded.

/**
 * The curriculum, by the share of the steps that are done. Copying from a whole block is learned slowly if training starts
 * with it; copying from the sentence alone is learned fast, and carries over (scripts/world-encoder.ts has the same order).
 * Up to the first share every document is the sentence itself; from the second on none is.
 */
const SENTENCES_UNTIL = 0.1;
const BLOCKS_FROM = 0.25;
/**
 * Shares of examples with the null document and with another document, once documents are whole blocks; the second share is
 * higher in the last part. If the reader copied from any document, all candidates but the right one would lower the
 * likelihood, and pretraining would teach the retriever to prefer the null document. So the reader must learn to recognise
 * whether there is something to copy.
 */
const WITH_NULL_DOCUMENT = 0.06;
const WITH_OTHER_DOCUMENT = 0.06;
const LAST_PART_FROM = 0.4;
const WITH_OTHER_DOCUMENT_FINALLY = 0.28;
/** Blocks drawn to choose the other document from: the one that shares most word pieces with the sentence. */
const OTHERS_DRAWN = 12;
/**
 * Of the blocks that hold the hidden span outside its sentence, too: the share from which the sentence is removed. Pretraining
 * reads such documents, since it drops those that hold the sentence (trivial candidates).
 */
const WITHOUT_SENTENCE = 0.5;

const NOTHING = new Int32Array(0);

/** What the document of an example is. Only the first three hold the hidden span. */
export type DocumentKind = 'sentence' | 'block' | 'rest' | 'other' | 'null';

/** A masked sentence with the document that it is read with. */
export interface CopyExample extends MaskedSentence {
  kind: DocumentKind;
  /** Word pieces of the document, without its title, as in pretraining. */
  document: Int32Array;
}

/** What the stage trains: the reader's encoder and its masked-language-model head. */
export function readerWarmupShapes(model: Model): Shape[] {
  return bertShapes(model.readerTower, model.reader, true).filter(({ name }) => !name.includes('pooler.'));
}

/** One step: a batch of sentences in the order of pretraining, each with a document, and the gradients of −log p of the masks. */
export function readerWarmupStep(
  model: Model,
  corpus: Corpus,
  config: Config,
  ranks: Ranks = alone,
): { step(step: number): Promise<StepResult>; dispose(): void } {
  const rng = dropoutRng(config.model.dropout, stepRandom(config.seed, -5));
  const shapes = readerWarmupShapes(model);
  const { batch, microBatch, steps } = config.readerWarmup;
  return {
    async step(step) {
      const random = stepRandom(config.seed, step);
      const passes = ownPasses(ranks, batch, microBatch, rng && random.fork());
      // The same order as in pretraining: sentences that it leaves for an evaluation are not trained on here either.
      const examples = drawMasked(corpus, config, step * batch, batch, random, 'salient').map((masked) =>
        withDocument(corpus, masked, step / steps, config.text, random),
      );
      const sums = new Sums();
      const masks = examples.reduce((n, e) => n + e.targets.length, 0);
      let gradients: tf.NamedTensorMap | undefined;
      for (const { from, to, random } of passes) {
        if (rng) rng.random = random!;
        const part = examples.slice(from, to);
        const more = await copyGradients(model, shapes, corpus.tokenizer, part, { config, masks, rng, sums });
        gradients = addGradients(gradients, more);
        await pause();
      }
      return { gradients: gradients!, ...sums.results(masks) };
    },
    dispose: () => rng?.dispose(),
  };
}

/**
 * The document of a masked sentence, by the curriculum.
 * @param progress share of the stage's steps that are done, 0 to 1
 */
export function withDocument(
  corpus: Corpus,
  masked: MaskedSentence,
  progress: number,
  text: Pick<Config['text'], 'blockTokens'>,
  random: Random,
): CopyExample {
  const { sentence, targets } = masked;
  const itself: CopyExample = { ...masked, kind: 'sentence', document: sentence };
  const wholeBlocks = (progress - SENTENCES_UNTIL) / (BLOCKS_FROM - SENTENCES_UNTIL);
  if (random.float() >= wholeBlocks) return itself;
  const span = Int32Array.from(targets);
  const draw = random.float();
  const others = progress < LAST_PART_FROM ? WITH_OTHER_DOCUMENT : WITH_OTHER_DOCUMENT_FINALLY;
  if (draw < WITH_NULL_DOCUMENT) return { ...masked, kind: 'null', document: NOTHING };
  if (draw < WITH_NULL_DOCUMENT + others) {
    const document = otherDocument(corpus, masked, span, random);
    return document ? { ...masked, kind: 'other', document } : { ...masked, kind: 'null', document: NOTHING };
  }
  const limit = text.blockTokens - 2; // as in `makeRealmBatch`
  const body = bodyWith(corpus, masked, random).subarray(0, limit);
  if (random.float() < WITHOUT_SENTENCE) {
    const rest = without(body, sentence);
    if (rest && holds(rest, span)) return { ...masked, kind: 'rest', document: rest };
  }
  return holds(body, span) ? { ...masked, kind: 'block', document: body } : itself;
}

/**
 * A body that holds the sentence: its own block, or for a sentence from elsewhere (`data.sentences`) a random block with the
 * sentence put between two of its sentences.
 */
function bodyWith(corpus: Corpus, { sentence, source }: MaskedSentence, random: Random): Int32Array {
  if (source >= 0) return corpus.bodyIds(source);
  const block = random.int(corpus.blocks);
  const body = corpus.bodyIds(block);
  const starts = corpus.sentenceStarts(block);
  const at = starts.length > 0 ? starts[random.int(starts.length)] : 0;
  return Int32Array.from([...body.subarray(0, at), ...sentence, ...body.subarray(at)]);
}

/** The body without the first occurrence of the sentence; undefined if it does not hold it. */
function without(body: Int32Array, sentence: Int32Array): Int32Array | undefined {
  const [start] = answerSpans(body, [sentence]);
  if (start === undefined) return undefined;
  const rest = new Int32Array(body.length - sentence.length);
  rest.set(body.subarray(0, start));
  rest.set(body.subarray(start + sentence.length), start);
  return rest;
}

const holds = (text: Int32Array, span: Int32Array) => answerSpans(text, [span]).length > 0;

/**
 * The random block that shares most of its word pieces with the sentence and does not hold the span: a block about something
 * else is too easy to tell from the right one. Undefined if every block drawn holds the span.
 */
function otherDocument(
  corpus: Corpus,
  { sentence, source }: MaskedSentence,
  span: Int32Array,
  random: Random,
): Int32Array | undefined {
  const pieces = new Set(sentence);
  let best: Int32Array | undefined;
  let most = -1;
  for (let i = 0; i < OTHERS_DRAWN; i++) {
    const block = random.int(corpus.blocks);
    if (block === source) continue;
    const body = corpus.bodyIds(block);
    const shared = new Set(body.filter((piece) => pieces.has(piece))).size;
    if (shared <= most || holds(body, span)) continue;
    most = shared;
    best = body;
  }
  return best;
}

/** Sequences `[CLS] masked sentence [SEP] document [SEP]` in groups of similar length, and the examples of each group. */
export function copyBatches(
  special: SpecialIds,
  examples: readonly CopyExample[],
  { sentenceTokens, blockTokens }: Pick<Config['text'], 'sentenceTokens' | 'blockTokens'>,
): { batch: MaskedBatch; examples: CopyExample[] }[] {
  const pairs = examples.map(({ masked, document }) =>
    pairIds(
      special,
      masked.subarray(0, sentenceTokens - 2),
      document.subarray(0, blockTokens - 2),
      sentenceTokens + blockTokens,
    ),
  );
  return groupByLength(pairs.map(({ ids }) => ids)).map((group) => {
    const own = group.map((i) => examples[i]);
    const input = encoderInput(
      group.map((i) => pairs[i].ids),
      group.map((i) => pairs[i].firstSegment),
    );
    const masks = gatherRows(
      input,
      own.map(({ positions }) => positions),
    );
    const targets = tf.tensor1d(
      own.flatMap(({ targets }) => targets),
      'int32',
    );
    return { batch: { input, masks, targets }, examples: own };
  });
}

/** Gradients of one pass, its share of the mean over all `masks` of the batch. */
async function copyGradients(
  model: Model,
  shapes: readonly Shape[],
  special: SpecialIds,
  examples: readonly CopyExample[],
  { config, masks, rng, sums }: { config: Config; masks: number; rng?: DropoutRng; sums: Sums },
): Promise<tf.NamedTensorMap> {
  const groups = copyBatches(special, examples, config.text);
  let kept: tf.Tensor1D | undefined;
  const { value, gradients } = lossGradients(model, shapes, () => {
    const logTokens = tf.concat1d(
      groups.map(({ batch }) => readMasks(model.params, model.readerTower, model.reader, batch, rng)),
    );
    kept = tf.keep(logTokens.clone());
    return logTokens.sum().div(-masks) as tf.Scalar;
  });
  const [logTokens] = await fetchValues(kept!);
  tf.dispose([value, kept!]);
  for (const { batch } of groups) {
    disposeInput(batch.input);
    disposeInput(batch.masks);
    batch.targets.dispose();
  }
  let at = 0;
  for (const { kind, targets } of groups.flatMap((group) => group.examples)) {
    for (let m = 0; m < targets.length; m++) sums.add(kind, -logTokens[at++]);
  }
  return gradients;
}

/** Sums of −log p over masked word pieces, by the kind of document. */
class Sums {
  #sums = new Map<DocumentKind, { sum: number; n: number }>();
  add(kind: DocumentKind, loss: number): void {
    const held = this.#sums.get(kind) ?? { sum: 0, n: 0 };
    this.#sums.set(kind, { sum: held.sum + loss, n: held.n + 1 });
  }
  /**
   * In nats a masked word piece: of all, as a share of the mean over all `masks` of the batch; and with a document that holds
   * the hidden span, with another, and with the null document.
   */
  results(masks: number): Pick<StepResult, 'metrics' | 'rates'> {
    const of = (...kinds: DocumentKind[]): [sum: number, n: number] => {
      const parts = kinds.flatMap((kind) => this.#sums.get(kind) ?? []);
      return [parts.reduce((s, p) => s + p.sum, 0), parts.reduce((s, p) => s + p.n, 0)];
    };
    const copied = of('sentence', 'block', 'rest');
    const [sum] = of('sentence', 'block', 'rest', 'other', 'null');
    return {
      metrics: { loss: sum / masks },
      rates: { copyLoss: copied, otherLoss: of('other'), nullLoss: of('null') },
    };
  }
}
