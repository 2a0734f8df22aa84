import { parseHTML } from 'linkedom';
import type { Document } from '../types.ts';

// The text of a page of HTML. linkedom parses it. Readability, the code of Firefox's reader view, finds the main text, and
// leaves out menus, footers and advertisements. Other libraries: jsdom is a whole browser and 20 times the size; html-to-text
// and turndown keep menus.

/** Titles and main text of a page. A page without a main text, such as one of few words, is kept whole. */
export async function htmlDocument(html: string, id: string, name: string): Promise<Document> {
  const { Readability } = await import('@mozilla/readability');
  const document = parsePage(html);
  const heading = document.title.trim() || document.querySelector('h1')?.textContent?.trim() || name;
  // Readability changes the document that it is given.
  const article = new Readability(parsePage(html) as never).parse();
  const main = article?.content ? htmlText(parsePage(article.content).documentElement as never) : '';
  return {
    id,
    title: (article?.title ?? '').trim() || heading,
    text: main === '' ? htmlText(document.documentElement as never) : main,
  };
}

/** A page, or a piece of one. linkedom does not add the elements that HTML allows to leave out. */
export function parsePage(html: string) {
  const whole = /<html[\s>]/i.test(html) ? html : `<html><head></head><body>${html}</body></html>`;
  return parseHTML(whole).document;
}

/** Elements that start and end a line of their own. */
const BLOCK =
  /^(address|article|aside|blockquote|body|br|caption|dd|div|dl|dt|fieldset|figcaption|figure|footer|form|h[1-6]|header|hr|li|main|nav|ol|p|pre|section|table|tbody|tfoot|thead|tr|ul)$/i;
/** Elements without text to read. */
const SKIPPED = /^(head|noscript|script|style|svg|template|title)$/i;

interface Node {
  nodeType: number;
  nodeName: string;
  childNodes: Iterable<Node>;
  textContent: string | null;
}

/** The text below an element: a line for each block and for each row of a table, whose cells are separated by semicolons. */
export function htmlText(root: Node): string {
  const lines: string[] = [];
  let line = '';
  const end = () => {
    const text = line.replace(/\s+/g, ' ').trim();
    if (text !== '') lines.push(text);
    line = '';
  };
  const walk = (node: Node, inCell = false) => {
    if (node.nodeType === 3) line += node.textContent ?? '';
    if (node.nodeType !== 1 || SKIPPED.test(node.nodeName)) return;
    const isCell = /^t[dh]$/i.test(node.nodeName);
    const isBlock = !inCell && BLOCK.test(node.nodeName);
    if (isBlock) end();
    else if (BLOCK.test(node.nodeName)) line += ' '; // Word has a paragraph in every cell
    if (isCell && line.trim() !== '') line = `${line.trimEnd()}; `;
    if (/^pre$/i.test(node.nodeName)) {
      lines.push(...(node.textContent ?? '').split('\n').filter((text) => text.trim() !== ''));
      return;
    }
    for (const child of node.childNodes) walk(child, inCell || isCell);
    if (isBlock) end();
  };
  walk(root);
  end();
  return lines.join('\n');
}
