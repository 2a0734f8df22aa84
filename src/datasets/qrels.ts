import { shown, UserError } from '../system/errors.ts';
import { warn } from '../system/progress.ts';
import { unpackedName } from './bytes.ts';
import { isArrow, isParquet, readColumnarObjects } from './formats/columnar.ts';
import { type JsonLine, readJsonLines, readLines } from './jsonl.ts';
import type { Judgements } from './types.ts';

const WHAT = 'a file of judgements (qrels)';

/** Names of columns and keys: BEIR and MTEB have the first ones, ir_datasets the second. */
const NAMES = [
  ['query-id', 'query_id', 'qid', 'topic'],
  ['corpus-id', 'doc_id', 'docid', 'corpus_id', 'pid'],
  ['score', 'relevance', 'rel', 'label', 'grade'],
] as const;

/**
 * Reads judgements of documents, in one of these forms:
 *
 * - TREC's lines of `query iteration document grade`, separated by spaces or tabs (usnistgov/trec_eval,
 *   get_qrels.c). MS MARCO's `qrels.*.tsv` have the same columns.
 * - BEIR's `query-id`, `corpus-id` and `score`, separated by tabs, with that first line or without it (beir-cellar/beir,
 *   beir/datasets/data_loader.py, which drops the first line unseen).
 * - MTEB's JSON Lines of `{"query-id", "corpus-id", "score"}`, if the name ends in .jsonl, and the same as Parquet or Arrow.
 *
 * A grade is a whole number: trec_eval reads 0.9 as 0. trec_eval refuses two judgements of a document, ir_measures takes the
 * last one; here, a `UserError` names the line if they differ, and equal ones count once.
 */
export async function readQrels(path: string): Promise<Judgements> {
  const judgements: Judgements = new Map();
  let repeated = 0;
  for await (const { query, document, grade, where } of readRows(path)) {
    const judged = judgements.get(query) ?? new Map<string, number>();
    judgements.set(query, judged);
    const before = judged.get(document);
    if (before === undefined) judged.set(document, grade);
    else if (before === grade) repeated++;
    else {
      throw new UserError(
        `${where}: judges document ${shown(document)} of query ${shown(query)} as ${grade}, an earlier line as ${before}; remove one of them`,
      );
    }
  }
  if (judgements.size === 0)
    throw new UserError(`${path}: holds no judgement; every line must be "query 0 document grade"`);
  if (repeated > 0) warn(`${path}: ${repeated} judgements are there more than once; each counts once`);
  return judgements;
}

interface Row {
  query: string;
  document: string;
  grade: number;
  where: string;
}

function readRows(path: string): AsyncGenerator<Row> {
  if (isParquet(path) || isArrow(path)) return judgementsOf(readColumnarObjects(path));
  return unpackedName(path).endsWith('.jsonl') ? judgementsOf(readJsonLines(path, WHAT)) : readColumns(path);
}

async function* judgementsOf(objects: AsyncIterable<JsonLine>): AsyncGenerator<Row> {
  for await (const { value, where } of objects) {
    const [query, document, grade] = NAMES.map((names) => {
      const name = names.find((name) => value[name] !== undefined);
      const found = name === undefined ? undefined : value[name];
      if (typeof found === 'string' || typeof found === 'number') return String(found);
      throw new UserError(
        `${where}: has no "${names[0]}"; every line needs ${NAMES.map(([n]) => n).join(', ')}`,
      );
    });
    yield { query, document, grade: gradeOf(grade, where), where };
  }
}

async function* readColumns(path: string): AsyncGenerator<Row> {
  let columns: number[] | undefined;
  for await (const { text, number } of readLines(path, WHAT)) {
    if (text.trim() === '') continue;
    const where = `${path}: line ${number}`;
    const cells = cellsOf(text);
    if (cells.length !== 3 && cells.length !== 4) {
      throw new UserError(
        `${where}: has ${cells.length} columns; a line of judgements has 4, as in "query 0 document grade", or 3 separated by tabs, as in BEIR`,
      );
    }
    if (!columns) {
      columns = headerColumns(cells);
      if (columns) continue;
      columns = cells.length === 4 ? [0, 2, 3] : [0, 1, 2];
    }
    const [query, document, grade] = columns.map((column) => cells[column] ?? '');
    if (query === '' || document === '')
      throw new UserError(`${where}: has no id of a query or document; add it`);
    yield { query, document, grade: gradeOf(grade, where), where };
  }
}

/** Ids may contain spaces if tabs separate the columns. */
function cellsOf(line: string): string[] {
  const byTabs = line.split('\t').map((cell) => cell.trim());
  return byTabs.length >= 3 ? byTabs : line.trim().split(/\s+/);
}

/** The columns of query, document and grade if the first line names them. */
function headerColumns(cells: readonly string[]): number[] | undefined {
  const names = cells.map((cell) => cell.toLowerCase());
  const columns = NAMES.map((known) =>
    names.findIndex((name) => (known as readonly string[]).includes(name)),
  );
  return columns.includes(-1) ? undefined : columns;
}

function gradeOf(text: string, where: string): number {
  const grade = Number(text);
  if (text !== '' && Number.isSafeInteger(grade)) return grade;
  throw new UserError(`${where}: has the grade ${shown(text)}; a grade is a whole number such as 0, 1 or 2`);
}
