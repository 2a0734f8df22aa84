import { UserError } from '../../system/errors.ts';
import { warn } from '../../system/progress.ts';
import type { Document } from '../types.ts';

/**
 * The pages of a PDF as documents, with the page in the id (`report.pdf#page=3`, as browsers write it) and in the title
 * (`report, page 3`). Their text is the text layer, read by unpdf, which is Mozilla's PDF.js without its viewer; pdf-parse is
 * no longer maintained. A page that is only a picture has no text; a file of such pages gets a warning.
 */
export async function* pdfPages(
  bytes: Buffer,
  path: string,
  id: string,
  name: string,
): AsyncGenerator<Document> {
  const { getDocumentProxy } = await import('unpdf');
  let pdf: Awaited<ReturnType<typeof getDocumentProxy>>;
  try {
    pdf = await getDocumentProxy(new Uint8Array(bytes), { verbosity: 0 });
  } catch (error) {
    const locked = (error as Error).name === 'PasswordException';
    throw new UserError(
      `${path}: ${locked ? 'is protected by a password; save it without one' : 'is not a complete PDF file; make or download it again'}`,
    );
  }
  let found = false;
  for (let number = 1; number <= pdf.numPages; number++) {
    const page = await pdf.getPage(number);
    const { items } = await page.getTextContent();
    const text = items
      .map((item: { str?: string; hasEOL?: boolean }) =>
        item.str !== undefined ? item.str + (item.hasEOL ? '\n' : '') : '',
      )
      .join('')
      .trim();
    found ||= text !== '';
    yield { id: `${id}#page=${number}`, title: `${name}, page ${number}`, text };
    page.cleanup();
  }
  await pdf.loadingTask?.destroy();
  if (!found) {
    warn(`${path}: has no text layer; recognise its text first, for example with "ocrmypdf IN OUT"`);
  }
}
