import {
  comparisonLines,
  differenceTable,
  metricTable,
  partTable,
  recallTable,
} from '../eval/metric-table.ts';
import type { AnswerEvaluation } from '../pipeline/evaluate-answers.ts';
import type { evalMasked } from '../pipeline/evaluate-masked.ts';
import type { RecallEvaluation, RetrieverEvaluation } from '../pipeline/evaluate-recall.ts';

// Evaluations as a person reads them.

export function answerLines(result: AnswerEvaluation): string[] {
  const { metric, file, questions, protocol, figures, questionWords, seen, against } = result;
  return [
    `${questions} questions of ${file}, protocol ${protocol}`,
    ...metricTable({ figures }),
    ...partTable('by question word', questionWords),
    ...partTable('by answer', seen ?? []),
    ...(against ? comparisonLines(metric === 'f1' ? 'f1' : 'exactMatch', against.file, against) : []),
  ];
}

export function recallLines(result: RecallEvaluation & Partial<RetrieverEvaluation>): string[] {
  const { stage, file, questions, protocol, figures, baselines, differences, hybridWeight } = result;
  return [
    `${stage === undefined ? '' : `retriever: ${stage}; `}${questions} questions of ${file}, protocol ${protocol}`,
    ...metricTable({ [stage ?? 'retrieved']: figures, ...baselines }),
    ...(differences && stage !== undefined
      ? differenceTable(`hybrid, weight ${hybridWeight}`, {
          [`minus ${stage}`]: differences.dense,
          'minus bm25': differences.bm25,
        })
      : []),
  ];
}

/** Recall at each weight of hybrid retrieval, and how to keep the best. @param dir the run folder */
export function fitLines({ fit = [], hybridWeight, file }: RetrieverEvaluation, dir: string): string[] {
  const name = (weight: number) =>
    `${weight.toFixed(2)}${weight === 0 ? ', BM25 alone' : weight === 1 ? ', inner product alone' : ''}`;
  return [
    '',
    ...recallTable(
      'weight',
      fit.map((tried) => ({ ...tried, name: name(tried.weight) })),
      hybridWeight,
    ),
    '',
    `best weight: ${hybridWeight}, fitted on these questions (${file}); on others expect a little less`,
    `keep it: realm build-index --run ${dir} --set hybrid.weight=${hybridWeight}`,
  ];
}

export function maskedLines(result: Awaited<ReturnType<typeof evalMasked>>): string[] {
  const { questions, heldOut, figures } = result;
  return [
    `${questions} sentences${heldOut ? '' : ' that training has seen'}, one span masked`,
    ...metricTable({ figures }),
  ];
}
