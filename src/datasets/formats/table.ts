import { UserError } from '../../system/errors.ts';
import { unpackedName } from '../bytes.ts';
import type { Line } from '../jsonl.ts';
import { LINE_LIMIT, readLines } from '../jsonl.ts';

/** One row of a table: its cells, and its name in errors, `FILE: line N`, with the line where the row starts. */
export interface Row {
  cells: string[];
  /** Whether each cell was in quotes, which have been removed. */
  quoted: boolean[];
  where: string;
  /**
   * The cells as Python's `csv` reads them, if the quotes of a cell close in its middle: `"Big Ben" rang` is `Big Ben rang` there
   * and with data.format dpr; here it is text as it stands.
   */
  python?: Pick<Row, 'cells' | 'quoted'>;
}

/**
 * The rows of a file with tabs, commas or semicolons between its cells: tabs if the name is .tsv or the first line has one.
 * A cell in quotes, as Python's `csv` module and spreadsheets write it, may contain separators, line feeds and doubled quotes.
 * Many tables are written without any quoting, and some of their texts start with a quote. So if the quotes of a row do not
 * close, or close in the middle of a cell, its quotes are text, provided that it then has as many cells as the first row.
 */
export async function* readTable(path: string, what: string): AsyncGenerator<Row> {
  const lines = lookAhead(readLines(path, what));
  const first = await lines.at(0);
  const separator = separatorOf(path, first?.text ?? '');
  let width: number | undefined;
  for (let line = first; line; line = await lines.at(0)) {
    if (line.text === '') {
      lines.take(1);
      continue;
    }
    const { length, ...row } = await rowAt(lines, separator, width, path);
    lines.take(length);
    width ??= row.cells.length;
    yield { ...row, where: `${path}: line ${line.number}` };
  }
}

function separatorOf(path: string, line: string): string {
  if (unpackedName(path).endsWith('.tsv') || line.includes('\t')) return '\t';
  return line.includes(';') && !line.includes(',') ? ';' : ',';
}

/** Characters that a line counts in addition to its text, about what it takes in memory. */
const LINE_OVERHEAD = 64;

interface LookAhead {
  /** The line that many lines ahead; undefined after the last. */
  at(ahead: number): Promise<Line | undefined>;
  /** Drops lines that are done. */
  take(lines: number): void;
}

function lookAhead(lines: AsyncGenerator<Line>): LookAhead {
  const held: Line[] = [];
  return {
    async at(ahead) {
      while (held.length <= ahead) {
        const { value, done } = await lines.next();
        if (done) return undefined;
        held.push(value);
      }
      return held[ahead];
    },
    take: (n) => void held.splice(0, n),
  };
}

/** The row that starts with the next line, and how many lines it has. */
async function rowAt(
  lines: LookAhead,
  separator: string,
  width: number | undefined,
  path: string,
): Promise<Omit<Row, 'where'> & { length: number }> {
  const line = (await lines.at(0))!;
  const asIs = line.text.split(separator);
  const plain = { cells: asIs, quoted: asIs.map(() => false), length: 1 };
  if (!asIs.some((cell) => cell.startsWith('"'))) return plain;
  const fits = (text: string) => width === undefined || text.split(separator).length === width;
  const row = quotedRow(separator);
  let everyLineFits = true;
  let size = 0;
  for (let length = 1; ; length++) {
    const next = await lines.at(length - 1);
    size += LINE_OVERHEAD + (next?.text.length ?? 0);
    const state = next && size <= LINE_LIMIT ? row.push(next.text) : 'broken';
    everyLineFits &&= next !== undefined && fits(next.text);
    if (state === 'open') continue;
    // If every line is a row by itself, the lines are hardly parts of one cell.
    const whole = state === 'closed' && (length === 1 || width === undefined || !everyLineFits);
    if (whole && (row.cells.length === width || width === undefined || !fits(line.text)))
      return { cells: row.cells, quoted: row.quoted, length };
    if (fits(line.text)) {
      const python = pythonRow(line.text, separator);
      return python?.cells.length === width ? { ...plain, python } : plain;
    }
    throw new UserError(
      `${path}: line ${line.number}: a quoted cell is not closed, or text follows its closing quote; close it, and double every quote inside a quoted cell`,
    );
  }
}

/** One line as Python's `csv` reads it: after a closing quote a cell goes on as text. Undefined if a quote is not closed. */
function pythonRow(line: string, separator: string): Pick<Row, 'cells' | 'quoted'> | undefined {
  const cells: string[] = [];
  const quoted: boolean[] = [];
  for (let at = 0; at <= line.length; ) {
    let cell = '';
    const isQuoted = line[at] === '"';
    if (isQuoted) {
      for (at++; ; at++) {
        const quote = line.indexOf('"', at);
        if (quote < 0) return undefined;
        cell += line.slice(at, quote);
        at = quote + 1;
        if (line[at] !== '"') break;
        cell += '"';
      }
    }
    const next = line.indexOf(separator, at);
    const end = next < 0 ? line.length : next;
    cells.push(cell + line.slice(at, end));
    quoted.push(isQuoted);
    at = end + 1;
  }
  return { cells, quoted };
}

/** Takes a row line by line. `open`: within quotes. `broken`: a closing quote is not followed by a separator. */
function quotedRow(separator: string) {
  const cells: string[] = [];
  const quoted: boolean[] = [];
  let cell: string[] | undefined; // the parts of a cell in quotes
  const end = (text: string, inQuotes: boolean) => {
    cells.push(text);
    quoted.push(inQuotes);
  };
  return {
    cells,
    quoted,
    push(text: string): 'open' | 'closed' | 'broken' {
      let at = 0;
      cell?.push('\n');
      for (;;) {
        if (cell) {
          const quote = text.indexOf('"', at);
          cell.push(quote < 0 ? text.slice(at) : text.slice(at, quote));
          if (quote < 0) return 'open';
          at = quote + 1;
          if (text[at] === '"') {
            cell.push('"');
            at++;
            continue;
          }
          end(cell.join(''), true);
          cell = undefined;
          if (at === text.length) return 'closed';
          if (text[at] !== separator) return 'broken';
          at++;
        } else if (text[at] === '"') {
          cell = [];
          at++;
        } else {
          const next = text.indexOf(separator, at);
          end(next < 0 ? text.slice(at) : text.slice(at, next), false);
          if (next < 0) return 'closed';
          at = next + 1;
        }
      }
    },
  };
}
