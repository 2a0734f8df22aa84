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

// Predictions of any system, in the forms in which they are published.

/** What tells which question a prediction is of: its text, its id, or its place in the file. */
type Key = 'question' | 'id' | 'order';

interface Predicted {
  /** The question's text or id; where the order tells, nothing. */
  key: string;
  prediction: string;
  /** Where the file holds the right answers too. */
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
 * train_extractive_reader.py, commit 0473319), of which the prediction from the most passages counts.
 */
export async function readPredictions(path: string): Promise<PredictionFile> {
  const file = /\.json(\.gz|\.zst)?$/.test(path) ? await readList(path) : await readLines(path);
  if (file.all.length > 0) return file;
  throw new UserError(`${path}: holds no prediction; give a file of predictions`);
}

async function readLines(path: string): Promise<PredictionFile> {
  const all: Predicted[] = [];
  let by: Key | undefined;
  for await (const line of readJsonLines(path, 'a JSONL file of predictions', true)) {
    const [key, predicted] = lineOf(line);
    by ??= key;
    if (key !== by) throw new UserError(`${line.where}: has another form than the lines before it; mend it`);
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
    `${where}: is no prediction: neither {"question", "prediction"}, nor KILT's {"id", "output"}, nor DrQA's list of spans; give a file of predictions`,
  );
}

/** What a line of ours holds besides the prediction. */
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
        `${line.where}: is no prediction of DPR's reader, {"question", "gold_answers", "predictions"}; where every line is an object, name the file .jsonl`,
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

/** Bytes of a file of SQuAD's predictions. */
const LONGEST = 128 << 20;

function answersById(path: string): Predicted[] {
  const tree = readJson(path, 'JSON file of predictions', 'give a file of predictions', LONGEST);
  return Object.entries(tree as object).map(([key, prediction]) => {
    if (typeof prediction === 'string') return { key, prediction };
    throw new UserError(
      `${path}: the prediction of ${shown(key)} is ${shown(prediction)}; SQuAD's predictions are {id: answer}`,
    );
  });
}

/** Questions with what was predicted for each; undefined where the file has nothing, which counts as wrong. */
export interface Matched {
  questions: (Accepted & Pick<Question, 'question' | 'id'>)[];
  predictions: (string | undefined)[];
  /** Predictions of other questions. */
  others: number;
}

/**
 * Brings predictions and questions together. A question may be asked twice; of two predictions under one key the later one
 * counts, as in ORQA's script (google-research/language, orqa/utils/eval_utils.py).
 * @param questions undefined: those that the file itself holds
 */
export function matchPredictions(
  { path, by, all }: PredictionFile,
  questions?: readonly Question[],
): Matched {
  if (questions === undefined) {
    const own = all.flatMap(({ question }) => question ?? []);
    if (own.length === all.length)
      return { questions: own, predictions: all.map((p) => p.prediction), others: 0 };
    throw new UserError(`${path}: holds no right answers; name the questions with --questions FILE`);
  }
  if (by === 'order') {
    if (all.length !== questions.length) {
      throw new UserError(
        `${path}: has ${all.length} lines for ${questions.length} questions, and only their order tells which is which; name the file of questions that it was made from`,
      );
    }
    return { questions: [...questions], predictions: all.map((p) => p.prediction), others: 0 };
  }
  const predicted = new Map(all.map(({ key, prediction }) => [key, prediction]));
  const keys = questions.map((question) => (by === 'id' ? question.id : question.question));
  if (by === 'id' && keys.every((id) => id === undefined)) {
    throw new UserError(`${path}: tells questions by their ids, and the file of questions has none`);
  }
  const predictions = keys.map((key) => (key === undefined ? undefined : predicted.get(key)));
  if (predictions.every((prediction) => prediction === undefined)) {
    throw new UserError(
      `${path}: holds a prediction for none of the ${questions.length} questions, the first is of ${shown(all[0].key)}; name the file of questions that it was made from`,
    );
  }
  const known = new Set(keys);
  return {
    questions: [...questions],
    predictions,
    others: [...predicted.keys()].filter((key) => !known.has(key)).length,
  };
}
