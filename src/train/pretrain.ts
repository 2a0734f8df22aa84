import * as tf from '@tensorflow/tfjs';
import type { Config } from '../config.ts';
import type { Corpus } from '../corpus/store/reader.ts';
import { alone, type Ranks } from '../engine/ranks.ts';
import { type DropoutRng, dropoutRng, type Shape } from '../model/bert.ts';
import { embedAll, querySequences, textFormat } from '../model/embedder.ts';
import { fetchValues } from '../model/host-values.ts';
import { lossGradients, type Model, pretrainedShapes } from '../model/model.ts';
import { realmForward, retrievalUtility } from '../model/realm.ts';
import {
  disposeRealmBatch,
  type MaskedSentence,
  makeRealmBatch,
  type RealmBatch,
} from '../model/realm-batch.ts';
import type { Random } from '../random.ts';
import { dropTrivial } from '../retrieval/candidates.ts';
import { findBlocks } from '../retrieval/hybrid.ts';
import type { Retrieval } from '../retrieval/retrieval.ts';
import type { SearchIndex } from '../retrieval/search.ts';
import { pause } from '../system/stop.ts';
import { maskSpan, maskSpans, maskTokens } from './masking.ts';
import { ownPasses } from './passes.ts';
import { exampleAt, stepRandom } from './sampler.ts';
import { addGradients, type StepResult } from './step.ts';

/** Blocks retrieved in addition to the candidates wanted, so that enough remain after dropping trivial candidates. */
const EXTRA_BLOCKS = 4;

/**
 * One step of pretraining through retrieval (paper, sections 3.1 to 3.4): mask a sentence, retrieve with the index,
 * score the candidates again with the current weights, read the masks with each, and maximise the marginal likelihood.
 */
export function pretrainStep(
  model: Model,
  corpus: Corpus,
  index: SearchIndex,
  config: Config,
  bm25?: Retrieval['bm25'],
  ranks: Ranks = alone,
): { step(step: number): Promise<StepResult>; dispose(): void } {
  const rng = dropoutRng(config.model.dropout, stepRandom(config.seed, -2));
  const shapes = pretrainedShapes(model);
  const { batch, microBatch } = config.pretrain;
  return {
    async step(step) {
      const random = stepRandom(config.seed, step);
      const passes = ownPasses(ranks, batch, microBatch, rng && random.fork());
      // Every rank draws the whole batch: its masks are counted, and the draws of one example follow those before it.
      const all = drawMasked(corpus, config, step * batch, batch, random);
      const masks = all.reduce((n, e) => n + e.targets.length, 0);
      const first = passes[0].from;
      const examples = all.slice(first, passes.at(-1)!.to);
      const { candidates, dropped, looked } = await retrieveCandidates(
        model,
        corpus,
        index,
        examples,
        config,
        bm25,
      );
      let gradients: tf.NamedTensorMap | undefined;
      const sums: Record<string, number> = {};
      for (const { from, to, random } of passes) {
        if (rng) rng.random = random!;
        const input = makeRealmBatch(
          model,
          examples.slice(from - first, to - first),
          candidates.slice(from - first, to - first),
          corpus,
          config.text,
          config.pretrain.nullDocument,
        );
        const result = await realmGradients(model, shapes, input, config.pretrain, masks, rng);
        gradients = addGradients(gradients, result.gradients);
        for (const [name, value] of Object.entries(result.metrics)) sums[name] = (sums[name] ?? 0) + value;
        await pause();
      }
      return {
        gradients: gradients!,
        metrics: { ...sums, loss: sums.loss },
        rates: { trivialDropped: [dropped, looked] },
      };
    },
    dispose: () => rng?.dispose(),
  };
}

/**
 * `n` sentences from `position` on in the sampler's order, masked according to `pretrain.masking`, or to the argument.
 * All have a salient span, however they are masked: the corpus keeps no others.
 */
export function drawMasked(
  corpus: Corpus,
  config: Config,
  position: number,
  n: number,
  random: Random,
  masking = config.pretrain.masking,
): MaskedSentence[] {
  const { sentences, tokenizer } = corpus;
  const { maxMasks } = config.pretrain;
  const examples: MaskedSentence[] = [];
  for (let i = 0; i < n; i++) {
    const at = exampleAt(config.seed + 1, sentences.count, position + i);
    const [ids, source] = [sentences.ids(at), sentences.source(at)];
    examples.push(
      masking === 'salient'
        ? maskSpan(ids, sentences.spans(at), source, maxMasks, tokenizer.mask, random)
        : masking === 'tokens'
          ? maskTokens(ids, source, maxMasks, tokenizer.mask, random)
          : maskSpans(ids, source, maxMasks, tokenizer, random),
    );
  }
  return examples;
}

/**
 * Candidates of each example by the current query vectors and the index, without trivial candidates
 * (`pretrain.dropTrivial`): at most K − 1 blocks, even if the null document is not the K-th, so that runs with and
 * without it differ in nothing else. `dropped` counts the trivial candidates among the `looked` blocks examined.
 * @param bm25 finds blocks too, by the words of the sentence that are not masked (`pretrain.hybrid`); the paper retrieves by
 *   inner product alone
 */
export async function retrieveCandidates(
  model: Model,
  corpus: Corpus,
  index: SearchIndex,
  examples: MaskedSentence[],
  config: Config,
  bm25?: Retrieval['bm25'],
): Promise<{ candidates: number[][]; dropped: number; looked: number }> {
  const limit = config.pretrain.candidates - 1;
  const vectors = await queryVectors(model, corpus, examples, config);
  const k = Math.min(limit + EXTRA_BLOCKS, corpus.blocks);
  const { mask } = corpus.tokenizer;
  const visible = ({ masked }: MaskedSentence) => corpus.tokenizer.decode(masked.filter((id) => id !== mask));
  const found = bm25
    ? findBlocks({ index, bm25, config }, examples.map(visible), vectors, k)
    : index.search(vectors, k);
  let dropped = 0;
  let looked = 0;
  const candidates = examples.map((example, i) => {
    const retrieved = found.blocks.subarray(i * k, i * k + found.counts[i]);
    if (!config.pretrain.dropTrivial) return [...retrieved.subarray(0, limit)];
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
  return { candidates, dropped, looked };
}

/** Vectors of masked sentences by the current weights, [n, P]. */
export function queryVectors(
  model: Model,
  corpus: Corpus,
  examples: readonly MaskedSentence[],
  config: Config,
): Promise<Float32Array> {
  const queries = querySequences(
    textFormat(corpus.tokenizer, model.embedder),
    examples.map((e) => e.masked),
    config.text.sentenceTokens,
  );
  return embedAll(model.params, model.queryTower, model.embedder, queries, config.index.tokensPerBatch);
}

/**
 * Gradients and metrics of one pass.
 * @param allMasks masked word pieces in the whole batch: the loss is the mean over them, as in the released code
 */
export async function realmGradients(
  model: Model,
  shapes: readonly Shape[],
  input: RealmBatch,
  config: Config['pretrain'],
  allMasks: number,
  rng: DropoutRng | undefined,
): Promise<StepResult> {
  const [B, K] = input.candidates.shape;
  let kept: tf.Tensor[] = [];
  const { value, gradients } = lossGradients(model, shapes, () => {
    const out = realmForward(model, input, config.marginalize, rng);
    kept = [out.logPrior, out.logTokens, out.marginal].map((t) => tf.keep(t.clone()));
    return out.marginal.sum().div(-allMasks) as tf.Scalar;
  });
  const [[loss], masks, logPrior, logTokens, marginal] = await fetchValues(value, input.masks, ...kept);
  const pieces = masks.reduce((a, b) => a + b, 0);
  let nullProbability = 0;
  for (let b = 0; b < B; b++) nullProbability += Math.exp(logPrior[b * K]) / config.batch;
  const metrics = {
    loss,
    retrievalUtility: (retrievalUtility(marginal, logTokens, masks, K) * pieces) / allMasks,
    nullProbability,
    masks: pieces / config.batch,
  };
  tf.dispose([value, ...kept]);
  disposeRealmBatch(input);
  return { gradients, metrics };
}
