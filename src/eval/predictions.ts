import { unpackedName } from '../datasets/bytes.ts';
import { readJsonElements } from '../datasets/json-elements.ts';
import {
  answerKindOf,
  type JsonLine,
  objectsField,
  questionId,
  readJsonLines,
  stringField,
  stringsField,
} from '../datasets/jsonl.ts';
import type { Accepted, Question } from '../datasets/types.ts';
import { shown, UserError } from '../system/errors.ts';
import { readJson } from '../system/files.ts';

// Predictions of any system, in published formats.

/** What identifies the question of a prediction: its text, its id, or its position in the file. */
type Key = 'question' | 'id' | 'order';

interface Predicted {
  /** The question's text or id; undefined if the order counts. */
  key: string;
  prediction: string;
  /** Present if the file also holds the right answers. */
  question?: Question;
}

/** Predictions of a file. */
export interface PredictionFile {
  path: string;
  by: Key;
  all: Predicted[];
}

/**
 * Reads a file of predictions. One object a line: ours and ORQA's `{"question", "prediction"}`, KILT's
 * `{"id", "output": [{"answer"}]}` (facebookresearch/KILT, README.md, commit 002935a), or DrQA's list of spans, best first
 * (facebookresearch/DrQA, scripts/pipeline/predict.py, commit 211f110). A `.json`: SQuAD's `{id: answer}`, or DPR's list of
 * `{"question", "gold_answers", "predictions": [{"top_k", "prediction": {"text"}}]}` (facebookresearch/DPR,
 * train_extractive_reader.py, commit 0473319), of which the prediction with the most passages is used.
 */
export async function readPredictions(path: string): Promise<PredictionFile> {
  const file = unpackedName(path).endsWith('.json') ? await readList(path) : await readLines(path);
  if (file.all.length > 0) return file;
  throw new UserError(`${path}: holds no predictions; give a file of predictions`);
}

async function readLines(path: string): Promise<PredictionFile> {
  const all: Predicted[] = [];
  let by: Key | undefined;
  for await (const line of readJsonLines(path, 'a JSONL file of predictions', true)) {
    const [key, predicted] = lineOf(line);
    by ??= key;
    if (key !== by)
      throw new UserError(`${line.where}: has another format than the lines before it; fix the file`);
    all.push(predicted);
  }
  return { path, by: by ?? 'question', all };
}

function lineOf(line: JsonLine): [Key, Predicted] {
  const { value, where } = line;
  if (Array.isArray(value)) {
    const [best] = objectsField({ value: { spans: value }, where }, 'spans');
    return ['order', { key: '', prediction: best ? stringField(best, 'span') : '' }];
  }
  if (value.prediction !== undefined) {
    const key = stringField(line, 'question');
    return ['question', { key, prediction: stringField(line, 'prediction'), ...ownAnswers(line) }];
  }
  if (value.output !== undefined) {
    const { id } = questionId(line);
    if (id === undefined) throw new UserError(`${where}: has no "id"; KILT's predictions need it`);
    const [output] = objectsField(line, 'output');
    return ['id', { key: id, prediction: output ? stringField(output, 'answer') : '' }];
  }
  throw new UserError(
    `${where}: is not a prediction: neither {"question", "prediction"}, nor KILT's {"id", "output"}, nor DrQA's list of spans; give a file of predictions`,
  );
}

/** The question and answers of a line in our own format, if it has them. */
function ownAnswers(line: JsonLine): { question?: Question } {
  if (line.value.answers === undefined) return {};
  return {
    question: {
      question: stringField(line, 'question'),
      ...questionId(line),
      answers: stringsField(line, 'answers'),
      answerKind: answerKindOf({ ...line, value: { answer_kind: line.value.answerKind } }) ?? 'string',
    },
  };
}

async function readList(path: string): Promise<PredictionFile> {
  const all: Predicted[] = [];
  for await (const line of readJsonElements(path, 'a JSON file of predictions')) {
    if (line.value.predictions === undefined) {
      throw new UserError(
        `${line.where}: is not a prediction of DPR's reader, {"question", "gold_answers", "predictions"}; if every line is an object, rename the file to .jsonl`,
      );
    }
    const question = stringField(line, 'question');
    const best = objectsField(line, 'predictions').reduce<JsonLine | undefined>(
      (most, entry) => (most && Number(most.value.top_k) >= Number(entry.value.top_k) ? most : entry),
      undefined,
    );
    const [prediction] = best ? objectsField({ ...best, value: { of: [best.value.prediction] } }, 'of') : [];
    all.push({
      key: question,
      prediction: prediction ? stringField(prediction, 'text') : '',
      ...(line.value.gold_answers === undefined
        ? {}
        : {
            question: {
              question,
              answers: stringsField(line, 'gold_answers'),
              answerKind: 'string' as const,
            },
          }),
    });
  }
  return all.length > 0 ? { path, by: 'question', all } : { path, by: 'id', all: answersById(path) };
}

/** Largest file of SQuAD's predictions. */
const MAX_SQUAD_BYTES = 128 << 20;

function answersById(path: string): Predicted[] {
  const tree = readJson(path, 'JSON file of predictions', 'give a file of predictions', MAX_SQUAD_BYTES);
  return Object.entries(tree as object).map(([key, prediction]) => {
    if (typeof prediction === 'string') return { key, prediction };
    throw new UserError(
      `${path}: the prediction of ${shown(key)} is ${shown(prediction)}; SQuAD's predictions are {id: answer}`,
    );
  });
}

/** Questions with their predictions; undefined if the file has none for a question, which counts as wrong. */
export interface Matched {
  questions: (Accepted & Pick<Question, 'question' | 'id'>)[];
  predictions: (string | undefined)[];
  /** Number of predictions for other questions. */
  others: number;
}

/**
 * Matches predictions with questions. A question may occur twice; of two predictions with the same key the later one
 * counts, as in ORQA's script (google-research/language, orqa/utils/eval_utils.py).
 * @param questions undefined: the questions in the file of predictions itself
 */
export function matchPredictions(
  { path, by, all }: PredictionFile,
  questions?: readonly Question[],
): Matched {
  if (questions === undefined) {
    const own = all.flatMap(({ question }) => question ?? []);
    if (own.length === all.length)
      return { questions: own, predictions: all.map((p) => p.prediction), others: 0 };
    throw new UserError(`${path}: holds no right answers; give the questions with --questions FILE`);
  }
  if (by === 'order') {
    if (all.length !== questions.length) {
      throw new UserError(
        `${path}: has ${all.length} lines for ${questions.length} questions, and the lines can be matched with questions only by their order; give the file of questions that they were made from`,
      );
    }
    return { questions: [...questions], predictions: all.map((p) => p.prediction), others: 0 };
  }
  const predicted = new Map(all.map(({ key, prediction }) => [key, prediction]));
  const keys = questions.map((question) => (by === 'id' ? question.id : question.question));
  if (by === 'id' && keys.every((id) => id === undefined)) {
    throw new UserError(
      `${path}: identifies questions by id, but the file of questions has no ids; give a file of questions with ids`,
    );
  }
  const predictions = keys.map((key) => (key === undefined ? undefined : predicted.get(key)));
  if (predictions.every((prediction) => prediction === undefined)) {
    throw new UserError(
      `${path}: has no prediction for any of the ${questions.length} questions, the first one is for ${shown(all[0].key)}; give the file of questions that it was made from`,
    );
  }
  const known = new Set(keys);
  return {
    questions: [...questions],
    predictions,
    others: [...predicted.keys()].filter((key) => !known.has(key)).length,
  };
}
