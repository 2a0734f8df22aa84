import type { Range } from '../datasets/types.ts';
import type { WordPiece } from '../tokenizer/wordpiece.ts';
import { openTagger, type Tagger, withDates } from './spans/named-entities.ts';
import { type Batch, type SplitBatch, type SplitSettings, splitBatch } from './split.ts';

/** Cuts batches, the salient spans found by the model in the folder `ner`, or by the default's rules without one. */
export async function openSplitter(
  vocab: WordPiece,
  settings: SplitSettings,
  ner: string | undefined,
): Promise<(batch: Batch) => SplitBatch | Promise<SplitBatch>> {
  if (ner === undefined) return (batch) => splitBatch(batch, vocab, settings);
  const tagger = await openTagger(ner);
  return (batch) => cutTagged(batch, vocab, settings, tagger);
}

/**
 * `cutBatch` with the spans that a tagger finds. Cuts twice, first to hear which sentences are asked about: a tagger labels
 * sentences by the hundred and takes a thousand times as long as cutting, which so need not wait for anything.
 */
async function cutTagged(
  batch: Batch,
  vocab: WordPiece,
  settings: SplitSettings,
  tagger: Tagger,
): Promise<SplitBatch> {
  const asked = new Set<string>();
  splitBatch(batch, vocab, settings, (sentence) => {
    asked.add(sentence);
    return [];
  });
  const sentences = [...asked];
  const entities = await tagger.entities(sentences);
  const spans = new Map<string, Range[]>(
    sentences.map((sentence, s) => [sentence, withDates(sentence, entities[s])]),
  );
  return splitBatch(batch, vocab, settings, (sentence) => spans.get(sentence)!);
}
