import { isUtf8 } from 'node:buffer';
import { readdirSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { UserError } from '../../system/errors.ts';
import type { Document, ExternalSentence } from '../types.ts';
import { readTfExample } from './tf-example.ts';
import { readTfRecords } from './tfrecord.ts';

// REALM's TFRecords of tf.train.Example, in shards `prefix-00012-of-00050` compressed with gzip
// (google-research/language, commit 865fae6).

const SHARD = /-\d{5}-of-\d{5}$|\.tfr(ecords?)?(\.gz|\.zst)?$/;

/** True for the name of a shard. */
export const isShard = (name: string) => SHARD.test(name);

const DOCUMENT = new Set(['title', 'body']);

/**
 * Z: features `title` and `body` (language/realm/generate_retrieval_corpus.py); the id is the number of the record, counted
 * over all shards. The word pieces in the records are not read: prepare makes them with the run's vocabulary.
 * @param path of a shard or of the folder of all shards
 */
export async function* readRealmDocuments(path: string): AsyncGenerator<Document> {
  let number = 0;
  for (const shard of shardsOf(path)) {
    for await (const record of readTfRecords(shard)) {
      const example = readTfExample(record, DOCUMENT);
      yield { id: String(number), title: example.text('title'), text: example.text('body') };
      number++;
    }
  }
}

const PASSAGE = new Set([
  'title',
  'text',
  'sentence_byte_start',
  'sentence_byte_limit',
  'span_byte_start',
  'span_byte_limit',
]);

/**
 * X: features `text`, `sentence_byte_start`, `sentence_byte_limit`, `span_byte_start`, `span_byte_limit`, in bytes, the
 * limits exclusive (language/realm/example_generator.py, text_features_to_query). As there, a span outside all sentences is
 * left out, and so is a sentence without a span.
 */
export async function* readRealmSentences(path: string): AsyncGenerator<ExternalSentence> {
  for (const shard of shardsOf(path)) {
    for await (const record of readTfRecords(shard)) {
      const example = readTfExample(record, PASSAGE);
      const text = example.bytes('text');
      const ranges = (name: string) => {
        const limits = example.integers(`${name}_limit`);
        return example.integers(`${name}_start`).map((start, i) => ({ start, end: limits[i] }));
      };
      const spans = ranges('span_byte');
      for (const sentence of ranges('sentence_byte')) {
        const within = spans.filter((s) => s.start >= sentence.start && s.end <= sentence.end);
        if (within.length === 0) continue;
        // The length in characters of the bytes before a position is the position in characters.
        const characters = (from: number, to: number) => {
          const part = text.subarray(from, to);
          if (from <= to && to <= text.length && isUtf8(part)) return part.toString('utf8');
          throw new UserError(
            `${record.where}: bytes ${from} to ${to} of its text are not whole characters; make the file again`,
          );
        };
        const position = (at: number) => characters(sentence.start, at).length;
        yield {
          text: characters(sentence.start, sentence.end),
          spans: within
            .map(({ start, end }) => ({ start: position(start), end: position(end) }))
            .sort((a, b) => a.start - b.start),
        };
      }
    }
  }
}

function shardsOf(path: string): string[] {
  if (!statSync(path, { throwIfNoEntry: false })?.isDirectory()) return [path];
  return readdirSync(path)
    .filter(isShard)
    .sort()
    .map((name) => join(path, name));
}
