import { readLines } from '../datasets/jsonl.ts';
import { shown, UserError } from '../system/errors.ts';
import { readJson } from '../system/files.ts';
import { trecOrder } from './judged.ts';

// What was retrieved for each query, in the files of evaluation tools.

/** One line of a TREC run, `query Q0 document rank score tag`, or of MS MARCO's form, `query document rank`. */
export interface RunLine {
  query: string;
  document: string;
  score: number;
  /** `FILE: line N`, for messages. */
  where: string;
}

/** The ids of the documents of each query, best first, by the query's id. */
export type RetrievedDocuments = Map<string, readonly string[]>;

/**
 * The lines of a TREC run. Neither rank nor tag is kept: by trec_eval's rules the scores give the order. MS MARCO's form has no
 * scores (castorini/pyserini, pyserini/output_writer.py, MsMarcoWriter); the score is then the negative rank.
 */
export async function* readRunLines(path: string): AsyncGenerator<RunLine> {
  for await (const { text, number } of readLines(path, 'a TREC run')) {
    const line = text.trim();
    if (line === '') continue;
    const cells = line.split(/[ \t]+/);
    const where = `${path}: line ${number}`;
    if (cells.length === 3 && /^[1-9]\d*$/.test(cells[2])) {
      yield { query: cells[0], document: cells[1], score: -Number(cells[2]), where };
      continue;
    }
    if (cells.length !== 6) {
      throw new UserError(
        `${where}: is not a line "qid Q0 docid rank score tag" of a TREC run, nor "qid docid rank" of MS MARCO; fix the file`,
      );
    }
    const [query, , document, , score] = cells;
    if (!NUMBER.test(score)) {
      throw new UserError(`${where}: has the score ${shown(score)}, which is not a number; fix the file`);
    }
    yield { query, document, score: Number(score), where };
  }
}

const NUMBER = /^[-+]?(\d+\.?\d*|\.\d+)(e[-+]?\d+)?$/i;

/** The documents of one query as they are read. */
interface Scored {
  ids: string[];
  scores: number[];
}

/**
 * Reads a run in trec_eval's order (`trecOrder`): a TREC run, or the JSON of ranx, pytrec_eval and BEIR,
 * `{query: {document: score}}`. `UserError` for a document that a query has twice, which trec_eval refuses, too.
 */
export async function readRunFile(path: string): Promise<RetrievedDocuments> {
  if (/\.lz4$/.test(path)) {
    throw new UserError(`${path}: lz4 is not read; save the run again, as .json or .trec`);
  }
  const read = path.endsWith('.json') ? readJsonRun(path) : await readTrecFile(path);
  if (read.size === 0) throw new UserError(`${path}: holds no line of a run; give a run with results`);
  const documents: RetrievedDocuments = new Map();
  for (const [query, { ids, scores }] of read) {
    const twice = ids.length === new Set(ids).size ? undefined : ids.find((id, i) => ids.indexOf(id) < i);
    if (twice !== undefined) {
      throw new UserError(
        `${path}: has document ${shown(twice)} twice for query ${shown(query)}; keep the one with the higher score`,
      );
    }
    documents.set(
      query,
      trecOrder(ids, scores).map((i) => ids[i]),
    );
    read.set(query, { ids: [], scores: [] }); // a run may have millions of lines
  }
  return documents;
}

async function readTrecFile(path: string): Promise<Map<string, Scored>> {
  const read = new Map<string, Scored>();
  const known = new Map<string, string>(); // one string in memory for a document that many queries have
  for await (const { query, document, score } of readRunLines(path)) {
    let id = known.get(document);
    if (id === undefined) {
      id = document;
      known.set(id, id);
    }
    let scored = read.get(query);
    if (!scored) {
      scored = { ids: [], scores: [] };
      read.set(query, scored);
    }
    scored.ids.push(id);
    scored.scores.push(score);
  }
  return read;
}

/** Characters of a JSON run; a string cannot be much longer. */
const MAX_JSON = 500 << 20;

function readJsonRun(path: string): Map<string, Scored> {
  const wrong = (what: string) =>
    new UserError(`${path}: ${what}; expected {query: {document: score}}, or name a TREC run`);
  const tree = readJson(path, 'run in JSON', 'give a run', MAX_JSON);
  if (typeof tree !== 'object' || tree === null || Array.isArray(tree)) throw wrong('is not an object');
  return new Map(
    Object.entries(tree).map(([query, documents]) => {
      if (typeof documents !== 'object' || documents === null || Array.isArray(documents)) {
        throw wrong(`has ${shown(documents)} for query ${shown(query)}`);
      }
      const ids = Object.keys(documents);
      const scores = Object.values<unknown>(documents).map((score) => {
        if (typeof score === 'number') return score;
        throw wrong(`has the score ${shown(score)} in query ${shown(query)}`);
      });
      return [query, { ids, scores }];
    }),
  );
}

/** An id without white space as it stands, one with white space percent-encoded: a space ends an id in a TREC run. */
export const runWord = (id: string) => (/\s/u.test(id) ? id.replace(/[\s%]/gu, encodeURIComponent) : id);

/** Undoes `runWord`; an id with an invalid % escape was not written by us and is returned unchanged. */
export function runWordOf(word: string): string {
  try {
    return decodeURIComponent(word);
  } catch {
    return word;
  }
}

/**
 * Scores for a written run: each less than the one before it, also in 32 bits, by the least that 32 bits can differ. Tools
 * order equal scores differently, trec_eval by id and ranx by line; of distinct ones all keep our order.
 * @param scores best first
 */
export function distinctScores(scores: ArrayLike<number>): Float32Array {
  const distinct = Float32Array.from(scores);
  for (let i = 1; i < distinct.length; i++) {
    if (distinct[i] >= distinct[i - 1]) distinct[i] = nextBelow(distinct[i - 1]);
  }
  return distinct;
}

const float = new Float32Array(1);
const bits = new Int32Array(float.buffer);

/** The greatest float of 32 bits below a finite one. */
function nextBelow(value: number): number {
  float[0] = value;
  if (float[0] === 0) bits[0] = 1 | (1 << 31);
  else bits[0] += float[0] > 0 ? -1 : 1;
  return float[0];
}

/** A run whose encoded ids (`runWord`) are those of the judgements again; an id that is judged as it stands is kept. */
export function decodedRun(
  run: RetrievedDocuments,
  judgements: ReadonlyMap<string, ReadonlyMap<string, number>>,
): RetrievedDocuments {
  const decoded: RetrievedDocuments = new Map();
  for (const [word, documents] of run) {
    const query = judgements.has(word) || !judgements.has(runWordOf(word)) ? word : runWordOf(word);
    const grades = judgements.get(query);
    const plain = (id: string) => (!id.includes('%') || grades?.has(id) ? id : runWordOf(id));
    decoded.set(query, grades ? documents.map(plain) : documents);
  }
  return decoded;
}
