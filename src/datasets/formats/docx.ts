import { UserError } from '../../system/errors.ts';
import type { Document } from '../types.ts';
import { htmlText, parsePage } from './html.ts';

/**
 * The text of a Word file (.docx) by mammoth, which makes HTML of it: headings, paragraphs, lists, tables and notes; no headers,
 * footers and comments. The title is the first heading, or the name of the file. A Word file does not store its pages.
 */
export async function docxDocument(bytes: Buffer, path: string, id: string, name: string): Promise<Document> {
  const { default: mammoth } = await import('mammoth');
  let html: string;
  try {
    html = (await mammoth.convertToHtml({ buffer: bytes })).value;
  } catch {
    throw new UserError(`${path}: is not a complete Word file (.docx); save it again`);
  }
  const document = parsePage(html);
  const title = document.querySelector('h1, h2')?.textContent?.trim();
  return { id, title: title || name, text: htmlText(document.documentElement as never) };
}
