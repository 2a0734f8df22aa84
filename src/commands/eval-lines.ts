import { comparisonLines, metricTable, partTable } from '../eval/metric-table.ts';
import type { AnswerEvaluation } from '../pipeline/evaluate-answers.ts';
import type { evalMasked } from '../pipeline/evaluate-masked.ts';
import type { evalRecall, RecallEvaluation } from '../pipeline/evaluate-recall.ts';

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

export function recallLines(
  result: RecallEvaluation & Partial<Pick<Awaited<ReturnType<typeof evalRecall>>, 'baselines'>>,
): string[] {
  const { stage, file, questions, protocol, figures, baselines } = result;
  return [
    `${stage === undefined ? '' : `retriever: ${stage}; `}${questions} questions of ${file}, protocol ${protocol}`,
    ...metricTable({ [stage ?? 'retrieved']: figures, ...baselines }),
  ];
}

export function maskedLines(result: Awaited<ReturnType<typeof evalMasked>>): string[] {
  const { questions, heldOut, figures } = result;
  return [
    `${questions} sentences${heldOut ? '' : ' that training has seen'}, one span masked`,
    ...metricTable({ figures }),
  ];
}
