import assert from 'node:assert/strict';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { gzipSync } from 'node:zlib';
import { readDocuments } from '../../src/datasets/documents.ts';
import { readQuestionFile } from '../../src/datasets/questions.ts';
import { readSentences } from '../../src/datasets/sentences.ts';
import { random } from '../../src/random.ts';
import { UserError } from '../../src/system/errors.ts';
import { temporaryFolder } from '../support/tiny.ts';

// Files with one or a few damaged bytes: they are read, or refused with one sentence that names them. Never another error.

const folder = temporaryFolder('damaged');
const CASES = Number(process.env.REALM_DAMAGE_CASES ?? 150);

async function drain(list: AsyncIterable<unknown>): Promise<void> {
  for await (const _ of list);
}

const RETRIEVAL = Buffer.from(
  'gAAAAAAAAAAqW2DsCn4KEgoFdGl0bGUSCQoHCgVBYXJvbgoZCg90aXRsZV90b2tlbl9pZHMSBhoECgL2NwocCg5ib2R5X3Rva2VuX2lkcxIKGggK' +
    'BvY37gfuDwovCgRib2R5EicKJQojQWFyb24gKG9yICJBaMOkcsO0biIpIGlzIGEgcHJvcGhldC5rh+OY',
  'base64',
);
const ZSTD = Buffer.from(
  'KLUv/QRY1QEA5AJ7ImlkIjogImEiLCAidGl0bGUiOiAiQWV4dCI6ICJPbmUuIn0Ke0JUd28uIn0KAwCAC0JtHe0UAzK/TrI=',
  'base64',
);
const documents = (path: string) => drain(readDocuments(path));
const questions = async (path: string) => void (await readQuestionFile(path, 'string'));

const FILES: [name: string, content: string | Buffer, read: (path: string) => Promise<void>][] = [
  ['p.tsv', 'id\ttext\ttitle\n1\t"Aaron ( or ; ""Ahärôn"") is"\tAaron\n2\t"x"\t"""Weird"" Al"\n', documents],
  ['p.tsv.gz', gzipSync('id\ttext\ttitle\n1\t"Aaron ( or ; ""Ahärôn"") is"\tAaron\n'), documents],
  ['d.jsonl.zst', ZSTD, documents],
  ['r.tfr', RETRIEVAL, documents],
  ['r-00000-of-00001', gzipSync(RETRIEVAL), documents],
  ['s.tfr', RETRIEVAL, (path) => drain(readSentences(path))],
  [
    's.json',
    '{"version": "1.1", "data": [{"title": "A_b", "paragraphs": [{"context": "c\\u00e9", "qas": [{"question": "q?", "answers": [{"text": "c", "answer_start": 0}]}]}]}]}',
    async (path) => {
      await documents(path);
      await questions(path);
    },
  ],
  [
    't.json',
    '{"Data": [{"Answer": {"Aliases": ["Y"], "Value": "York"}, "Question": "Where?"}], "Version": 1}',
    questions,
  ],
  [
    'w.json',
    '[{"url": "x", "targetValue": "(list (description \\"A B\\") (description C))", "utterance": "who?"}]',
    questions,
  ],
  ['q.csv', 'who?\t[\'a\', "b\\xe9", "it\'s"]\nwhen?\t"[""x"", \'y\']"\n', questions],
  ['k.jsonl', '{"id": "1", "input": "who", "output": [{"answer": "A", "provenance": []}]}\n', questions],
  [
    'e.jsonl',
    '{"doc_id": 2, "sent_text": "It is 1997 .", "bert_ent_pos": [[3, 3]], "linguistic_ent": [["1997", "DATE", 2, 2]]}\n',
    (path) => drain(readSentences(path)),
  ],
];

for (const [name, content, read] of FILES) {
  test(`${name} damaged in ${CASES} ways`, async () => {
    const path = join(folder, name);
    const rng = random(7);
    for (let i = 0; i < CASES; i++) {
      let bytes = Buffer.from(content);
      for (let edits = 1 + rng.int(3); edits > 0; edits--) {
        const at = rng.int(bytes.length);
        const way = rng.int(5);
        if (way === 0) bytes[at] ^= 1 << rng.int(8);
        else if (way === 1)
          bytes[at] = rng.pick(['"', '\t', '\n', '[', '}', '\\', "'", '\0', 'é'])!.charCodeAt(0);
        else if (way === 2) bytes = bytes.subarray(0, at + 1);
        else if (way === 3)
          bytes = Buffer.concat([bytes.subarray(0, at), bytes.subarray(at + 1 + rng.int(8))]);
        else bytes = Buffer.concat([bytes.subarray(0, at), bytes.subarray(rng.int(bytes.length))]);
        if (bytes.length === 0) bytes = Buffer.from(' ');
      }
      writeFileSync(path, bytes);
      try {
        await read(path);
      } catch (error) {
        const explained =
          error instanceof UserError && error.message.includes(name) && !error.message.includes('\n');
        assert.ok(
          explained,
          `case ${i}: ${JSON.stringify(bytes.toString('latin1'))}: ${(error as Error).stack}`,
        );
      }
    }
  });
}
