import * as tf from '@tensorflow/tfjs';
import type { Config } from '../config.ts';
import type { Corpus } from '../corpus/store.ts';
import { dropoutNoise, type Noise, type Shape } from '../model/bert.ts';
import { embedAll, querySequences } from '../model/embedder.ts';
import { disposeFeed, type Feed, type MaskedSentence, makeFeed } from '../model/feed.ts';
import { lossGradients, type Model, pretrainedShapes } from '../model/model.ts';
import { read } from '../model/read.ts';
import { realmForward, retrievalUtility } from '../model/realm.ts';
import type { Random } from '../random.ts';
import { dropTrivial } from '../retrieval/candidates.ts';
import type { SearchIndex } from '../retrieval/search.ts';
import { addGradients, type StepResult } from './loop.ts';
import { exampleAt, stepRandom } from './sampler.ts';

/** Blocks retrieved beyond the candidates wanted, so that dropping trivial sources leaves enough. */
const SPARE = 4;

/**
 * One step of pretraining through retrieval (paper, sections 3.1 to 3.4): mask a salient span, retrieve with the index,
 * score the candidates again with today's weights, read the masks under each, and follow the marginal likelihood.
 */
export function pretrainStep(
  model: Model,
  corpus: Corpus,
  index: SearchIndex,
  config: Config,
): { step(step: number): Promise<StepResult>; dispose(): void } {
  const noise = dropoutNoise(config.model.dropout, stepRandom(config.seed, -2));
  const shapes = pretrainedShapes(model);
  const { batch, microBatch } = config.pretrain;
  return {
    async step(step) {
      const random = stepRandom(config.seed, step);
      if (noise) noise.random = random.fork();
      const examples = drawMasked(corpus, config, step * batch, batch, random);
      const { candidates, dropped } = await retrieveCandidates(model, corpus, index, examples, config);
      const masks = examples.reduce((n, e) => n + e.targets.length, 0);
      let gradients: tf.NamedTensorMap | undefined;
      const sums: Record<string, number> = {};
      for (let at = 0; at < batch; at += microBatch) {
        const feed = makeFeed(
          model,
          examples.slice(at, at + microBatch),
          candidates.slice(at, at + microBatch),
          corpus,
          config.text,
        );
        const result = await realmGradients(model, shapes, feed, config.pretrain, masks, noise);
        gradients = addGradients(gradients, result.gradients);
        for (const [name, value] of Object.entries(result.figures)) sums[name] = (sums[name] ?? 0) + value;
      }
      return {
        gradients: gradients!,
        figures: { ...sums, loss: sums.loss, trivialDropped: dropped },
      };
    },
    dispose: () => noise?.dispose(),
  };
}

/** `n` sentences from `position` on in the sampler's order, one salient span of each masked. */
export function drawMasked(
  corpus: Corpus,
  config: Config,
  position: number,
  n: number,
  random: Random,
): MaskedSentence[] {
  const { sentences, tokenizer } = corpus;
  const examples: MaskedSentence[] = [];
  for (let i = 0; i < n; i++) {
    const at = exampleAt(config.seed + 1, sentences.count, position + i);
    examples.push(
      maskSpan(
        sentences.ids(at),
        sentences.spans(at),
        sentences.source(at),
        config.pretrain.maxMasks,
        tokenizer.mask,
        random,
      ),
    );
  }
  return examples;
}

/** Masks one span, uniformly chosen: always [MASK], no 80/10/10 rule (released code). At most `maxMasks` pieces enter the loss. */
export function maskSpan(
  sentence: Int32Array,
  spans: Int32Array,
  source: number,
  maxMasks: number,
  mask: number,
  random: Random,
): MaskedSentence {
  const chosen = random.int(spans.length / 2);
  const start = spans[2 * chosen];
  const end = spans[2 * chosen + 1];
  const masked = sentence.slice();
  masked.fill(mask, start, end);
  const counted = Math.min(end, start + maxMasks);
  const positions = [];
  for (let i = start; i < counted; i++) positions.push(i + 1); // [CLS] comes before
  return { sentence, masked, positions, targets: [...sentence.subarray(start, counted)], source };
}

/**
 * Candidates of each example by today's query vectors and the index, trivial sources dropped: at most K − 1 blocks.
 * `dropped` is the share of trivial ones among the blocks looked at.
 */
export async function retrieveCandidates(
  model: Model,
  corpus: Corpus,
  index: SearchIndex,
  examples: MaskedSentence[],
  config: Config,
): Promise<{ candidates: number[][]; dropped: number }> {
  const limit = config.pretrain.candidates - 1;
  const vectors = await queryVectors(model, corpus, examples, config);
  const k = Math.min(limit + SPARE, corpus.blocks);
  const found = index.search(vectors, k);
  let dropped = 0;
  let looked = 0;
  const candidates = examples.map((example, i) => {
    const retrieved = found.blocks.subarray(i * k, i * k + found.counts[i]);
    const kept = dropTrivial(
      corpus,
      example.sentence,
      example.source,
      retrieved,
      limit,
      config.pretrain.trivialOverlap,
    );
    dropped += kept.dropped;
    looked += kept.dropped + kept.candidates.length;
    return kept.candidates;
  });
  return { candidates, dropped: dropped / Math.max(1, looked) };
}

/** Vectors of masked sentences by the weights of now, [n, P]. */
export function queryVectors(
  model: Model,
  corpus: Corpus,
  examples: readonly MaskedSentence[],
  config: Config,
): Promise<Float32Array> {
  const queries = querySequences(
    corpus.tokenizer,
    examples.map((e) => e.masked),
    config.text.sentenceTokens,
  );
  return embedAll(model.params, model.queryTower, model.embedder, queries, config.index.tokensPerBatch);
}

/**
 * Gradients and figures of one pass.
 * @param allMasks masked word pieces of the whole batch: the loss is the mean over them, as in the released code
 */
export async function realmGradients(
  model: Model,
  shapes: readonly Shape[],
  feed: Feed,
  config: Config['pretrain'],
  allMasks: number,
  noise: Noise | undefined,
): Promise<StepResult> {
  const [B, K] = feed.candidates.shape;
  let kept: tf.Tensor[] = [];
  const { value, gradients } = lossGradients(model, shapes, () => {
    const out = realmForward(model, feed, config.marginalize, noise);
    kept = [out.logPrior, out.logTokens, out.marginal].map((t) => tf.keep(t.clone()));
    return out.marginal.sum().div(-allMasks) as tf.Scalar;
  });
  const [[loss], masks, logPrior, logTokens, marginal] = await read(value, feed.masks, ...kept);
  const pieces = masks.reduce((a, b) => a + b, 0);
  let nullMass = 0;
  for (let b = 0; b < B; b++) nullMass += Math.exp(logPrior[b * K]) / config.batch;
  const figures = {
    loss,
    retrievalUtility: (retrievalUtility(marginal, logTokens, masks, K) * pieces) / allMasks,
    nullMass,
    masks: pieces / config.batch,
  };
  tf.dispose([value, ...kept]);
  disposeFeed(feed);
  return { gradients, figures };
}
