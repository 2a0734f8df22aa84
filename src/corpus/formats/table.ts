import { isUtf8 } from 'node:buffer';
import { pipeline, Readable } from 'node:stream';
import { parse } from 'csv-parse';
import { errorCode, UserError } from '../../errors.ts';
import { readPieces } from '../bytes.ts';
import { explainRead, LINE_LIMIT } from '../jsonl.ts';

/** One row of a table: its cells and how errors name it, `FILE: line N`, the line on which the row ends. */
export interface Row {
  cells: string[];
  where: string;
}

/**
 * The rows of a file with tabs between its cells, quoted as Python's `csv` module writes and reads them: a cell in
 * quotes may hold tabs, line feeds and doubled quotes; a quote within a cell that does not begin with one is a quote.
 */
export async function* readTable(path: string, what: string): AsyncGenerator<Row> {
  const parser = parse({
    delimiter: '\t',
    record_delimiter: ['\n', '\r\n'],
    encoding: null, // cells as bytes, so that what is not UTF-8 is refused and not replaced
    info: true,
    max_record_size: LINE_LIMIT,
    relax_quotes: true,
    relax_column_count: true,
    skip_empty_lines: true,
  });
  const rows = pipeline(Readable.from(readPieces(path)), parser, () => {});
  try {
    for await (const { record, info } of rows as AsyncIterable<{
      record: Buffer[];
      info: { lines: number };
    }>) {
      const where = `${path}: line ${info.lines}`;
      yield { cells: record.map((cell, i) => text(cell, where, i === 0 && info.lines === 1)), where };
    }
  } catch (error) {
    if (!errorCode(error)?.startsWith('CSV_')) throw explainRead(path, what, error);
    const line = (error as { lines?: number }).lines;
    throw new UserError(
      errorCode(error) === 'CSV_MAX_RECORD_SIZE'
        ? `${path}: line ${line}: the row before it goes on for more than ${LINE_LIMIT >> 20} MiB; a quote is not closed`
        : `${path}: line ${line}: a quote is not closed, or is followed by more than a tab; mend the row`,
    );
  }
}

function text(cell: Buffer, where: string, first: boolean): string {
  if (!isUtf8(cell)) throw new UserError(`${where}: is not UTF-8 text; save the file as UTF-8`);
  const string = cell.toString('utf8');
  return first ? string.replace(/^\uFEFF/, '') : string;
}
