import { createInterface } from 'node:readline';
import { readExtraDocuments } from '../eval/extra-documents.ts';
import type { Context } from '../pipeline/context.ts';
import {
  type AnsweredQuestion,
  type AskAnswer,
  openQaSession,
  type QaSession,
} from '../pipeline/qa-session.ts';
import { UserError } from '../system/errors.ts';
import { say } from '../system/progress.ts';

export interface AskOptions {
  /** File or folder of documents to search in addition to the corpus. */
  documents?: string;
}

/** Answers one question. */
export async function ask(
  context: Context,
  question: string,
  options: AskOptions = {},
): Promise<AnsweredQuestion> {
  return withRun(context, options, async (answer) => (await answer([question]))[0]);
}

/** Where questions come from, a line each, and where answers go. */
export interface Conversation {
  input: NodeJS.ReadableStream & { isTTY?: boolean };
  output: NodeJS.WritableStream & { isTTY?: boolean };
  /** One JSON document a line instead of text. */
  json: boolean;
}

/**
 * Answers the lines of `input` in their order, with the run loaded once. On a terminal it prompts until Ctrl-D, and prints
 * an invalid question's error before the next prompt. Otherwise lines that arrive together are answered as one batch.
 * @returns how many questions were answered
 */
export async function askLines(
  context: Context,
  { input, output, json }: Conversation,
  options: AskOptions = {},
): Promise<number> {
  if (options.documents === '-') {
    throw new UserError('--documents -: standard input holds the questions; save the documents to a file');
  }
  const paint = painter(output);
  const write = (all: readonly AnsweredQuestion[]) => {
    const texts = all.map((asked) =>
      json ? `${JSON.stringify(asked)}\n` : `${answeredLines(asked, paint).join('\n')}\n\n`,
    );
    output.write(texts.join(''));
  };
  return withRun(context, options, (answer) =>
    input.isTTY
      ? // What is typed and asked for is no answer, so not in a file of them.
        atPrompt(answer, write, input, output.isTTY && !json ? output : process.stderr)
      : asTheyCome(answer, write, input),
  );
}

type Answer = (questions: readonly string[]) => Promise<AnsweredQuestion[]>;

async function withRun<T>(
  context: Context,
  { documents }: AskOptions,
  work: (answer: Answer) => Promise<T>,
): Promise<T> {
  const extra = documents === undefined ? undefined : await readExtraDocuments(documents);
  const session: QaSession = await openQaSession(context);
  try {
    return await work((questions) => session.ask(questions, { documents: extra }));
  } finally {
    await session.close();
  }
}

async function atPrompt(
  answer: Answer,
  write: (asked: readonly AnsweredQuestion[]) => void,
  input: Conversation['input'],
  output: Conversation['output'],
): Promise<number> {
  const prompt = createInterface({
    input,
    output,
    prompt: '? ',
    historySize: 1000,
    removeHistoryDuplicates: true,
  });
  let answered = 0;
  let ended = false;
  prompt.on('close', () => {
    ended = true;
  });
  prompt.prompt();
  for await (const line of prompt) {
    if (line.trim() !== '') {
      try {
        write(await answer([line.trim()]));
        answered++;
      } catch (error) {
        if (!(error instanceof UserError)) throw error;
        say(`realm: ${error.message}`);
      }
    }
    if (!ended) prompt.prompt();
  }
  output.write('\n');
  return answered;
}

/** Lines held while others are answered; beyond them whoever writes has to wait. */
const HELD = 256;

async function asTheyCome(
  answer: Answer,
  write: (asked: readonly AnsweredQuestion[]) => void,
  input: Conversation['input'],
): Promise<number> {
  const lines = createInterface({ input, crlfDelay: Number.POSITIVE_INFINITY });
  const held: { question: string; number: number }[] = [];
  let ended = false;
  let wake = () => {};
  let number = 0;
  lines.on('line', (line) => {
    number++;
    if (line.trim() !== '') held.push({ question: line.trim(), number });
    if (held.length >= HELD && !ended) lines.pause();
    wake();
  });
  lines.on('close', () => {
    ended = true;
    wake();
  });
  let answered = 0;
  try {
    while (!ended || held.length > 0) {
      if (held.length > 0) {
        const some = held.splice(0);
        if (!ended) lines.resume();
        try {
          write(await answer(some.map(({ question }) => question)));
        } catch (error) {
          if (!(error instanceof UserError)) throw error;
          await oneByOne(answer, write, some);
        }
        answered += some.length;
      } else {
        await new Promise<void>((resolve) => {
          wake = resolve;
        });
      }
    }
  } finally {
    lines.close();
  }
  return answered;
}

/** Answers those before the question that cannot be answered, and tells its line. */
async function oneByOne(
  answer: Answer,
  write: (asked: readonly AnsweredQuestion[]) => void,
  lines: readonly { question: string; number: number }[],
): Promise<void> {
  for (const { question, number } of lines) {
    try {
      write(await answer([question]));
    } catch (error) {
      throw error instanceof UserError ? new UserError(`-: line ${number}: ${error.message}`) : error;
    }
  }
}

/** Makes an answer stand out in its passage. */
export type Paint = (text: string) => string;

/** Bold and underlined on a terminal with colours (none where NO_COLOR is set), else in brackets. */
export function painter(stream: NodeJS.WritableStream & { isTTY?: boolean; hasColors?(): boolean }): Paint {
  return stream.isTTY && stream.hasColors?.()
    ? (text) => `\u001b[1;4m${text}\u001b[0m`
    : (text) => `[${text}]`;
}

/** The best answer with its passage, then the runners-up. */
export function answeredLines(
  { answers, nullProbability, retrievalUtility, truncated }: AnsweredQuestion,
  paint: Paint,
): string[] {
  if (answers.length === 0) return ['no block was retrieved, so there is nothing to read an answer from'];
  const [best, ...others] = answers;
  const percent = (p: number) => `${(100 * p).toFixed(1)} %`;
  const shares = ({ retrieval, reading, probability }: AskAnswer) => [
    `p(z|x) ${percent(retrieval)}`,
    `p(y|z,x) ${percent(reading)}`,
    `in all ${percent(probability)}`,
  ];
  const source = ({ title, document, extraDocument }: AskAnswer) =>
    `${title || document}${extraDocument ? ' (extra document)' : ''}`;
  const retrieval = [
    ...(nullProbability === undefined ? [] : [`null document ${percent(nullProbability)}`]),
    ...(retrievalUtility === undefined ? [] : [`retrieval utility ${retrievalUtility.toFixed(2)} nats`]),
  ];
  return [
    best.answer,
    '',
    `  ${source(best)}: ${best.before}${paint(best.answer)}${best.after}`,
    `  ${shares(best).join('   ')}`,
    ...(retrieval.length > 0 ? [`  ${retrieval.join('   ')}`] : []),
    ...(truncated ? ['  the question is longer than text.questionTokens: its end was not read'] : []),
    ...(others.length > 0 ? ['', 'also read:'] : []),
    ...others.map((other) => `  ${other.answer} (${source(other)}; ${shares(other).join(', ')})`),
  ];
}
