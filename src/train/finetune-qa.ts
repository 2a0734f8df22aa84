import { answerFinder } from '../answers/answer-finder.ts';
import type { Config } from '../config.ts';
import type { Corpus } from '../corpus/store/reader.ts';
import { alone, type Ranks } from '../engine/ranks.ts';
import { type DropoutRng, dropoutRng, type Shape } from '../model/bert.ts';
import { isRetriever, type Model, modelShapes } from '../model/model.ts';
import { type EncodedQuestion, questionVectors } from '../model/questions.ts';
import type { Random } from '../random.ts';
import type { SearchIndex } from '../retrieval/search.ts';
import { pause } from '../system/stop.ts';
import { watchPositives } from './no-positives.ts';
import { ownPasses } from './passes.ts';
import { disposeQaBatch, makeQaBatch, type QaSource } from './qa-batch.ts';
import { candidateMaker, type Rank, rankByIndex, type WordSearch } from './qa-candidates.ts';
import { contrastiveStep } from './qa-contrastive.ts';
import { addMetrics, qaGradients } from './qa-losses.ts';
import { exampleAt, stepRandom } from './sampler.ts';
import { addGradients, type StepResult } from './step.ts';

/**
 * One step of open-domain question answering (google-research/language, orqa_model.py; paper, section 3.3): the
 * retriever's loss over many blocks, with the index's frozen vectors, and the reader's loss over all spans of the best
 * few. The query tower and the reader are trained, the document tower is frozen. Unlike the released code, which uses one
 * question per step, a batch of questions is read together; `qa.gold` and `qa.hardNegatives` add blocks to those
 * retrieved. With `qa.refreshEvery` the document tower is trained too, through the blocks that are read: both losses
 * then score these with its current vectors, as in RAG-end2end, EMDR2 and Atlas; other blocks keep the index's vectors.
 * `qa.contrastive` and `qa.distillation` add losses (see `contrastiveStep` and `qaGradients`).
 */
export function qaStep(
  model: Model,
  corpus: Corpus,
  index: SearchIndex,
  questions: readonly EncodedQuestion[],
  config: Config,
  {
    rank = rankByIndex(index, Math.min(config.qa.retrieverBlocks, corpus.blocks)),
    words,
    ranks = alone,
  }: QaSearch = {},
): {
  step(step: number): Promise<StepResult>;
  watch(step: number, metrics: Record<string, number>): void;
  dispose(): void;
} {
  const rng = dropoutRng(config.model.dropout, stepRandom(config.seed, -3));
  const shapes = qaShapes(model, config.qa.refreshEvery !== null);
  const hasAnswer = answerFinder(corpus);
  const candidates = candidateMaker(corpus, questions, config.qa, hasAnswer, words);
  const source = { model, corpus, index, config, hasAnswer, candidates, rank };
  return {
    async step(step) {
      const random = stepRandom(config.seed, step);
      const batch = [];
      for (let i = 0; i < config.qa.batch; i++) {
        batch.push(questions[exampleAt(config.seed + 2, questions.length, step * config.qa.batch + i)]);
      }
      if (config.qa.contrastive === 0) return passByPass(source, shapes, batch, { rng, random, ranks });
      if (rng) rng.random = random;
      return contrastiveStep(source, shapes, batch, { rng, ranks });
    },
    watch: watchPositives(config.qa.steps),
    dispose: () => rng?.dispose(),
  };
}

/** What finds the blocks of a question, and who. */
export interface QaSearch {
  /** The blocks of each question, best first; by the index alone where it is not given. */
  rank?: Rank;
  /** Needed with `qa.hardNegatives` or `qa.contrastive`. */
  words?: WordSearch;
  /** Those that each search and read for a part of the questions; undefined: this process alone. */
  ranks?: Ranks;
}

/** The gradients of a batch in passes of `qa.microBatch` questions, each with a search of its own. */
async function passByPass(
  source: QaSource,
  shapes: readonly Shape[],
  batch: readonly EncodedQuestion[],
  { rng, random, ranks }: { rng?: DropoutRng; random: Random; ranks: Ranks },
): Promise<StepResult> {
  const { model, corpus, config } = source;
  const share = { questions: batch.length, read: batch.length, distillation: config.qa.distillation };
  let gradients: StepResult['gradients'] | undefined;
  const sums: StepResult['metrics'] = { loss: 0 };
  for (const pass of ownPasses(ranks, batch.length, config.qa.microBatch, rng && random)) {
    if (rng) rng.random = pass.random!;
    const part = batch.slice(pass.from, pass.to);
    const rankings = source.rank(await questionVectors(model, corpus, part, config), part);
    const chosen = part.map((question, b) => ({
      question,
      blocks: source.candidates.join(question, rankings[b]),
      bonus: rankings[b].hybrid?.bonus,
    }));
    const input = makeQaBatch(source, chosen);
    const result = await qaGradients(model, shapes, input, share, rng);
    disposeQaBatch(input);
    gradients = addGradients(gradients, result.gradients);
    addMetrics(sums, result.metrics);
    await pause();
  }
  return { gradients: gradients!, metrics: sums };
}

/**
 * What fine-tuning trains: the query tower, and the reader without its masked-language-model head.
 * @param documents the document tower too
 */
export function qaShapes(model: Model, documents = false): Shape[] {
  const trained = [model.queryTower, model.readerTower, 'span.', ...(documents ? [model.documentTower] : [])];
  return modelShapes(model).filter(
    ({ name }) =>
      trained.some((prefix) => name.startsWith(prefix)) &&
      !name.startsWith(`${model.readerTower}mlm.`) &&
      !name.startsWith(`${model.readerTower}pooler.`),
  );
}

/** What `qa.retrieverLearningRate` makes of the learning rate of a parameter, as a factor of that of `qa.optimizer`. */
export function qaRateFactor(model: Model, { retrieverLearningRate, optimizer }: Config['qa']) {
  const factor = (retrieverLearningRate ?? optimizer.learningRate) / optimizer.learningRate;
  return (name: string) => (isRetriever(model, name) ? factor : 1);
}
