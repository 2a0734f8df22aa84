import { answerSpans } from '../answers/has-answer.ts';
import type { Config } from '../config.ts';
import type { Corpus } from '../corpus/store/reader.ts';
import type { Model } from '../model/model.ts';
import { type EncodedQuestion, questionVectors } from '../model/questions.ts';
import type { MaskedSentence } from '../model/realm-batch.ts';
import { dropTrivial } from '../retrieval/candidates.ts';
import type { Found } from '../retrieval/graph.ts';
import type { SearchIndex } from '../retrieval/search.ts';
import { drawMasked, queryVectors } from '../train/pretrain.ts';
import { exampleAt, stepRandom } from '../train/sampler.ts';
import { firstWithAnswer, type Recall, recallOf } from './evaluate.ts';

/** Queries that a stage runs on every index. */
export const PROBES = 64;
/** Best blocks per query by which two indexes are compared. */
export const BLOCKS_PER_PROBE = 10;
/** Queries that are logged, with this many blocks each. */
const LOGGED_PROBES = 8;
const LOGGED_BLOCKS = 5;

/** Queries that are run on every index of a stage. */
export interface Probes {
  count: number;
  /** Their vectors by the current weights, [count, P]. */
  vectors(): Promise<Float32Array>;
  /** The query and its answer for a reader. */
  text(i: number): { query: string; answer: string };
  /** The blocks found for a query that training would read. */
  read(i: number, found: Int32Array): Int32Array;
}

/**
 * Masked sentences: the first in the sampler's order, each with a masked salient span, whatever `pretrain.masking` is.
 * Trivial candidates are not read, as in training.
 */
export function maskedProbes(model: Model, corpus: Corpus, config: Config): Probes {
  const { trivialOverlap } = config.pretrain;
  const count = Math.min(PROBES, corpus.sentences.count);
  const examples = drawMasked(corpus, config, 0, count, stepRandom(config.seed, -4), 'salient');
  return {
    count,
    vectors: () => queryVectors(model, corpus, examples, config),
    text: (i) => clozeText(corpus, examples[i]),
    read(i, found) {
      const { sentence, source } = examples[i];
      return Int32Array.from(
        dropTrivial(corpus, sentence, source, found, found.length, trivialOverlap).candidates,
      );
    },
  };
}

/** Questions: the first in the sampler's order. */
export function questionProbes(
  model: Model,
  corpus: Corpus,
  questions: readonly EncodedQuestion[],
  config: Config,
): Probes {
  const n = questions.length;
  const chosen = Array.from({ length: Math.min(PROBES, n) }, (_, i) => {
    return questions[exampleAt(config.seed + 2, n, i)];
  });
  return {
    count: chosen.length,
    vectors: () => questionVectors(model, corpus, chosen, config),
    text: (i) => ({ query: chosen[i].question, answer: chosen[i].answers[0] }),
    read: (_, found) => found,
  };
}

/** A masked sentence and its hidden text: in the original words if the sentence came from a block, else joined from word pieces. */
export function clozeText(
  corpus: Corpus,
  { sentence, masked, positions, source }: MaskedSentence,
): { query: string; answer: string } {
  const { tokenizer } = corpus;
  const start = positions[0] - 1;
  let end = start; // the span may be longer than the list of positions, which `pretrain.maxMasks` limits
  while (masked[end] === tokenizer.mask) end++;
  const [at] = source < 0 ? [] : answerSpans(corpus.bodyIds(source), [sentence]);
  if (at === undefined) {
    const words = (from: number, to: number) => closeUp(tokenizer.decode(sentence.subarray(from, to)));
    const query = [words(0, start), MASK, words(end, sentence.length)].filter(Boolean).join(' ');
    return { query: closeUp(query), answer: words(start, end) };
  }
  const text = corpus.text(source);
  const { starts, ends } = tokenizer.encode(text);
  const [from, to] = [starts[at + start], ends[at + end - 1]];
  return {
    query: `${text.slice(starts[at], from)}${MASK}${text.slice(to, ends[at + sentence.length - 1])}`,
    answer: text.slice(from, to),
  };
}

const MASK = '____';

/** Removes the spaces between words and punctuation that joined word pieces have: `in 1912 , at drost ' s " old " mill .` */
function closeUp(words: string): string {
  return words
    .replace(/ ([.,;:!?)\]}%])/g, '$1')
    .replace(/([([{]) /g, '$1')
    .replace(/ ' s\b/g, "'s")
    .replace(/" ([^"]+) "/g, '"$1"');
}

/** The best blocks of one probe; the score is the inner product that ranked them. */
interface ProbeRecord {
  query: string;
  answer: string;
  blocks: { block: number; document: string; title: string; score: number }[];
}

/** The first few probes with the best blocks found for them. @param found for all probes, at most BLOCKS_PER_PROBE blocks each */
export function probeRecords(corpus: Corpus, probes: Probes, found: Found): ProbeRecord[] {
  const k = found.blocks.length / probes.count;
  return Array.from({ length: Math.min(LOGGED_PROBES, probes.count) }, (_, i) => {
    const blocks = found.blocks.subarray(i * k, i * k + found.counts[i]);
    const best = probes.read(i, blocks).subarray(0, LOGGED_BLOCKS);
    return {
      ...probes.text(i),
      blocks: Array.from(best, (block) => ({
        block,
        document: corpus.documentId(block),
        title: corpus.title(block),
        score: found.scores[i * k + blocks.indexOf(block)],
      })),
    };
  });
}

/** Most questions of data.dev on which a stage measures recall while it trains. */
export const RECALL_QUESTIONS = 500;
/** The k of recall@k. */
export const RECALL_AT = [1, 5, 20];

/** Recall of the index with the current query tower; undefined without questions. */
export async function probeRecall(
  model: Model,
  corpus: Corpus,
  index: SearchIndex,
  questions: readonly EncodedQuestion[],
  config: Config,
): Promise<Recall | undefined> {
  if (questions.length === 0) return undefined;
  const k = Math.min(Math.max(...RECALL_AT), corpus.blocks);
  const { blocks, counts } = index.search(await questionVectors(model, corpus, questions, config), k);
  const ranks = questions.map((question, i) =>
    firstWithAnswer(corpus, blocks.subarray(i * k, i * k + counts[i]), question),
  );
  return recallOf(ranks, RECALL_AT);
}
