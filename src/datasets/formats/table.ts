import { UserError } from '../../system/errors.ts';
import type { Line } from '../jsonl.ts';
import { LINE_LIMIT, readLines } from '../jsonl.ts';

/** One row of a table: its cells, and its name in errors, `FILE: line N`, with the line where the row starts. */
export interface Row {
  cells: string[];
  /** Whether each cell was in quotes, which have been removed. */
  quoted: boolean[];
  where: string;
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
    const { cells, quoted, length } = await rowAt(lines, separator, width, path);
    lines.take(length);
    width ??= cells.length;
    yield { cells, quoted, where: `${path}: line ${line.number}` };
  }
}

function separatorOf(path: string, line: string): string {
  if (/\.tsv(\.(gz|zst))?$/.test(path) || line.includes('\t')) return '\t';
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
    if (fits(line.text)) return plain;
    throw new UserError(
      `${path}: line ${line.number}: a quoted cell is not closed, or text follows its closing quote; close it, and double every quote inside a quoted cell`,
    );
  }
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
