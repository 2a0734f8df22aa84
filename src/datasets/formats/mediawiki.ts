import { readdirSync, statSync } from 'node:fs';
import { basename, join } from 'node:path';
import { shown, UserError } from '../../system/errors.ts';
import { warn } from '../../system/progress.ts';
import { unpackedName } from '../bytes.ts';
import { needPackage } from '../optional-package.ts';
import type { Document, LeftOut } from '../types.ts';
import type { Fields } from './fields.ts';
import { type Page, readPages } from './mediawiki-dump.ts';
import { wikitextDocuments } from './wikitext.ts';

/** True for the names of XML files; large wikis have parts such as `…-pages-articles1.xml-p1p41242.bz2`. */
export const isXml = (path: string) => /\.xml(-p\d+p\d+)?$/.test(unpackedName(path));

/** True for the names of Wikimedia's dumps, as a folder may hold them. */
export const isDump = (path: string) => isXml(path) && /-pages-(articles|meta)/.test(basename(path));

/**
 * The articles of a dump of Wikipedia or another wiki of MediaWiki (`*-pages-articles.xml.bz2`, one file or a folder of its
 * parts), as documents of one section each: see `wikitextDocuments`. Redirects and pages of other namespaces (talk,
 * templates, files) are left out.
 */
export async function* readMediaWiki(
  path: string,
  _fields: Fields,
  leftOut: LeftOut,
): AsyncGenerator<Document> {
  needPackage('wtf_wikipedia', path, 'MediaWiki XML');
  for (const file of dumpFiles(path)) {
    for await (const page of readPages(file)) {
      if (page.namespace !== 0 || page.model !== 'wikitext') leftOut('otherPages');
      else if (page.redirect) leftOut('redirects');
      else yield* await documentsOf(page, leftOut, file);
    }
  }
}

async function documentsOf({ id, title, text }: Page, leftOut: LeftOut, path: string): Promise<Document[]> {
  try {
    const documents = await wikitextDocuments(text, id, title);
    if (documents === undefined) leftOut('redirects');
    return documents ?? [];
  } catch (error) {
    if (!(error instanceof RangeError)) throw error;
    warn(`${path}: page ${shown(title)} has templates nested too deeply to be parsed; its text is left out`);
    return [{ id, title, text: '' }];
  }
}

function dumpFiles(path: string): string[] {
  if (!statSync(path, { throwIfNoEntry: false })?.isDirectory()) return [path];
  const names = readdirSync(path)
    .filter(isDump)
    .sort((a, b) => a.localeCompare(b, 'en', { numeric: true }));
  const dumps = new Set(names.map((name) => name.replace(/\d*\.xml.*$/, '')));
  if (names.length === 0)
    throw new UserError(`${path}: holds no dump such as *-pages-articles.xml.bz2; name a file`);
  if (dumps.size > 1)
    throw new UserError(
      `${path}: holds several dumps (${[...dumps].join(', ')}); name one file, or move each to a folder of its own`,
    );
  return names.map((name) => join(path, name));
}
