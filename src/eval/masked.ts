import * as tf from '@tensorflow/tfjs';
import type { Config } from '../config.ts';
import { salientSpans } from '../corpus/spans/salient-spans.ts';
import { tokenSpans } from '../corpus/split.ts';
import type { Corpus } from '../corpus/store/reader.ts';
import { readSentences } from '../datasets/sentences.ts';
import { fetchValues } from '../model/host-values.ts';
import type { Model } from '../model/model.ts';
import { realmForward } from '../model/realm.ts';
import { disposeRealmBatch, type MaskedSentence, makeRealmBatch } from '../model/realm-batch.ts';
import type { Random } from '../random.ts';
import type { SearchIndex } from '../retrieval/search.ts';
import { UserError } from '../system/errors.ts';
import { progress } from '../system/progress.ts';
import { maskSpan } from '../train/masking.ts';
import { drawMasked, retrieveCandidates } from '../train/pretrain.ts';
import { stepRandom } from '../train/sampler.ts';
import type { MetricValues } from './metric-table.ts';
import { meanInterval, ratioInterval } from './statistics.ts';

// The pretrained model as a language model: how well it predicts masked salient spans with retrieval.

/** Most sentences that are scored: 754 of the demo give its perplexity within ±14 %. */
const MAX_SENTENCES = 1000;

/** Sentences, each with one masked salient span: always the same for one seed and corpus. */
export interface MaskedSentences {
  examples: MaskedSentence[];
  /** False if training has seen them; sentences from a file are assumed to be unseen. */
  heldOut: boolean;
}

/**
 * Sentences of X that pretraining has not reached yet, the last ones in its order; if it has seen all of X, simply the
 * last ones. Salient spans are masked, whatever `pretrain.masking` is.
 * @param trained number of sentences that pretraining has drawn
 */
export function untrainedSentences(corpus: Corpus, config: Config, trained: number): MaskedSentences {
  const { count } = corpus.sentences;
  const heldOut = trained < count;
  const n = Math.min(MAX_SENTENCES, heldOut ? count - trained : count);
  return {
    examples: Array.from(
      { length: n },
      (_, i) => drawMasked(corpus, config, count - n + i, 1, maskRandom(config, i), 'salient')[0],
    ),
    heldOut,
  };
}

/** The first sentences with a salient span from a file in a format of `data.sentences`. */
export async function sentencesOf(path: string, corpus: Corpus, config: Config): Promise<MaskedSentences> {
  const examples: MaskedSentence[] = [];
  for await (const { text, spans } of readSentences(path)) {
    const encoding = corpus.tokenizer.encode(text);
    const length = Math.min(encoding.ids.length, config.text.sentenceTokens - 2);
    const all = tokenSpans(encoding, spans ?? salientSpans(text));
    const pairs = Int32Array.from(
      all.filter((_, i) => all[i | 1] <= length), // those that end within the part that is kept
    );
    if (pairs.length === 0) continue;
    const random = maskRandom(config, examples.length);
    const ids = encoding.ids.slice(0, length);
    examples.push(maskSpan(ids, pairs, -1, config.pretrain.maxMasks, corpus.tokenizer.mask, random));
    if (examples.length === MAX_SENTENCES) break;
  }
  if (examples.length > 0) return { examples, heldOut: true };
  throw new UserError(
    `${path}: not one sentence holds a name or a date to mask; add "spans" to the sentences`,
  );
}

/** The random numbers that choose the span of the `number`-th sentence. */
function maskRandom({ seed }: Config, number: number): Random {
  return stepRandom(seed + 7, number);
}

/** The model's scores for each sentence's masked pieces, in nats. */
export interface MaskedScores {
  /** Number of masked pieces. */
  pieces: number[];
  /** −log p(y|x), marginal over the candidates, and −log p(y|∅,x), with the null document only. */
  loss: number[];
  nullLoss: number[];
  /** p(∅|x). */
  nullProbability: number[];
}

/**
 * Retrieves and reads like a step of pretraining, without dropout and gradients. Trivial candidates are always dropped,
 * whatever `pretrain.dropTrivial` is: they would reveal what is masked.
 */
export async function scoreMasked(
  model: Model,
  corpus: Corpus,
  index: SearchIndex,
  examples: MaskedSentence[],
  config: Config,
): Promise<MaskedScores> {
  const scores: MaskedScores = { pieces: [], loss: [], nullLoss: [], nullProbability: [] };
  const { microBatch, marginalize, nullDocument } = config.pretrain;
  const settings = { ...config, pretrain: { ...config.pretrain, dropTrivial: true } };
  const bar = progress('masked spans', examples.length, { unit: 'sentences' });
  for (let at = 0; at < examples.length; at += microBatch) {
    const part = examples.slice(at, at + microBatch);
    const { candidates } = await retrieveCandidates(model, corpus, index, part, settings);
    const batch = makeRealmBatch(model, part, candidates, corpus, config.text, nullDocument);
    const [B, K] = batch.candidates.shape;
    const M = batch.masks.shape[1];
    const out = tf.tidy(() => {
      const { marginal, logTokens, logPrior } = realmForward(model, batch, marginalize);
      return { marginal, logTokens, logPrior };
    });
    const [marginal, logTokens, logPrior] = await fetchValues(out.marginal, out.logTokens, out.logPrior);
    tf.dispose(out);
    disposeRealmBatch(batch);
    for (let b = 0; b < B; b++) {
      const n = part[b].targets.length;
      let nullLoss = 0;
      for (let m = 0; m < n; m++) nullLoss -= logTokens[b * K * M + m]; // the null document comes first
      scores.pieces.push(n);
      scores.loss.push(-marginal[b]);
      scores.nullLoss.push(nullLoss);
      scores.nullProbability.push(Math.exp(logPrior[b * K]));
    }
    bar.at(scores.pieces.length);
  }
  bar.end();
  return scores;
}

/**
 * Perplexity of a masked word piece, exp of the mean of −log p, with retrieval and with the null document only; and
 * retrieval utility, the mean of log p(y|x) − log p(y|∅,x) per piece (paper, section 4.4; computed from the marginal, as in
 * the released code). Intervals are over sentences.
 */
export function maskedMetrics(
  { pieces, loss, nullLoss, nullProbability }: MaskedScores,
  seed: number,
): MetricValues {
  const perplexity = (losses: number[]) => {
    const { value, low, high } = ratioInterval(losses, pieces, seed);
    return { value: Math.exp(value), low: Math.exp(low), high: Math.exp(high) };
  };
  return {
    perplexity: perplexity(loss),
    nullPerplexity: perplexity(nullLoss),
    retrievalUtility: ratioInterval(
      loss.map((value, i) => nullLoss[i] - value),
      pieces,
      seed,
    ),
    nullProbability: meanInterval(nullProbability, seed),
  };
}
