import sax from 'sax';
import { errorCode, shown, UserError } from '../../system/errors.ts';
import { readPieces } from '../bytes.ts';
import { explainRead, LINE_LIMIT } from '../jsonl.ts';

// The XML that MediaWiki exports (mediawiki.org/xml/export-0.11.xsd and earlier), as Wikimedia publishes it:
// <mediawiki><siteinfo/><page><title/><ns/><id/><redirect/>?<revision><model/><text/></revision></page>…. Read by sax, which
// takes pieces, and knows no entities of a file's own, which could fill the memory. saxes is faster, which does not matter behind
// bzip2 and the parsing of wikitext, but had no release for years.

/** A page with its wikitext, of its last revision in the file. */
export interface Page {
  id: string;
  title: string;
  text: string;
  /** Number of its namespace: 0 for articles. */
  namespace: number;
  redirect: boolean;
  /** `wikitext`, or what else the page holds, such as `json`. */
  model: string;
}

const TITLE = 'mediawiki/page/title';
const NAMESPACE = 'mediawiki/page/ns';
const ID = 'mediawiki/page/id';
const MODEL = 'mediawiki/page/revision/model';
const TEXT = 'mediawiki/page/revision/text';
const KEPT = new Set([TITLE, NAMESPACE, ID, MODEL, TEXT]);

/** Streams the pages of a dump. Holds one page, of limited length, and those that end in a piece of the file. */
export async function* readPages(path: string): AsyncGenerator<Page> {
  const what = 'a dump of MediaWiki';
  const decoder = new TextDecoder('utf-8', { fatal: true });
  const pages = pageParser(path);
  try {
    for await (const piece of readPieces(path)) yield* pages.push(decoder.decode(piece, { stream: true }));
    yield* pages.push(decoder.decode());
    pages.end();
  } catch (error) {
    if (errorCode(error) === 'ERR_ENCODING_INVALID_ENCODED_DATA')
      throw new UserError(`${path}: is not UTF-8 text; make or download it again`);
    throw explainRead(path, what, error);
  }
}

function pageParser(path: string) {
  const parser = sax.parser(true);
  const open: string[] = [];
  let done: Page[] = [];
  let values = new Map<string, string>();
  let redirect = false;
  let kept: string | undefined;
  parser.onerror = ({ message }) => {
    throw new UserError(
      `${path}: line ${parser.line + 1}: is not valid XML (${message.split('\n')[0]}); make or download it again`,
    );
  };
  parser.onopentag = ({ name }) => {
    if (open.length === 0 && name !== 'mediawiki')
      throw new UserError(
        `${path}: is XML of <${name}>, and no dump of MediaWiki; convert it to JSON Lines of {"id", "title", "text"}`,
      );
    open.push(name);
    const element = open.join('/');
    kept = KEPT.has(element) ? element : undefined;
    if (kept) values.set(kept, '');
    if (element === 'mediawiki/page/redirect') redirect = true;
  };
  parser.ontext = (text) => {
    if (kept === undefined) return;
    const value = values.get(kept) + text;
    if (value.length > LINE_LIMIT)
      throw new UserError(
        `${path}: line ${parser.line + 1}: a page is longer than ${LINE_LIMIT >> 20} MiB; remove it`,
      );
    values.set(kept, value);
  };
  parser.oncdata = parser.ontext;
  parser.onclosetag = (name) => {
    open.pop();
    kept = undefined;
    if (name !== 'page' || open.length !== 1) return;
    const of = (element: string) => values.get(element) ?? '';
    const title = of(TITLE);
    if (!values.has(NAMESPACE))
      throw new UserError(
        `${path}: line ${parser.line + 1}: page ${shown(title)} has no <ns>; export it again with a MediaWiki of 2012 or later`,
      );
    done.push({
      id: of(ID) || title,
      title,
      text: of(TEXT),
      namespace: Number(of(NAMESPACE)),
      redirect,
      model: of(MODEL) || 'wikitext',
    });
    values = new Map();
    redirect = false;
  };
  return {
    push(text: string): Page[] {
      parser.write(text);
      const found = done;
      done = [];
      return found;
    },
    end() {
      if (open.length > 0 || parser.line === 0)
        throw new UserError(
          `${path}: ${open.length > 0 ? `the file ends within <${open.at(-1)}>` : 'is empty'}; make or download it again`,
        );
    },
  };
}
