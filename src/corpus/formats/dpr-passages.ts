import { UserError } from '../../errors.ts';
import type { Document } from '../documents.ts';
import { readTable } from './table.ts';

/**
 * The passages of DPR's `psgs_w100.tsv`: rows of id, text and title under a row that says so. Quotes at both ends of a
 * text are dropped, as DPR drops them (facebookresearch/DPR, dpr/data/retriever_data.py, CsvCtxSrc, commit a31212d).
 */
export async function* readDprPassages(path: string): AsyncGenerator<Document> {
  for await (const { cells, where } of readTable(path, 'a table of passages such as psgs_w100.tsv')) {
    if (cells.length !== 3) {
      throw new UserError(
        `${where}: has ${cells.length} cells; every row must be id, text and title with tabs between`,
      );
    }
    const [id, text, title] = cells;
    if (id !== 'id') yield { id, title, text: text.replace(/^"+|"+$/g, '') };
  }
}
