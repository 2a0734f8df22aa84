import { hasAnswer } from '../answers/has-answer.ts';
import type { Protocol } from '../answers/metrics.ts';
import type { Corpus } from '../corpus/store/reader.ts';
import { unpackedName } from '../datasets/bytes.ts';
import { readJsonElements } from '../datasets/json-elements.ts';
import { type JsonLine, objectsField, readJsonLines, stringField } from '../datasets/jsonl.ts';
import type { Accepted } from '../datasets/types.ts';
import { shown, UserError } from '../system/errors.ts';
import { warn } from '../system/progress.ts';
import { trecOrder } from './judged.ts';
import { distinctScores, readRunLines, runWord, runWordOf } from './run-files.ts';

// The blocks retrieved for each question, in the formats of other tools.

export type RankingFormat = 'dpr' | 'trec' | 'kilt';

/** One question's blocks, best first, and the answer, if there is one. */
export interface Ranking {
  question: Accepted & { question: string; id?: string };
  /** Number of the question in its file, from 1: its id if it has no other. */
  number: number;
  blocks: readonly number[];
  /** Inner products of query and block, one per block. */
  scores: readonly number[];
  answer?: string;
}

/** How rankings are written. */
export interface RankingForm {
  format: RankingFormat;
  /** Decides whether a passage has an answer, in DPR's format. */
  protocol: Protocol;
  /** A TREC run names the document of each block, as judgements of documents do. */
  byDocument?: boolean;
}

/**
 * Writes rankings one by one, and the end of the file.
 * `dpr`: the retriever's results of DPR, which FiD and Atlas read (facebookresearch/DPR, dense_retriever.py, save_results,
 * commit 0473319). `trec`: `qid Q0 docid rank score tag` of trec_eval, ids by
 * `runWord` and scores by `distinctScores`. `kilt`: predictions
 * with their provenance, each document once, for KILT's evaluation (facebookresearch/KILT, README.md, commit 002935a).
 */
export function rankingWriter(
  corpus: Corpus,
  { format, protocol, byDocument = false }: RankingForm,
  write: (text: string) => void,
): { add(ranking: Ranking): void; end(): void } {
  let first = true;
  return {
    add(ranking) {
      if (format === 'dpr') write(`${first ? '[\n' : ',\n'}${dprEntry(corpus, ranking, protocol)}`);
      else if (format === 'kilt') write(kiltLine(corpus, ranking));
      else
        write(
          trecLines(ranking, (block) => (byDocument ? corpus.documentId(block) : passageId(corpus, block))),
        );
      first = false;
    },
    end() {
      if (format === 'dpr') write(first ? '[]\n' : '\n]\n');
    },
  };
}

function dprEntry(corpus: Corpus, { question, blocks, scores }: Ranking, protocol: Protocol): string {
  const ctxs = blocks.map((block, i) => ({
    id: passageId(corpus, block),
    title: corpus.title(block),
    text: corpus.text(block),
    score: String(scores[i]), // a string in DPR's files too
    has_answer: hasAnswer(corpus.text(block), question, protocol),
  }));
  const { id, answers } = question;
  return JSON.stringify({ ...(id === undefined ? {} : { id }), question: question.question, answers, ctxs });
}

function trecLines({ question, number, blocks, scores }: Ranking, idOf: (block: number) => string): string {
  const qid = runWord(question.id ?? String(number));
  const distinct = distinctScores(scores);
  return blocks
    .map((block, i) => `${qid} Q0 ${runWord(idOf(block))} ${i + 1} ${distinct[i]} realm\n`)
    .join('');
}

function kiltLine(corpus: Corpus, { question, number, blocks, answer }: Ranking): string {
  const provenance = new Map<string, { wikipedia_id: string; title: string }>();
  for (const block of blocks) {
    const id = corpus.documentId(block);
    if (!provenance.has(id)) provenance.set(id, { wikipedia_id: id, title: corpus.title(block) });
  }
  const output = { ...(answer === undefined ? {} : { answer }), provenance: [...provenance.values()] };
  return `${JSON.stringify({ id: question.id ?? String(number), input: question.question, output: [output] })}\n`;
}

/** The id of a block for other tools: its document's id, plus its number in the document unless every document is one block. */
export function passageId(corpus: Corpus, block: number): string {
  const document = corpus.documentId(block);
  if (corpus.blocks === corpus.documents) return document;
  let first = block;
  while (first > 0 && corpus.documentId(first - 1) === document) first--;
  return `${document}#${block - first}`;
}

/** The blocks with these ids, as far as the corpus has them. One pass over the corpus; only the wanted ids are kept in memory. */
function blocksOf(corpus: Corpus, ids: ReadonlySet<string>): Map<string, number> {
  const found = new Map<string, number>();
  const whole = corpus.blocks === corpus.documents;
  let document: string | undefined;
  let first = 0;
  for (let block = 0; block < corpus.blocks; block++) {
    const here = corpus.documentId(block);
    if (here !== document) {
      document = here;
      first = block;
    }
    const id = whole ? here : `${here}#${block - first}`;
    if (ids.has(id)) found.set(id, block);
  }
  return found;
}

/**
 * Rank of the first passage with an answer for each question of a file in DPR's format, from 0; Infinity for none, and
 * for a question that is not in the file.
 * @returns also the largest number of passages of a question, and the number of other questions in the file
 */
export async function dprRanks(
  path: string,
  questions: readonly (Accepted & { question: string })[],
  protocol: Protocol,
): Promise<{ ranks: number[]; depth: number; missing: number; others: number }> {
  const ranks: (number | undefined)[] = questions.map(() => undefined);
  // A question that occurs twice may have different answers the second time.
  const indexesOf = new Map<string, number[]>();
  for (const [i, { question }] of questions.entries())
    indexesOf.set(question, [...(indexesOf.get(question) ?? []), i]);
  let others = 0;
  let depth = 0;
  const lines = unpackedName(path).endsWith('.jsonl') ? readJsonLines : readJsonElements;
  for await (const line of lines(path, "a file of DPR's retriever")) {
    const question = stringField(line, 'question');
    const indexes = indexesOf.get(question);
    if (!indexes) {
      others++;
      continue;
    }
    const passages = objectsField(line, 'ctxs');
    depth = Math.max(depth, passages.length);
    for (const i of indexes) {
      const rank = passages.findIndex((passage) => holds(passage, questions[i], protocol));
      ranks[i] = rank < 0 ? Infinity : rank;
    }
  }
  return {
    ranks: ranks.map((rank) => rank ?? Infinity),
    depth,
    missing: ranks.filter((rank) => rank === undefined).length,
    others,
  };
}

/** Whether a passage holds an answer; for a passage without text, by the file's own "has_answer". */
function holds(passage: JsonLine, accepted: Accepted, protocol: Protocol): boolean {
  if (passage.value.text !== undefined) return hasAnswer(stringField(passage, 'text'), accepted, protocol);
  if (typeof passage.value.has_answer === 'boolean') return passage.value.has_answer;
  throw new UserError(`${passage.where}: has a passage with neither "text" nor "has_answer"; fix the file`);
}

/**
 * The blocks of each question of a TREC run in trec_eval's order, which is by score; none for a question that is not in
 * it. A document that is not in the corpus, such as one without text, is −1; a warning counts them.
 */
export async function readTrecRun(
  path: string,
  corpus: Corpus,
  questions: readonly { id?: string }[],
): Promise<number[][]> {
  const rows = new Map<string, { ids: string[]; scores: number[] }>();
  const ids = new Set<string>();
  const known = new Set(questions.map(({ id }, i) => id ?? String(i + 1)));
  for await (const { query, document, score, where } of readRunLines(path)) {
    const qid = known.has(query) ? query : runWordOf(query);
    if (!known.has(qid)) {
      throw new UserError(
        `${where}: names question ${shown(qid)}, which is not in the file of questions; give the file of questions that the run was made from`,
      );
    }
    const list = rows.get(qid) ?? { ids: [], scores: [] };
    list.ids.push(document);
    list.scores.push(score);
    rows.set(qid, list);
    ids.add(document).add(runWordOf(document));
  }
  const blocks = blocksOf(corpus, ids);
  const blockOf = (id: string) => blocks.get(id) ?? blocks.get(runWordOf(id));
  const named = new Set([...rows.values()].flatMap((row) => row.ids));
  const unknown = [...named].filter((id) => blockOf(id) === undefined);
  if (unknown.length > 0 && unknown.length === named.size) {
    throw new UserError(
      `${path}: names document ${shown(unknown[0])}, which is not in the run's corpus, nor is any other of its documents; score it in the run folder that it was made in`,
    );
  }
  if (unknown.length > 0) {
    warn(
      `${path}: ${unknown.length} of its ${named.size} documents are not in the run's corpus, such as ${shown(unknown[0])}; they count as documents without an answer`,
    );
  }
  return questions.map(({ id }, i) => {
    const row = rows.get(id ?? String(i + 1)) ?? { ids: [], scores: [] };
    return trecOrder(row.ids, row.scores).map((at) => blockOf(row.ids[at]) ?? -1);
  });
}
