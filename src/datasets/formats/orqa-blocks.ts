import { isUtf8 } from 'node:buffer';
import { basename, dirname, join } from 'node:path';
import { UserError } from '../../system/errors.ts';
import type { Document } from '../types.ts';
import { readTfRecords, type TfRecord } from './tfrecord.ts';

/**
 * ORQA's blocks: `blocks.tfr` has one text per record, and `titles.tfr` in the same folder the title of the same number
 * (google-research/language, language/orqa/preprocessing/preprocess_wiki_extractor.py, commit 865fae6). The id is the
 * number. `examples.tfr`, the same as word-piece ids, is not read: prepare makes them with the run's own vocabulary.
 * @param path of blocks.tfr or of its folder
 */
export async function* readOrqaBlocks(path: string): AsyncGenerator<Document> {
  const dir = /^blocks\.tfr/.test(basename(path)) ? dirname(path) : path;
  const blocks = dir === path ? join(path, 'blocks.tfr') : path;
  const titles = join(dir, basename(blocks).replace('blocks', 'titles'));
  const nextTitle = readTfRecords(titles);
  let number = 0;
  try {
    for await (const block of readTfRecords(blocks)) {
      const { value: title, done } = await nextTitle.next();
      if (done) throw unequal(titles, blocks, number);
      yield { id: String(number), title: text(title), text: text(block) };
      number++;
    }
    if (!(await nextTitle.next()).done) throw unequal(blocks, titles, number);
  } finally {
    await nextTitle.return(undefined);
  }
}

function text({ bytes, where }: TfRecord): string {
  if (isUtf8(bytes)) return bytes.toString('utf8');
  throw new UserError(`${where}: is not UTF-8 text; check that the path is right`);
}

function unequal(short: string, long: string, records: number): UserError {
  return new UserError(
    `${short}: holds ${records} records, fewer than ${basename(long)}; give two files of the same corpus`,
  );
}
