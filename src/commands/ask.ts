import { type Command, Option } from 'commander';
import { hasWords, NO_WORDS, needWords } from '../datasets/question-text.ts';
import type { CommonOptions } from '../pipeline/context.ts';
import { UserError } from '../system/errors.ts';
import { GROUPS } from './help.ts';
import { atLeastOne, examples, renamedOption, runOptions } from './options.ts';
import { print } from './print.ts';

interface AskOptions extends CommonOptions {
  documents?: string;
  retrieveOnly?: true;
  /** Passages to print with --retrieve-only. */
  top: number;
}

export function registerAsk(program: Command): void {
  const command = program
    .command('ask')
    .helpGroup(GROUPS.use)
    .description('Answer a question with the fine-tuned model, or one a line of standard input')
    .argument('[question]', 'the question (default: asked for at a prompt, or read from standard input)')
    .option('--documents <file>', 'file or folder of documents to search in addition to the corpus')
    .addOption(
      new Option(
        '--retrieve-only',
        'print the passages that the retriever finds and read no answer; needs an index, not a fine-tuned reader',
      ).conflicts('documents'),
    )
    .option('--top <n>', 'number of passages to print with --retrieve-only', atLeastOne, 5);
  renamedOption(command, '--open-book', '--documents');
  runOptions(command);
  examples(
    command,
    'ask --run runs/mine "who wrote it?"',
    'ask --run runs/mine --documents notes.txt "who signed it?"',
    'ask --run runs/mine --retrieve-only --top 3 "who wrote it?"',
    'ask --run runs/mine --json < questions.txt > answers.jsonl',
  );
  command.action(async (question: string | undefined, options: AskOptions) => {
    // Before an engine is started or a model loaded.
    if (question !== undefined) needWords(question);
    if (options.retrieveOnly) return retrieveOnly(question, options);
    const { openRun } = await import('../pipeline/context.ts');
    const { ask, askLines, answeredLines, painter } = await import('./ask-lines.ts');
    const context = await openRun(options);
    const { stdin: input, stdout: output } = process;
    if (question === undefined) {
      const answered = await askLines(context, { input, output, json: options.json }, options);
      if (answered === 0 && !input.isTTY)
        throw new UserError('-: no question came on standard input; give one a line, or as an argument');
    } else {
      const answered = await ask(context, question, options);
      print(options, answered, answeredLines(answered, painter(output)));
    }
  });
}

async function retrieveOnly(question: string | undefined, options: AskOptions): Promise<void> {
  const { openRun } = await import('../pipeline/context.ts');
  const { passageLines, retrievePassages } = await import('../pipeline/retrieve.ts');
  const { text } = await import('node:stream/consumers');
  const context = await openRun(options);
  const lines = question === undefined ? (await text(process.stdin)).split(/\r?\n/) : [question];
  const questions = lines.flatMap((line, i) => {
    const trimmed = line.trim();
    if (trimmed === '') return [];
    if (!hasWords(trimmed)) throw new UserError(`-: line ${i + 1}: ${NO_WORDS}`);
    return [trimmed];
  });
  if (questions.length === 0)
    throw new UserError('-: no question came on standard input; give one a line, or as an argument');
  // One JSON document a line for several questions, as with answers.
  for (const found of await retrievePassages(context, questions, options.top))
    if (options.json && question === undefined) process.stdout.write(`${JSON.stringify(found)}\n`);
    else print(options, found, passageLines(found));
}
