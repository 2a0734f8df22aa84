import type { Range } from '../datasets/types.ts';
import type { WordPiece } from '../tokenizer/wordpiece.ts';
import type { EncodedBatch } from './encoded-batch.ts';
import { openTagger, type Tagger, withDates } from './spans/named-entities.ts';
import { type Batch, type SplitSettings, splitBatch } from './split.ts';

/** Splits batches. The NER model in the folder `ner` finds the salient spans, or the built-in rules do if it is undefined. */
export async function openSplitter(
  vocab: WordPiece,
  settings: SplitSettings,
  ner: string | undefined,
): Promise<(batch: Batch) => EncodedBatch | Promise<EncodedBatch>> {
  if (ner === undefined) return (batch) => splitBatch(batch, vocab, settings);
  const tagger = await openTagger(ner);
  return (batch) => splitTagged(batch, vocab, settings, tagger);
}

/**
 * `splitBatch` with the spans that a tagger finds. Splits twice, the first time only to collect the sentences: a tagger
 * labels hundreds of sentences at once and takes a thousand times as long as splitting, so a second split costs little.
 */
async function splitTagged(
  batch: Batch,
  vocab: WordPiece,
  settings: SplitSettings,
  tagger: Tagger,
): Promise<EncodedBatch> {
  const found = new Set<string>();
  splitBatch(batch, vocab, settings, (sentence) => {
    found.add(sentence);
    return [];
  });
  const sentences = [...found];
  const entities = await tagger.entities(sentences);
  const spans = new Map<string, Range[]>(
    sentences.map((sentence, s) => [sentence, withDates(sentence, entities[s])]),
  );
  return splitBatch(batch, vocab, settings, (sentence) => spans.get(sentence)!);
}
