import type { Config } from '../config.ts';
import { AT_ONCE } from '../eval/answer.ts';
import { SAMPLED_BLOCKS } from '../eval/dev-sample.ts';
import { RECALL_QUESTIONS } from '../eval/probes.ts';
import { vectorLength } from '../model/head.ts';
import { type Schedule, timesDue } from '../schedule.ts';
import { EVAL_RETRIEVED_BLOCKS, REFRESHER_SHARE, sharing } from './rates.ts';
import type { Counts, Machine } from './types.ts';
import { answerWork, encoderWork, forwardSeconds, lengths } from './work.ts';

// Seconds of everything but training steps (work.ts has those). The constants were measured on two cores with vectors of
// 128 numbers; docs/engines.md, "Measured constants of the estimate", has the measurements.

/** A second and thread, at `m` 16 and `efConstruction` 128. */
const BLOCKS_ADDED_PER_SECOND = 4000;
const SECONDS_PER_CANDIDATE_SEARCHED = 3e-6;
/** Exact search: one query with one block. */
const SECONDS_PER_BLOCK_COMPARED = 7e-8;
/** Reading a block's text and looking for an answer in it. */
const SECONDS_PER_BLOCK_MATCHED = 20e-6;
/** On two cores; more of them, up to 8, make it faster. */
const WORD_PIECES_PREPARED_PER_SECOND = 430_000;

/** Preparing the corpus. */
export function prepareSeconds({ blocks, body, foreignSentences, sentences, sentence }: Counts): number {
  const wordPieces = blocks * body.mean + (foreignSentences ? sentences * sentence.mean : 0);
  return wordPieces / WORD_PIECES_PREPARED_PER_SECOND;
}

/** Embedding all blocks and building their index. */
export function indexSeconds(config: Config, counts: Counts, machine: Machine): number {
  return embedSeconds(config, counts, machine, counts.blocks) + graphSeconds(config, counts);
}

/** Building the graph of an index. */
export function graphSeconds({ index, model }: Config, { blocks }: Counts): number {
  const { kind, m, efConstruction, threads } = index;
  if (kind === 'exact') return 0;
  const blocksPerSecond =
    (BLOCKS_ADDED_PER_SECOND * threads * 128 * 128) / (vectorLength(model) * efConstruction);
  return (blocks * Math.sqrt(m / 16)) / blocksPerSecond;
}

export function embedSeconds(config: Config, counts: Counts, machine: Machine, blocks: number): number {
  const { block } = lengths(config, counts, 'mean');
  return forwardSeconds(encoderWork(config.model, machine.fused, blocks, block, 1), machine);
}

/** Measuring recall on dev questions before and after a stage, which embeds a sample of the blocks each time. */
export function devRecallSeconds(config: Config, counts: Counts, machine: Machine): number {
  const questions = Math.min(counts.devQuestions, RECALL_QUESTIONS);
  if (questions === 0) return 0;
  return 2 * embedSeconds(config, counts, machine, Math.min(counts.blocks, SAMPLED_BLOCKS + questions));
}

/** Searching the index for the best `wanted` blocks of each query. */
export function searchSeconds(
  { index, model }: Config,
  { blocks }: Counts,
  queries: number,
  wanted: number,
): number {
  const { rows, graphs } = sharing(index, blocks);
  const secondsPerQuery =
    index.kind === 'exact'
      ? blocks * SECONDS_PER_BLOCK_COMPARED
      : graphs * Math.min(Math.max(index.efSearch, wanted), rows) * SECONDS_PER_CANDIDATE_SEARCHED;
  return (queries * secondsPerQuery * vectorLength(model)) / 128;
}

/** Looking for answers in the blocks retrieved for each question. */
export function matchSeconds(questions: number, blocksPerQuestion: number): number {
  return questions * blocksPerQuestion * SECONDS_PER_BLOCK_MATCHED;
}

/** Retrieving blocks for so many questions, and reading answers in them. */
export function answerSeconds(config: Config, counts: Counts, machine: Machine, questions: number): number {
  const { readerBlocks } = config.qa;
  const batch = answerWork(config, counts, machine.fused, AT_ONCE / readerBlocks, 'mean');
  return (
    (questions / AT_ONCE) * readerBlocks * forwardSeconds(batch, machine) +
    searchSeconds(config, counts, questions, EVAL_RETRIEVED_BLOCKS) +
    matchSeconds(questions, EVAL_RETRIEVED_BLOCKS)
  );
}

/** What the refreshes of the index add to a stage that trains for `trainingSeconds`. */
export function refreshSeconds(
  config: Config,
  every: Schedule,
  steps: number,
  buildSeconds: number,
  trainingSeconds: number,
): number {
  const building = timesDue(every, steps) * buildSeconds;
  if (config.refresh.mode === 'sync') return building;
  // The trainer slows down only while the refresher works at the same time.
  return Math.min(building, trainingSeconds * (REFRESHER_SHARE / (1 - REFRESHER_SHARE)));
}
