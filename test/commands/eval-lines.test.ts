import assert from 'node:assert/strict';
import { test } from 'node:test';
import { recallLines } from '../../src/commands/eval-lines.ts';

const measured = {
  file: 'dev.jsonl',
  questions: 18,
  protocol: 'dpr',
  recall: { 1: 0.5 },
  figures: { 'recall@1': 0.5 },
} as const;

test('the first line of recall names the stage of the retriever; what another system retrieved has none', () => {
  assert.deepEqual(recallLines({ ...measured, stage: 'pretrain', baselines: { bm25: { 'recall@1': 1 } } }), [
    'retriever: pretrain; 18 questions of dev.jsonl, protocol dpr',
    '           pretrain   bm25',
    'recall@1   50.0 %     100.0 %',
  ]);
  assert.deepEqual(recallLines(measured), ['18 questions of dev.jsonl, protocol dpr', 'recall@1   50.0 %']);
});
