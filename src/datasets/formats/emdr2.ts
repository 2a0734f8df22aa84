import { shown, UserError } from '../../system/errors.ts';
import { type JsonLine, stringField } from '../jsonl.ts';
import type { ExternalSentence } from '../types.ts';

/**
 * A line of EMDR2's 20 million sentences with their named entities (DevSinghSachan/emdr2, README.md, "Data for Masked
 * Salient Spans (MSS) training", commit edb8cf6): `{"doc_id", "sent_text", "bert_ent_pos", "linguistic_ent": [[text,
 * type, first, last], …]}`. first and last are numbers of words in `sent_text`, both inclusive; Stanza has separated the
 * words by single spaces. `bert_ent_pos`, the same in word pieces of BERT-large, is not read: the run may have another
 * vocabulary.
 */
export function taggedSentence(line: JsonLine): ExternalSentence {
  const text = stringField(line, 'sent_text');
  const entities = line.value.linguistic_ent;
  if (!Array.isArray(entities)) {
    throw new UserError(`${line.where}: "linguistic_ent" must be a list of [text, type, first, last]`);
  }
  const words = Array.from(text.matchAll(/[^ ]+/g), ({ index, 0: word }) => ({
    start: index,
    end: index + word.length,
  }));
  const spans = entities.map((entity) => {
    const [first, last] = Array.isArray(entity) ? entity.slice(2) : [];
    if (!(Number.isInteger(first) && first <= last && words[first] && words[last])) {
      throw new UserError(
        `${line.where}: entity ${shown(entity)} is not a [text, type, first, last] in the ${words.length} words of "sent_text"; correct it`,
      );
    }
    return { start: words[first].start, end: words[last].end };
  });
  return { text, spans: spans.sort((a, b) => a.start - b.start) };
}
