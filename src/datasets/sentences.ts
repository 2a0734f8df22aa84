import { statSync } from 'node:fs';
import { taggedSentence } from './formats/emdr2.ts';
import { isShard, readRealmSentences } from './formats/realm-records.ts';
import { plainSentence } from './formats/sentences-jsonl.ts';
import { readJsonLines } from './jsonl.ts';
import type { ExternalSentence } from './types.ts';
import { refuseUnreadable } from './unreadable.ts';

/** True for REALM's TFRecords, or a folder of them, by their names. */
export function areRecords(path: string): boolean {
  return isShard(path) || (statSync(path, { throwIfNoEntry: false })?.isDirectory() ?? false);
}

/** Streams X: REALM's TFRecords, recognised by their names, or else JSONL. The keys of a line show its format. */
export async function* readSentences(path: string): AsyncGenerator<ExternalSentence> {
  if (areRecords(path)) {
    yield* readRealmSentences(path);
    return;
  }
  refuseUnreadable(path);
  for await (const line of readJsonLines(path, 'a JSONL file of sentences')) {
    yield line.value.sent_text === undefined ? plainSentence(line) : taggedSentence(line);
  }
}
