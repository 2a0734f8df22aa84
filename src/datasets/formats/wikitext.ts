import { decodeHTML } from 'entities';
import type { Document } from '../types.ts';

// The text of a page of MediaWiki, by wtf_wikipedia, which knows the marks and several hundred templates. A page has templates
// that only its wiki can expand; what it does not know is left out, as WikiExtractor does. wikiparser-node parses more
// exactly, but makes no text; mediawiki-to-text libraries of npm have no release in years.

/** What is used of wtf_wikipedia, whose types are not complete. */
interface Section {
  title(): string;
  depth(): number;
  text(options: object): string;
  tables(): { keyValue(options: object): Record<string, string>[] }[];
}
type Template = (text: string, list: unknown[]) => string;

/**
 * Parses wikitext as documents, one for each section with text, as `markdownDocuments` does: titles are `Page: Section:
 * Subsection`, ids `12` and `12#Section_name`. A line is a paragraph, an item of a list, or a row of a table (`Column:
 * cell; …`; tables come after the section's other text). Links keep their text, formulas their TeX. Infoboxes, images, references
 * and unknown templates are left out. Undefined if the page only leads to another one.
 */
export async function wikitextDocuments(
  wikitext: string,
  id: string,
  title: string,
): Promise<Document[] | undefined> {
  const { default: wtf } = await import('wtf_wikipedia');
  extendOnce(wtf);
  const page = wtf(wikitext, { title });
  if (page.isRedirect()) return undefined;
  const open: { depth: number; heading: string }[] = [];
  const anchors = new Map<string, number>();
  const documents: Document[] = [];
  for (const section of page.sections() as unknown as Section[]) {
    const heading = line(section.title());
    while (open.length > 0 && open.at(-1)!.depth >= section.depth()) open.pop();
    if (heading !== '') open.push({ depth: section.depth(), heading });
    const anchor = heading === '' ? '' : uniqueAnchor(heading, anchors);
    const text = linesOf(section).join('\n');
    if (text === '') continue;
    documents.push({
      id: anchor === '' ? id : `${id}#${anchor}`,
      title: [title, ...open.map(({ heading }) => heading)].join(': '),
      text,
    });
  }
  return documents.length > 0 ? documents : [{ id, title, text: '' }];
}

function linesOf(section: Section): string[] {
  const rows = section.tables().flatMap((table) => table.keyValue({}).map(tableRow));
  const lines = section
    .text({})
    .split('\n')
    .map((text) => line(text.replace(/^\s*(\*|\d+\))\s+/, '')));
  return [...lines, ...rows].filter((text) => text !== '');
}

/** A column without a name is `col3`. */
function tableRow(row: Record<string, string>): string {
  return Object.entries(row)
    .map(([column, cell]) => [line(column), line(cell)])
    .flatMap(([column, cell]) => (cell === '' ? [] : [/^col\d+$/.test(column) ? cell : `${column}: ${cell}`]))
    .join('; ');
}

/** The text on one line, without the empty brackets that unknown templates leave behind. */
function line(text: string): string {
  return decodeHTML(text)
    .replace(/\s+/g, ' ')
    .replace(/ \([ ;,]*\)/g, '')
    .replace(/ \( ?[;,] ?/g, ' (')
    .trim();
}

/** As MediaWiki makes them: `Early_years`, `Early_years_2`. */
function uniqueAnchor(heading: string, used: Map<string, number>): string {
  const anchor = heading.replaceAll(' ', '_');
  const n = (used.get(anchor) ?? 0) + 1;
  used.set(anchor, n);
  return n === 1 ? anchor : `${anchor}_${n}`;
}

let extended = false;

/** Templates of running text that wtf_wikipedia drops, and those that it would fill with the date of today. */
function extendOnce(wtf: {
  extend(fn: (models: unknown, templates: Record<string, Template>) => void): unknown;
}) {
  if (extended) return;
  extended = true;
  wtf.extend((_, templates) => {
    for (const name of ['nbsp', 'space']) templates[name] = () => ' ';
    templates.endash = () => '–';
    for (const name of ['em', 'strong', 'linktext', 'ordinal']) templates[name] = (text) => argument(text, 1);
    for (const name of ['langx', 'transliteration']) templates[name] = (text) => argument(text, 2);
    for (const name of TODAY) templates[name] = () => '';
    for (const name of UNTIL_TODAY) {
      const known = templates[name];
      // {{age|1950|1|2}} ends today, {{age|1950|1|2|2000|3|4}} does not.
      templates[name] = (text, list) => (argument(text, 4) === '' ? '' : known(text, list));
    }
  });
}

const TODAY = [
  'currentday',
  'currentdayname',
  'currentmonth',
  'currentyear',
  'monthyear',
  'monthyear-1',
  'monthyear+1',
  'time',
  'time ago',
  'birth year and age',
];
const UNTIL_TODAY = [
  'age',
  'age nts',
  'age in years',
  'age in years and months',
  'age in years, months and days',
  'age in years and days',
  'age in days',
];

/** An argument of `{{name|first|second}}`, from 1. */
const argument = (template: string, n: number) =>
  template
    .replace(/^\{\{|\}\}$/g, '')
    .split('|')
    [n]?.trim() ?? '';
