import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { z } from 'zod';
import { shown, UserError } from '../../system/errors.ts';
import { readJson } from '../../system/files.ts';
import { lowercaseIn, vocabularyIn } from '../../tokenizer/tokenizer-json.ts';
import { loadWordPiece, type WordPiece } from '../../tokenizer/wordpiece.ts';

/** A model of Hugging Face that labels the word pieces of a text, exported to ONNX, as its folder describes it. */
export interface NerFolder {
  dir: string;
  /** Path of the network. */
  network: string;
  /** Path of its weights, where they are in a file of their own, as torch.onnx writes them. */
  data: string | undefined;
  vocab: WordPiece;
  /** Names of the labels by their numbers: `O` and, for each kind of entity, `B-KIND` and `I-KIND`, or `KIND` alone. */
  labels: readonly string[];
  /** Tokens of the longest sequence, including the two special tokens. */
  positions: number;
}

const REMEDY =
  'text.ner must name a folder that, for example, "optimum-cli export onnx --model dslim/bert-base-NER FOLDER" makes';

/** Models that read a vocab.txt of word pieces, and need no inputs but ids, a mask and segments. */
const FAMILIES = ['bert', 'distilbert', 'electra'];

const CONFIG = z.object({
  model_type: z.string(),
  id2label: z.record(z.string(), z.string()),
  vocab_size: z.int().positive(),
  max_position_embeddings: z.int().min(3),
  do_lower_case: z.boolean().optional(),
});

/** Reads everything but the network itself. `UserError` if the folder is not a NER model that realm can use. */
export function readNerFolder(dir: string): NerFolder {
  const path = join(dir, 'config.json');
  const { data: config, error } = CONFIG.safeParse(readJson(path, 'description of a NER model', REMEDY));
  if (!config) {
    const { path: keys, message } = error.issues[0];
    throw new UserError(
      `${path}: does not describe a model that labels tokens (${keys.join('.')}: ${message}); ${REMEDY}`,
    );
  }
  if (!FAMILIES.includes(config.model_type)) {
    throw new UserError(
      `${path}: model_type is ${shown(config.model_type)}; text.ner needs a model with word pieces (${FAMILIES.join(', ')})`,
    );
  }
  const vocabulary = vocabularyIn(dir);
  if (!existsSync(vocabulary)) {
    throw new UserError(
      `${vocabulary}: no such file; text.ner needs a model with word pieces in a vocab.txt or tokenizer.json, get that file where you got the model`,
    );
  }
  const vocab = loadWordPiece(vocabulary, lowercaseIn(dir) ?? config.do_lower_case ?? null);
  if (vocab.size > config.vocab_size) {
    throw new UserError(
      `${vocabulary}: holds ${vocab.size} word pieces, but vocab_size in config.json is ${config.vocab_size}; use both files of the same model`,
    );
  }
  const network = networkOf(dir);
  const data = `${network}.data`;
  return {
    dir,
    network,
    data: existsSync(data) ? data : undefined,
    vocab,
    labels: labelsOf(path, config.id2label),
    positions: config.max_position_embeddings,
  };
}

function networkOf(dir: string): string {
  const paths = [join(dir, 'model.onnx'), join(dir, 'onnx', 'model.onnx')];
  const network = paths.find((path) => existsSync(path));
  if (network) return network;
  throw new UserError(`${paths[0]}: no such file, nor onnx/model.onnx; ${REMEDY}`);
}

function labelsOf(path: string, id2label: Record<string, string>): string[] {
  const labels = Object.keys(id2label).map((_, id) => id2label[id]);
  if (!labels.includes('O') || labels.includes(undefined as never)) {
    throw new UserError(
      `${path}: id2label is ${shown(id2label)}; a NER model must number its labels from 0 and have the label O`,
    );
  }
  return labels;
}
