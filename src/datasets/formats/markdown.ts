import { decodeHTML } from 'entities';
import MarkdownIt, { type Token } from 'markdown-it';
import { parse as parseYaml } from 'yaml';
import type { Document } from '../types.ts';

// Markdown as CommonMark and GitHub define it, read by markdown-it, which passes CommonMark's own tests.

const markdown = new MarkdownIt({ html: true });

/**
 * A Markdown file as documents, one for each section, so that no block crosses a heading. The title of a document has its
 * headings, `Title: Section: Subsection`. The first part is the title of the front matter, or the first heading, or `name`.
 * Ids are `id` and, for sections below a heading, `id#anchor` as on GitHub. A line of text is a paragraph, an item of a
 * list, a row of a table (`Column: cell; …`) or a line of code. Links keep their text and images their description. Marks,
 * rules, link targets, tags and comments are left out; entities are decoded.
 */
export function markdownDocuments(text: string, id: string, name: string): Document[] {
  const { title: given, body } = frontMatter(text);
  const sections = sectionsOf(markdown.parse(body, {}));
  const title = given ?? sections.find(({ headings }) => headings.length > 0)?.headings.at(-1) ?? name;
  const anchors = new Map<string, number>();
  const documents: Document[] = [];
  for (const [s, { headings, lines }] of sections.entries()) {
    const anchor = headings.length > 0 ? uniqueAnchor(headings.at(-1)!, anchors) : '';
    const below = headings[0] === title ? headings.slice(1) : headings;
    // A heading with only other headings below it is in their titles. One with nothing below it becomes the text.
    const leaf = (sections[s + 1]?.headings.length ?? 0) <= headings.length;
    if (lines.length === 0 && leaf && below.length > 0) lines.push(below.at(-1)!);
    if (lines.length === 0) continue;
    const ofFile = below.length === 0 && documents.length === 0;
    documents.push({
      id: ofFile || anchor === '' ? id : `${id}#${anchor}`,
      title: [title, ...below].join(': '),
      text: lines.join('\n'),
    });
  }
  return documents.length > 0 ? documents : [{ id, title, text: '' }];
}

/** The title in the front matter (between two lines of `---` for YAML or `+++` for TOML), and the text after it. */
function frontMatter(text: string): { title: string | undefined; body: string } {
  const found = /^(---|\+\+\+)[ \t]*\r?\n((?:[\s\S]*?\r?\n)?)\1[ \t]*(?:\r?\n|$)/.exec(text);
  if (!found) return { title: undefined, body: text };
  const [whole, marks, settings] = found;
  const title = marks === '---' ? yamlTitle(settings) : tomlTitle(settings);
  return { title: title?.trim() || undefined, body: text.slice(whole.length) };
}

function yamlTitle(settings: string): string | undefined {
  try {
    const title = parseYaml(settings, { maxAliasCount: 0, logLevel: 'error' })?.title;
    return typeof title === 'string' || typeof title === 'number' ? String(title) : undefined;
  } catch {
    return undefined; // invalid YAML is not worth an error: the file then has no title here
  }
}

const tomlTitle = (settings: string) => /^title\s*=\s*(["'])(.*)\1\s*$/m.exec(settings)?.[2];

interface Section {
  /** The headings above it, the outermost first; none before the first heading. */
  headings: string[];
  lines: string[];
}

function sectionsOf(tokens: readonly Token[]): Section[] {
  let section: Section = { headings: [], lines: [] };
  const sections = [section];
  const open: { level: number; heading: string }[] = [];
  let columns: string[] = []; // of a table, from its header
  let cells: string[] = [];
  const say = (text: string) => {
    for (const line of text.split('\n')) if (line.trim() !== '') section.lines.push(line.trim());
  };
  for (let t = 0; t < tokens.length; t++) {
    const token = tokens[t];
    if (token.type === 'heading_open' && token.level === 0) {
      const level = Number(token.tag.slice(1));
      const heading = inlineText(tokens[++t]);
      while (open.length > 0 && open.at(-1)!.level >= level) open.pop();
      if (heading !== '') open.push({ level, heading });
      section = { headings: open.map(({ heading }) => heading), lines: [] };
      sections.push(section);
    } else if (token.type === 'inline') {
      if (/^t[hd]_open$/.test(tokens[t - 1].type)) cells.push(inlineText(token));
      else say(inlineText(token));
    } else if (token.type === 'thead_close') {
      columns = cells;
      if (tokens[t + 1].type !== 'tbody_open') say(columns.join('; '));
    } else if (token.type === 'tr_open') {
      cells = [];
    } else if (token.type === 'tr_close' && tokens[t + 1].type !== 'thead_close') {
      say(tableRow(columns, cells));
    } else if (token.type === 'fence' || token.type === 'code_block') {
      say(token.content);
    } else if (token.type === 'html_block') {
      say(htmlText(token.content));
    }
  }
  return sections;
}

function tableRow(columns: readonly string[], cells: readonly string[]): string {
  return cells
    .flatMap((cell, c) => (cell === '' ? [] : [columns[c] ? `${columns[c]}: ${cell}` : cell]))
    .join('; ');
}

/** The text of a paragraph, a heading or a cell on one line. */
function inlineText(token: Token): string {
  return runningText(token.children ?? [])
    .replace(/^\[[ xX]\]\s+|^\[![A-Z]+\]\s*/, '') // a box of a task list, the kind of a GitHub alert
    .replace(/\s+/g, ' ')
    .trim();
}

function runningText(tokens: readonly Token[]): string {
  return tokens
    .map((token) => {
      if (token.type === 'text') return token.content.replace(/\[\^[^\]\s]+\]:?/g, ''); // a footnote's mark
      if (token.type === 'code_inline') return token.content;
      if (token.type === 'image') return runningText(token.children ?? []);
      if (token.type === 'softbreak' || token.type === 'hardbreak') return ' ';
      return token.type === 'html_inline' && /^<br\b/i.test(token.content) ? ' ' : '';
    })
    .join('');
}

/** The text of a block of HTML within Markdown. */
function htmlText(html: string): string {
  const text = html
    .replace(/<!--[\s\S]*?(-->|$)/g, '')
    .replace(/<(script|style)\b[\s\S]*?(<\/\1\s*>|$)/gi, '')
    .replace(/<(\/?(p|div|li|tr|h[1-6]|summary|details|dt|dd|table|ul|ol)\b|br\b)[^>]*>/gi, '\n')
    .replace(/<\/?[A-Za-z!?][^>]*>/g, ' ');
  return decodeHTML(text).replace(/[^\S\n]+/g, ' ');
}

/** The anchor that GitHub gives to a heading; a number is added if an earlier heading has the same anchor. */
function uniqueAnchor(heading: string, used: Map<string, number>): string {
  const anchor = heading
    .toLowerCase()
    .replace(/[^\p{L}\p{N}\p{M} _-]/gu, '')
    .replaceAll(' ', '-');
  const before = used.get(anchor) ?? 0;
  used.set(anchor, before + 1);
  return before === 0 ? anchor : `${anchor}-${before}`;
}
