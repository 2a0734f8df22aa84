import { type Command, Option } from 'commander';
import { PROTOCOLS, type Protocol } from '../answers/metrics.ts';
import type { RankingFormat } from '../eval/rankings.ts';
import type { CommonOptions } from '../pipeline/context.ts';
import type { AnswerMetric } from '../pipeline/evaluate-answers.ts';
import { RETRIEVER_SOURCES, type RetrieverSource } from '../run/stages.ts';
import { UserError } from '../system/errors.ts';
import { GROUPS } from './help.ts';
import { examples, runOptions, stageOption } from './options.ts';
import { print } from './print.ts';

interface QuestionOptions extends CommonOptions {
  questions?: string;
  protocol?: Protocol;
  to?: string;
  format: RankingFormat;
}

interface AnswerOptions extends QuestionOptions {
  metric: AnswerMetric;
  against?: string;
  predictions?: string;
}

interface RecallOptions extends QuestionOptions {
  stage?: RetrieverSource;
  retrieved?: string;
  qrels?: string;
  against?: string;
  perQuery?: string;
  fitHybrid?: true;
}

export function registerEval(program: Command): void {
  const evaluation = program
    .command('eval')
    .helpGroup(GROUPS.measure)
    .description('Measure a run, or predictions of another system')
    .helpCommand(false);
  examples(evaluation, 'eval exact-match --run runs/mine', 'eval recall --run runs/mine --stage pretrain');
  registerAnswers(evaluation);
  registerRecall(evaluation);
  registerMasked(
    evaluation,
    'perplexity',
    'Measure the perplexity of masked salient spans, with retrieval, by the pretrained model',
  );
  registerMasked(
    evaluation,
    'utility',
    'Measure the retrieval utility of the pretrained model, in nats per masked word piece',
  );
}

function registerAnswers(evaluation: Command): void {
  const command = evaluation
    .command('exact-match')
    .description('Measure exact match, F1 and recall of the fine-tuned model; writes predictions.jsonl');
  questionOptions(command)
    .option('--against <run or file>', 'run or file of predictions to compare with')
    .addOption(
      new Option('--metric <name>', 'metric to compare by')
        .choices(['exact-match', 'f1'])
        .default('exact-match'),
    )
    .addOption(
      new Option('--predictions <file>', 'score this file of predictions, without a model').conflicts('to'),
    );
  runOptions(command);
  examples(
    command,
    'eval exact-match --run runs/mine',
    'eval exact-match --run runs/mine --against runs/other --metric f1',
    'eval exact-match --predictions theirs.jsonl --questions questions.jsonl',
  );
  command.action(async (options: AnswerOptions) => {
    const { evalExactMatch, scorePredictions } = await import('../pipeline/evaluate-answers.ts');
    const { answerLines } = await import('./eval-lines.ts');
    const { openRun } = await import('../pipeline/context.ts');
    const { metric, predictions } = options;
    const result =
      predictions === undefined
        ? await evalExactMatch(await openRun(options, 'eval exact-match'), options, metric)
        : await scorePredictions(predictions, options, metric);
    print(options, result, answerLines(result));
  });
  evaluation
    .command('f1', { hidden: true })
    .allowUnknownOption()
    .allowExcessArguments()
    .action(() => {
      throw new UserError('eval f1: is now "realm eval exact-match --metric f1"');
    });
}

function registerRecall(evaluation: Command): void {
  const command = evaluation
    .command('recall')
    .description(
      "Measure the recall of a stage's retriever, of BM25, of both together, and of the warm-up's retriever",
    );
  stageOption(
    command,
    'stage whose retriever to use; initial: the encoder as it was published (default: the last of initial, ict-warmup and pretrain that the run has)',
    RETRIEVER_SOURCES,
  );
  questionOptions(command)
    .option('--qrels <file>', 'judgements of documents, to measure nDCG, MAP and more as trec_eval does')
    .addOption(
      new Option(
        '--retrieved <file>',
        "score what this file says was retrieved: DPR's .json, or a TREC run",
      ).conflicts('to'),
    )
    .option('--against <file>', 'another TREC run to compare with, by the judgements')
    .option('--per-query <file>', 'file to write the measures of each query to, by the judgements')
    .addOption(
      new Option(
        '--fit-hybrid',
        'find the best hybrid.weight, on data.dev unless --questions names others',
      ).conflicts(['retrieved', 'to', 'qrels']),
    );
  runOptions(command);
  examples(
    command,
    'eval recall --run runs/mine',
    'eval recall --run runs/mine --stage finetune-qa',
    'eval recall --run runs/mine --fit-hybrid',
    'eval recall --run runs/mine --retrieved bm25.trec --questions questions.jsonl',
    'eval recall --run runs/mine --qrels qrels/test.tsv --questions queries.jsonl',
    'eval recall --retrieved theirs.trec --qrels qrels/test.tsv --against bm25.trec',
  );
  command.action(async (options: RecallOptions) => {
    needJudgements(options);
    if (options.qrels !== undefined) return judge(options, options.qrels);
    const { evalRecall, scoreRetrieved } = await import('../pipeline/evaluate-recall.ts');
    const { fitLines, recallLines } = await import('./eval-lines.ts');
    const { openRun } = await import('../pipeline/context.ts');
    const { retrieved, stage, run, fitHybrid } = options;
    if (retrieved !== undefined) {
      const result = await scoreRetrieved(retrieved, run, options);
      return print(options, result, recallLines(result));
    }
    const result = await evalRecall(await openRun(options, 'eval recall'), stage, options);
    print(options, result, [...recallLines(result), ...(fitHybrid ? fitLines(result, run) : [])]);
  });
}

/** Measures by judgements, and by answers where the questions have some. */
async function judge(options: RecallOptions, qrels: string): Promise<void> {
  const { retrieved, stage, run, questions } = options;
  const { judgedLines } = await import('./judged-lines.ts');
  const { recallLines } = await import('./eval-lines.ts');
  if (retrieved !== undefined) {
    const { scoreRunFile } = await import('../pipeline/evaluate-judged.ts');
    const judged = await scoreRunFile(retrieved, qrels, options);
    if (questions === undefined) return print(options, { judged }, judgedLines(judged));
    const { scoreRetrieved } = await import('../pipeline/evaluate-recall.ts');
    const answers = await scoreRetrieved(retrieved, run, options);
    return print(options, { ...answers, judged }, [...recallLines(answers), '', ...judgedLines(judged)]);
  }
  const { hasAnswers, judgeRetrievers } = await import('../pipeline/judge-retrievers.ts');
  const { evalRecall } = await import('../pipeline/evaluate-recall.ts');
  const { openRun } = await import('../pipeline/context.ts');
  const context = await openRun(options, 'eval recall');
  const judged = await judgeRetrievers(context, stage, { ...options, qrels });
  const title = `retriever: ${judged.stage}; hybrid with weight ${judged.hybridWeight}; questions of ${judged.file}`;
  const lines = [title, ...judgedLines(judged)];
  if (!(await hasAnswers(context, { ...options, qrels }))) return print(options, { judged }, lines);
  const answers = await evalRecall(context, stage, { ...options, to: undefined });
  print(options, { ...answers, judged }, [...recallLines(answers), '', ...lines]);
}

/** Refuses options that say nothing without judgements. */
function needJudgements({ qrels, against, perQuery }: RecallOptions): void {
  if (qrels !== undefined) return;
  const [option] = Object.entries({ '--against': against, '--per-query': perQuery }).find(
    ([, file]) => file !== undefined,
  ) ?? [undefined];
  if (option !== undefined)
    throw new UserError(`${option}: compares and writes measures by judgements; name them with --qrels FILE`);
}

function registerMasked(evaluation: Command, metric: 'perplexity' | 'utility', description: string): void {
  const command = evaluation
    .command(metric)
    .description(description)
    .option(
      '--sentences <file>',
      'sentences, in a format of data.sentences (default: those that pretraining has not reached)',
    );
  runOptions(command);
  examples(
    command,
    `eval ${metric} --run runs/mine`,
    `eval ${metric} --run runs/mine --sentences held-out.jsonl`,
  );
  command.action(async (options: CommonOptions & { sentences?: string }) => {
    const { openRun } = await import('../pipeline/context.ts');
    const { evalMasked } = await import('../pipeline/evaluate-masked.ts');
    const { maskedLines } = await import('./eval-lines.ts');
    const result = await evalMasked(await openRun(options, `eval ${metric}`), metric, options.sentences);
    print(options, result, maskedLines(result));
  });
}

/** What is measured on, and by which rules; what was retrieved can be written to a file. */
function questionOptions(command: Command): Command {
  return command
    .option('--questions <file>', 'file of questions (default: data.test, else data.dev)')
    .addOption(
      new Option('--protocol <name>', 'scoring protocol (default: orqa for answers, dpr for blocks)').choices(
        PROTOCOLS,
      ),
    )
    .option('--to <file>', 'file to write the retrieved blocks to')
    .addOption(
      new Option('--format <name>', 'format of that file').choices(['dpr', 'trec', 'kilt']).default('dpr'),
    );
}
