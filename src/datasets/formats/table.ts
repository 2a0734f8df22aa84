import { UserError } from '../../system/errors.ts';
import type { Line } from '../jsonl.ts';
import { LINE_LIMIT, readLines } from '../jsonl.ts';

/** One row of a table: its cells and how errors name it, `FILE: line N`, the line on which the row begins. */
export interface Row {
  cells: string[];
  /** Whether each cell stood in quotes, which are gone. */
  quoted: boolean[];
  where: string;
}

/**
 * The rows of a file with tabs, commas or semicolons between its cells: with tabs where the name or the first line has one.
 * A cell in quotes, as Python's `csv` module and spreadsheets write it, may hold separators, line feeds and doubled quotes.
 * Many tables are written without any quoting, and their text begins with a quote now and then: so a row whose quotes do not
 * close, or close in the middle of a cell, is taken as it stands where it has as many cells as the first row.
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

/** What a line held takes beside its text. */
const LINE_COST = 64;

interface LookAhead {
  /** The line so many lines ahead; undefined behind the last. */
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

/** The row that begins with the next line, and how many lines it has. */
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
    size += LINE_COST + (next?.text.length ?? 0);
    const state = next && size <= LINE_LIMIT ? row.push(next.text) : 'broken';
    everyLineFits &&= next !== undefined && fits(next.text);
    if (state === 'open') continue;
    // Lines that are a row each by themselves are hardly the lines of one cell.
    const whole = state === 'closed' && (length === 1 || width === undefined || !everyLineFits);
    if (whole && (row.cells.length === width || width === undefined || !fits(line.text)))
      return { cells: row.cells, quoted: row.quoted, length };
    if (fits(line.text)) return plain;
    throw new UserError(
      `${path}: line ${line.number}: a quote is not closed, or more than the next cell follows it; close it, and write a quote within a quoted cell twice`,
    );
  }
}

/** Takes a row line by line: `open` within quotes, `broken` where something else than a separator follows a closing quote. */
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
