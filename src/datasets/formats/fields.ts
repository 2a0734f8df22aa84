import { shown, UserError } from '../../system/errors.ts';
import { type JsonLine, stringField, wholeText } from '../jsonl.ts';
import type { Document } from '../types.ts';

/** What `data.fields` names: keys of JSON, names in a table's header, or numbers of a table's columns from 1. */
export interface Fields {
  id: string | number | null;
  title: string | number | null;
  text: string | number | null;
}

export const NO_FIELDS: Fields = { id: null, title: null, text: null };

/**
 * The names that published collections use, the clearest first: BEIR and MTEB have `_id`, MS MARCO `pid` and `passage`,
 * TREC `docno` and `docid`, pyserini `contents`, DPR `psg_id`, KILT `wikipedia_title`.
 */
const KNOWN: Record<keyof Fields, readonly string[]> = {
  id: ['id', '_id', 'docid', 'doc_id', 'docno', 'pid', 'psg_id', 'passage_id', 'document_id', 'wikipedia_id'],
  title: ['title', 'wikipedia_title', 'page_title', 'doc_title', 'name'],
  text: ['text', 'contents', 'content', 'body', 'passage', 'passage_text', 'context', 'document'],
};

/** How a file without known names can still be read. */
const SETTING = (text: string) => `name it with data.fields, as in --set data.fields.text=${text}`;

/**
 * A document from one JSON object. If there is no id, the id is its number in the file, from 0; the title may be missing. A
 * key that is null, and an empty id, count as missing. Other keys are ignored. A text may be a list of paragraphs, as in KILT.
 */
export function jsonDocument(line: JsonLine, number: number, fields: Fields): Document {
  const { value } = line;
  const keys = keysOf(value, fields, line.where);
  const id = keys.id === undefined ? null : value[keys.id];
  const title = keys.title === undefined ? '' : stringField(line, keys.title);
  if (keys.text === undefined) throw noText(line, fields);
  const found = paragraphList(value[keys.text]);
  // A null is counted with the documents without text; a missing key is probably a mistake.
  const text = Array.isArray(found)
    ? paragraphs(line, keys.text, found)
    : found === null
      ? ''
      : stringField(line, keys.text);
  const named = {
    id:
      id === null
        ? String(number)
        : typeof id === 'number'
          ? numberId(line, id, keys.id!)
          : stringField(line, keys.id!),
  };
  // A passage with a title in pyserini's form: "\"Title\"\nText".
  const titled = keys.text === 'contents' && title === '' ? /^"([^\n]*)"\n/.exec(text) : null;
  return titled
    ? { ...named, title: titled[1], text: text.slice(titled[0].length) }
    : { ...named, title, text };
}

/** The keys of an object that hold the parts of a document. */
function keysOf(value: Record<string, unknown>, fields: Fields, where: string) {
  const has = (key: string) => Object.hasOwn(value, key);
  const keyOf = (what: keyof Fields) => {
    const named = fields[what];
    if (typeof named === 'number') {
      throw new UserError(
        `${where}: data.fields.${what} is ${named}, which is the number of a table's column; give the name of a key of these objects`,
      );
    }
    if (named !== null) return has(named) ? named : undefined;
    return KNOWN[what].find((key) => has(key) && (value[key] !== null || what === 'text'));
  };
  const [id, title, text] = [keyOf('id'), keyOf('title'), keyOf('text')];
  return {
    id: id !== undefined && (value[id] === null || value[id] === '') ? undefined : id,
    title: title !== undefined && value[title] === null ? undefined : title,
    text,
  };
}

/**
 * The names among those of a file's columns that may hold the parts of a document, and the one that holds the text; undefined
 * if none is known to.
 */
export function fieldNames(
  names: readonly string[],
  fields: Fields,
): { chosen: string[]; text: string | undefined } {
  const known = (what: keyof Fields) => {
    const named = fields[what];
    return named === null
      ? KNOWN[what].filter((name) => names.includes(name))
      : names.filter((n) => n === named);
  };
  const [text] = known('text');
  const chosen = new Set([...known('id'), ...known('title'), ...(text === undefined ? [] : [text])]);
  return { chosen: [...chosen], text };
}

function noText({ value, where }: JsonLine, fields: Fields): UserError {
  const keys = Object.keys(value);
  const seen =
    keys.length === 0
      ? 'no key at all'
      : `only ${keys
          .slice(0, 8)
          .map((key) => shown(key))
          .join(', ')}`;
  const longest = keys
    .filter((key) => typeof value[key] === 'string')
    .sort((a, b) => (value[b] as string).length - (value[a] as string).length)[0];
  const advice =
    longest === undefined
      ? 'give objects of {"id", "title", "text"}'
      : SETTING(/^\w+$/.test(longest) ? longest : 'KEY');
  return new UserError(
    `${where}: has no "${fields.text ?? 'text'}", ${seen}; if another key holds the text, ${advice}`,
  );
}

/** On the Hub, KILT's knowledge source has `{"paragraph": […], "paragraph_id": […]}`. */
function paragraphList(found: unknown): unknown {
  return typeof found === 'object' && found !== null && 'paragraph' in found ? found.paragraph : found;
}

/** KILT's knowledge source: a list whose first item is the title, with `Section::::` and `BULLET::::` before some items. */
function paragraphs(line: JsonLine, key: string, list: unknown[]): string {
  if (list.some((item) => typeof item !== 'string'))
    throw new UserError(
      `${line.where}: has "${key}" ${shown(list)}; "${key}" must be a string or a list of strings`,
    );
  const lines = (list as string[]).map((item) =>
    wholeText(line, item)
      .replace(/^(Section|BULLET)::::(- ?)?/, '')
      .trimEnd(),
  );
  return lines.join('\n');
}

/** Numbers above 2^53 lose digits, so that two documents could get the same id. */
function numberId({ where }: JsonLine, id: number, key: string): string {
  if (Math.abs(id) <= Number.MAX_SAFE_INTEGER) return String(id);
  throw new UserError(
    `${where}: has a number as "${key}" that is too large to be kept exactly; put it in quotes`,
  );
}

/** Id, title and text of an object for a sample of a file. Nothing is checked. */
export function looseDocument(value: Record<string, unknown>, fields: Fields): Record<string, unknown> {
  const { id, title, text } = keysOf(value, fields, 'data.fields');
  const of = (key: string | undefined) => (key === undefined ? undefined : value[key]);
  const words = paragraphList(of(text));
  return { id: of(id), title: of(title), text: Array.isArray(words) ? words.join('\n') : words };
}

/** Columns of a table, counted from 0, and whether its first row names them. */
export interface Columns {
  id: number | undefined;
  title: number | undefined;
  text: number;
  header: boolean;
}

/**
 * The columns that the first row of a table or `fields` names; undefined if neither does.
 * @param where the name of the first row in errors
 */
export function namedColumns(cells: readonly string[], fields: Fields, where: string): Columns | undefined {
  const names = cells.map((cell) => cell.trim().toLowerCase());
  const known = (what: keyof Fields) => KNOWN[what].find((name) => names.includes(name));
  const shownNames = cells.map((cell) => shown(cell)).join(', ');
  const columnOf = (what: keyof Fields): number | undefined => {
    const named = fields[what];
    if (typeof named === 'number') {
      if (named <= cells.length) return named - 1;
      throw new UserError(
        `${where}: data.fields.${what} is ${named}, but there are ${cells.length} columns; correct it`,
      );
    }
    const name = named === null ? known(what) : named.trim().toLowerCase();
    if (name === undefined) return undefined;
    const column = names.indexOf(name);
    if (column < 0)
      throw new UserError(
        `${where}: has no column "${named}", only ${shownNames}; correct data.fields.${what}`,
      );
    if (names.includes(name, column + 1))
      throw new UserError(`${where}: names two columns "${name}"; rename one of them`);
    return column;
  };
  const set = Object.values(fields).filter((field) => field !== null);
  const header = known('text') !== undefined || set.some((field) => typeof field === 'string');
  const others = known('id') !== undefined || known('title') !== undefined;
  if (set.length === 0 && !header && !others) return undefined;
  const text = columnOf('text');
  if (text === undefined) {
    throw new UserError(
      `${where}: none of the columns ${shownNames} is known to hold the text; ${SETTING('NAME')} or the number of its column`,
    );
  }
  const numbered = set.length > 0 && !header && !others;
  return { id: columnOf('id'), title: columnOf('title'), text, header: !numbered };
}
