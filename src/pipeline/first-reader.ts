import type { Corpus } from '../corpus/store/reader.ts';
import type { Shape } from '../model/bert.ts';
import { startMaskHead } from '../model/mask-head.ts';
import type { Model } from '../model/model.ts';
import { type Context, firstWeights } from './context.ts';

/** Sentences, evenly spread, whose word pieces are counted: enough for the frequency of any word that matters. */
const COUNTED = 100_000;

/**
 * First values of the reader, `shapes` with its masked-language-model head: as `firstWeights`; a head that the encoder's folder
 * does not have gets values from which it learns fast.
 */
export function firstReader(context: Context, model: Model, corpus: Corpus, shapes: readonly Shape[]): void {
  const drawn = new Set(firstWeights(context, model, shapes));
  const p = model.readerTower;
  const withoutHead = drawn.has(`${p}mlm.transform.kernel`) && !drawn.has(`${p}embeddings.word`);
  if (withoutHead) startMaskHead(model.params, p, corpus.tokenizer.mask, pieceCounts(corpus));
}

/** How often each word piece occurs in a sample of the sentences, [V]. */
function pieceCounts({ sentences, tokenizer }: Corpus): Float32Array {
  const counts = new Float32Array(tokenizer.size);
  const n = Math.min(COUNTED, sentences.count);
  for (let i = 0; i < n; i++)
    for (const piece of sentences.ids(Math.floor((i * sentences.count) / n))) counts[piece]++;
  return counts;
}
