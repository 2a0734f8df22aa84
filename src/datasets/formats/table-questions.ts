import { shown, UserError } from '../../system/errors.ts';
import type { Question } from '../types.ts';
import { parsePythonList } from './python-list.ts';
import { type Row, readTable } from './table.ts';

const QUESTION = ['question', 'query', 'input'];
const ANSWERS = ['answers', 'answer', 'golden_answers'];
const ID = ['id', '_id', 'qid', 'question_id'];
const PASSAGE = ['passage_id', 'document_id', 'docid'];

/**
 * Questions of a table, one per row. With a header, the columns may have any order, and the answer is one text or a list as
 * Python or JSON writes it. Without a header, the file is like DPR's `nq-test.qa.csv`: rows of a question, a tab, and its
 * answers as a Python list (facebookresearch/DPR, dpr/data/retriever_data.py, CsvQASrc, commit a31212d); as there, ’ is
 * replaced by '. A row without an answer has an empty list.
 */
export async function* readTableQuestions(path: string): AsyncGenerator<Question> {
  let read: ((row: Row) => Question) | undefined;
  for await (const row of readTable(path, 'a table of questions')) {
    if (read) yield read(row);
    else {
      const named = namedQuestions(row);
      read = named ?? dprQuestion;
      if (!named) yield dprQuestion(row);
    }
  }
}

/** Returns a function that reads the rows below this header; undefined if the row is not a header. */
function namedQuestions({ cells: names, where: header }: Row): ((row: Row) => Question) | undefined {
  const known = names.map((name) => name.trim().toLowerCase());
  const columnOf = (list: readonly string[]) => {
    const name = list.find((name) => known.includes(name));
    return name === undefined ? undefined : known.indexOf(name);
  };
  const [question, answers, id, passage] = [QUESTION, ANSWERS, ID, PASSAGE].map(columnOf);
  if (question === undefined && answers === undefined) return undefined;
  if (question === undefined || answers === undefined) {
    const missing = question === undefined ? 'question' : 'answer';
    throw new UserError(
      `${header}: has no column "${missing}", only ${names.map((name) => shown(name)).join(', ')}; name two of the columns question and answer`,
    );
  }
  return ({ cells, where }) => {
    if (cells.length !== names.length) {
      throw new UserError(
        `${where}: has ${cells.length} cells, but the header has ${names.length}; put a cell that contains a comma or a tab in quotes`,
      );
    }
    const cell = cells[answers].trim();
    return {
      question: cells[question],
      ...(id === undefined || cells[id] === '' ? {} : { id: cells[id] }),
      answers: parsePythonList(cell) ?? (cell === '' ? [] : [cell]),
      answerKind: 'string',
      ...(passage === undefined || cells[passage] === '' ? {} : { passageId: cells[passage] }),
    };
  };
}

/**
 * Questions of a table without their answers: of columns with names, of rows of id and text as in MS MARCO's
 * `queries.dev.small.tsv` and pyserini's topics, or of a table that `readTableQuestions` reads.
 */
export async function* readTableQueries(path: string): AsyncGenerator<{ id?: string; question: string }> {
  let read: ((row: Row) => { id?: string; question: string }) | undefined;
  for await (const row of readTable(path, 'a table of questions')) {
    if (read) {
      yield read(row);
      continue;
    }
    const names = row.cells.map((name) => name.trim().toLowerCase());
    const [id, question] = [ID, [...QUESTION, 'text']].map((list) =>
      names.findIndex((n) => list.includes(n)),
    );
    if (question >= 0) {
      read = ({ cells }) => ({ ...(id >= 0 && { id: cells[id] }), question: cells[question] ?? '' });
      continue;
    }
    const isPair = row.cells.length === 2 && parsePythonList(row.cells[1]) === undefined;
    read = isPair ? ({ cells: [id, question] }) => ({ id, question: question ?? '' }) : dprQuestion;
    yield read(row);
  }
}

function dprQuestion({ cells, where }: Row): Question {
  const answers = cells.length === 2 ? parsePythonList(cells[1]) : undefined;
  if (answers) return { question: cells[0].replaceAll('’', "'"), answers, answerKind: 'string' };
  throw new UserError(
    `${where}: is not a question, a tab and a list of answers such as ['A', 'B']; correct the row, or add a first row of names such as question,answer`,
  );
}
