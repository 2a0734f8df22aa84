import type { WordPiece } from '../tokenizer/wordpiece.ts';
import { type Batch, type Cut, type CutSettings, cutBatch } from './cut.ts';
import { type Tagger, withDates } from './named-entities.ts';
import type { Range } from './sentences.ts';

/**
 * `cutBatch` with the spans that a tagger finds. Cuts twice, first to hear which sentences are asked about: a tagger labels
 * sentences by the hundred and takes a thousand times as long as cutting, which so need not wait for anything.
 */
export async function cutTagged(
  batch: Batch,
  vocab: WordPiece,
  settings: CutSettings,
  tagger: Tagger,
): Promise<Cut> {
  const asked = new Set<string>();
  cutBatch(batch, vocab, settings, (sentence) => {
    asked.add(sentence);
    return [];
  });
  const sentences = [...asked];
  const entities = await tagger.entities(sentences);
  const spans = new Map<string, Range[]>(
    sentences.map((sentence, s) => [sentence, withDates(sentence, entities[s])]),
  );
  return cutBatch(batch, vocab, settings, (sentence) => spans.get(sentence)!);
}
