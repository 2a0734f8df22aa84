import { UserError } from '../../system/errors.ts';
import type { Document } from '../types.ts';
import { type Columns, type Fields, NO_FIELDS, namedColumns } from './fields.ts';
import { type Row, readTable } from './table.ts';

/** Number of rows that decide what the columns of a table without a header are. */
const SAMPLED_ROWS = 20;

/**
 * Documents of a table, one per row. The first row names the columns, in any order, or `data.fields` does. Two published
 * forms have no names and are recognised by their look: DPR's rows of id, text and title, and rows of id and text as in
 * ColBERT's and MS MARCO's `collection.tsv`. Any other table without names is refused: title and text could be confused.
 */
export async function* readTableDocuments(path: string, fields: Fields): AsyncGenerator<Document> {
  yield* documentsOf(
    path,
    (rows) => namedColumns(rows[0].cells, fields, rows[0].where) ?? columnsByLook(rows),
  );
}

/**
 * The passages of DPR's `psgs_w100.tsv`: rows of id, text and title, with or without a header
 * (facebookresearch/DPR, dpr/data/retriever_data.py, CsvCtxSrc, commit a31212d). Quotes are read as there, by Python's `csv`.
 */
export async function* readDprPassages(path: string): AsyncGenerator<Document> {
  yield* documentsOf(
    path,
    ([{ cells, where }]) => {
      if (cells.length === 3) return namedColumns(cells, NO_FIELDS, where) ?? DPR;
      throw new UserError(
        `${where}: has ${cells.length} cells; every row must have 3, id, text and title, separated by tabs`,
      );
    },
    true,
  );
}

const DPR: Columns = { id: 0, text: 1, title: 2, header: false };

async function* documentsOf(
  path: string,
  columns: (rows: readonly Row[]) => Columns,
  python = false,
): AsyncGenerator<Document> {
  const rows = readTable(path, 'a table of documents');
  try {
    const first: Row[] = [];
    while (first.length < SAMPLED_ROWS) {
      const { value, done } = await rows.next();
      if (done) break;
      first.push(value);
    }
    if (first.length === 0) return;
    const width = first[0].cells.length;
    const { id, title, text, header } = columns(first);
    const isDpr = id === DPR.id && text === DPR.text && title === DPR.title;
    let number = 0;
    const document = (row: Row): Document => {
      const { where } = row;
      const { cells, quoted } = (python && row.python) || row;
      if (cells.length !== width) {
        throw new UserError(
          `${where}: has ${cells.length} cells, but the first row has ${width}; correct the row`,
        );
      }
      // After unquoting, DPR drops quotes at both ends.
      const words = isDpr && quoted[text] ? cells[text].replace(/^"+|"+$/g, '') : cells[text];
      const name = id === undefined ? String(number) : cells[id];
      number++;
      return { id: name, title: title === undefined ? '' : cells[title], text: words };
    };
    for (const row of header ? first.slice(1) : first) yield document(row);
    for await (const row of rows) yield document(row);
  } finally {
    await rows.return(undefined);
  }
}

/** The columns of a table whose first row does not name them. */
function columnsByLook(rows: readonly Row[]): Columns {
  const width = rows[0].cells.length;
  const length = (column: number) => rows.reduce((sum, { cells }) => sum + (cells[column] ?? '').length, 0);
  const ids = rows.map(({ cells }) => cells[0]);
  const looksLikeIds = ids.every((id) => /^\S*\d\S*$/.test(id)) && new Set(ids).size === ids.length;
  if (looksLikeIds && width === 2 && length(1) > length(0))
    return { id: 0, text: 1, title: undefined, header: false };
  if (looksLikeIds && width === 3 && length(1) > length(2)) return DPR;
  const example = ['id', 'title', 'text'].slice(Math.max(0, 3 - width)).join(' ');
  throw new UserError(
    `${rows[0].where}: has ${width} ${width === 1 ? 'column' : 'columns'} without known names; add a first row of names such as ${example}, or give the numbers of the columns, as in --set data.fields.text=${width}`,
  );
}
