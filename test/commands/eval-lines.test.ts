import assert from 'node:assert/strict';
import { test } from 'node:test';
import { fitLines, recallLines } from '../../src/commands/eval-lines.ts';

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

test('hybrid retrieval: its differences from both, and a fit with the command that keeps the best weight', () => {
  const difference = { value: 0.05, low: -0.01, high: 0.11 };
  const compared = { 1: { questions: 18, difference, better: 3, worse: 2 } };
  const result = {
    ...measured,
    stage: 'pretrain',
    bm25: { 1: 0.4 },
    hybrid: { 1: 0.55 },
    hybridWeight: 0.6,
    baselines: { hybrid: { 'recall@1': 0.55 }, bm25: { 'recall@1': 0.4 } },
    differences: { dense: compared, bm25: compared },
  };
  assert.deepEqual(recallLines(result).slice(1), [
    '           pretrain   hybrid   bm25',
    'recall@1   50.0 %     55.0 %   40.0 %',
    '',
    'hybrid, weight 0.6   minus pretrain                 minus bm25',
    '  recall@1           +5.0 points  (−1.0 to +11.0)   +5.0 points  (−1.0 to +11.0)',
  ]);
  const fit = [0, 0.6, 1].map((weight) => ({ weight, recall: { 1: 0.5 }, mrr: 0.625 }));
  assert.deepEqual(fitLines({ ...result, fit }, 'runs/a'), [
    '',
    'weight                      recall@1   MRR',
    '0.00, BM25 alone            50.0 %     0.625',
    '0.60                        50.0 %     0.625  best',
    '1.00, inner product alone   50.0 %     0.625',
    '',
    'best weight: 0.6, fitted on these questions (dev.jsonl); on others expect a little less',
    'keep it: realm build-index --run runs/a --set hybrid.weight=0.6',
  ]);
});
