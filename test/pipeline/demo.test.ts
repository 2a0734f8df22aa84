import assert from 'node:assert/strict';
import { existsSync } from 'node:fs';
import { test } from 'node:test';
import { openCorpus } from '../../src/corpus/store/reader.ts';
import { demo, secondsLeft } from '../../src/pipeline/demo.ts';
import { runFolder } from '../../src/run/folder.ts';
import { UserError } from '../../src/system/errors.ts';
import { releaseLocks } from '../../src/system/lock.ts';
import { startTestEngine } from '../support/engine.ts';
import { TINY, temporaryFolder } from '../support/tiny.ts';

test('a demo that would take months is refused, and neither its settings nor its world are kept', async () => {
  const { name: engine } = await startTestEngine();
  const dir = temporaryFolder('demo-refused');
  const refused = async (set: string[], message: RegExp) => {
    const all = [...TINY, 'model.initial=null', 'world.documents=40', ...set];
    await assert.rejects(demo({ run: dir, set: all, engine }), (error: Error) => {
      assert.match(error.message, message);
      return error instanceof UserError;
    });
    releaseLocks();
    assert.equal(existsSync(runFolder(dir).config), false);
  };
  await refused(['ict.steps=1000000000'], /^ict-warmup: would take about .* on this machine/);
  // Of another world than the first one.
  await refused(
    ['qa.steps=1000000000', 'world.documents=60'],
    /^finetune-qa: would take about .* on this machine/,
  );
  const corpus = openCorpus(runFolder(dir).corpus);
  assert.equal(corpus.documents, 60);
  corpus.close();
});

test('the remaining time of a demo is estimated from the finished stages', () => {
  assert.equal(secondsLeft([1, 9, 20, 30], [2]), undefined, 'too little is known');
  assert.equal(secondsLeft([1, 9, 20, 30], [2, 18]), 100); // twice as slow as expected
  assert.equal(secondsLeft([1, 9, 20, 30], [1, 9, 20, 30]), 0);
});
