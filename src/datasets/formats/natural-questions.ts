import { shown, UserError } from '../../system/errors.ts';
import { type JsonLine, objectsField, questionId, stringField, stringsField } from '../jsonl.ts';
import type { ReadQuestion } from '../types.ts';

/** Whether a line is of Natural Questions itself, and not of one of the sets made from it. */
export const isNaturalQuestion = ({ value }: JsonLine) =>
  value.annotations !== undefined && (value.question_text !== undefined || isObject(value.question));

/**
 * Natural Questions in its three published forms: with "document_tokens" (the original), with "document_text" (simplified),
 * and as rows of the Hugging Face Hub, with the texts of the answers (google-research-datasets/natural-questions, README.md
 * and text_utils.py, simplify_nq_example; datasets, natural_questions). The answers are the short answers of all annotators:
 * their words without HTML, joined by spaces, as NQ-open has them. A question that has only "YES" or "NO" has no answers and
 * `yesNo`; the others without answers have a long answer at most. NQ-open also leaves out answers of more than 5 words;
 * realm keeps them.
 */
export function naturalQuestion(line: JsonLine): ReadQuestion {
  const { value, where } = line;
  const words = wordsOf(line);
  const annotations = annotationsOf(line);
  const answers = annotations.flatMap(({ shortAnswers }) =>
    shortAnswers.map((answer) => {
      if (typeof answer.text === 'string') return answer.text;
      const { start_token: start, end_token: end } = answer;
      const found = words?.slice(start as number, end as number).filter((word) => word !== undefined);
      if (found && found.length > 0) return found.join(' ');
      throw new UserError(
        `${where}: has a short answer ${shown(answer)} that is not in the words of its document; make the file again`,
      );
    }),
  );
  return {
    question: isObject(value.question)
      ? stringField({ value: value.question, where }, 'text')
      : stringField(line, 'question_text'),
    ...questionId(line, value.example_id === undefined ? 'id' : 'example_id'),
    answers: [...new Set(answers)],
    answerKind: 'string',
    ...(answers.length === 0 && annotations.some(({ yesNo }) => yesNo) ? { yesNo: true } : {}),
  };
}

/** The words of the document by the number of their tokens; undefined for a tag of HTML. */
function wordsOf(line: JsonLine): (string | undefined)[] | undefined {
  const { value } = line;
  if (value.document_tokens !== undefined)
    return objectsField(line, 'document_tokens').map((token) =>
      token.value.html_token === true ? undefined : stringField(token, 'token'),
    );
  if (value.document_text !== undefined)
    return stringField(line, 'document_text')
      .split(' ')
      .map((word) => (/^<[^ ]*>$/.test(word) ? undefined : word));
  return undefined;
}

interface Annotation {
  shortAnswers: Record<string, unknown>[];
  yesNo: boolean;
}

/** A row of the Hub has one object of lists, where the other forms have a list of objects. */
function annotationsOf(line: JsonLine): Annotation[] {
  const { annotations } = line.value;
  if (!isObject(annotations)) {
    return objectsField(line, 'annotations').map((annotation) => ({
      shortAnswers: objectsField(annotation, 'short_answers').map(({ value }) => value),
      yesNo: isYesNo(annotation.value.yes_no_answer),
    }));
  }
  const row = { value: annotations, where: line.where };
  const kinds = Array.isArray(annotations.yes_no_answer) ? annotations.yes_no_answer : [];
  return objectsField(row, 'short_answers').map((short, i) => ({
    shortAnswers: stringsField(short, 'text').map((text) => ({ text })),
    yesNo: isYesNo(kinds[i]),
  }));
}

/** The Hub has -1 for none, 0 for no and 1 for yes. */
const isYesNo = (kind: unknown) => kind === 'YES' || kind === 'NO' || kind === 0 || kind === 1;

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}
