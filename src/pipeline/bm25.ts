import type { Corpus } from '../corpus/store/reader.ts';
import { type Bm25, ensureBm25, openBm25 } from '../retrieval/bm25.ts';
import type { Context } from './context.ts';

/** BM25 over the run's corpus. Its index is made first where it is missing, unless the command only reads (`UserError`). */
export async function runBm25({ run, readOnly }: Context, corpus: Corpus): Promise<Bm25> {
  return readOnly ? openBm25(run.bm25, corpus) : ensureBm25(run.bm25, corpus);
}

/** BM25 for hybrid retrieval; undefined where the settings ask for the inner product alone. */
export async function hybridBm25(context: Context, corpus: Corpus): Promise<Bm25 | undefined> {
  return context.config.hybrid.weight === null ? undefined : runBm25(context, corpus);
}
