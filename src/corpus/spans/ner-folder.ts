import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { z } from 'zod';
import { shown, UserError } from '../../system/errors.ts';
import { readJson } from '../../system/files.ts';
import { loadWordPiece, type WordPiece } from '../../tokenizer/wordpiece.ts';

/** A model of Hugging Face that labels the word pieces of a text, exported to ONNX: what its folder says of it. */
export interface NerFolder {
  dir: string;
  /** Path of the network. */
  network: string;
  vocab: WordPiece;
  /** Names of the labels by their numbers: `O` and, for each kind of entity, `B-KIND` and `I-KIND`, or `KIND` alone. */
  labels: readonly string[];
  /** Longest sequence, the two special tokens counted. */
  positions: number;
}

const REMEDY =
  'text.ner must name a folder such as "optimum-cli export onnx --model dslim/bert-base-NER FOLDER" makes';

/** They read a vocab.txt of word pieces, and take no more than ids, a mask and segments. */
const FAMILIES = ['bert', 'distilbert', 'electra'];

const CONFIG = z.object({
  model_type: z.string(),
  id2label: z.record(z.string(), z.string()),
  vocab_size: z.int().positive(),
  max_position_embeddings: z.int().min(3),
  do_lower_case: z.boolean().optional(),
});

const TOKENIZER = z.object({
  do_lower_case: z.boolean().optional(),
  strip_accents: z.boolean().nullish(),
  tokenize_chinese_chars: z.boolean().nullish(),
});

/** Reads all but the network itself; a folder that is none of the kind is a `UserError`. */
export function readNerFolder(dir: string): NerFolder {
  const path = join(dir, 'config.json');
  const { data: config, error } = CONFIG.safeParse(readJson(path, 'description of a NER model', REMEDY));
  if (!config) {
    const { path: keys, message } = error.issues[0];
    throw new UserError(
      `${path}: describes no model that labels tokens (${keys.join('.')}: ${message}); ${REMEDY}`,
    );
  }
  if (!FAMILIES.includes(config.model_type)) {
    throw new UserError(
      `${path}: the model is of the kind ${shown(config.model_type)}; text.ner takes those with word pieces (${FAMILIES.join(', ')})`,
    );
  }
  const vocabulary = join(dir, 'vocab.txt');
  if (!existsSync(vocabulary)) {
    throw new UserError(
      `${vocabulary}: no such file; text.ner takes models with word pieces in a vocab.txt alone, fetch it from where the model comes from`,
    );
  }
  const vocab = loadWordPiece(vocabulary, lowercases(dir, vocabulary, config.do_lower_case));
  if (vocab.size > config.vocab_size) {
    throw new UserError(
      `${vocabulary}: holds ${vocab.size} word pieces, but the model of config.json knows ${config.vocab_size}; take both from one model`,
    );
  }
  return {
    dir,
    network: networkOf(dir),
    vocab,
    labels: labelsOf(path, config.id2label),
    positions: config.max_position_embeddings,
  };
}

/** Whether the model reads small letters only. Where no file says so, a vocabulary without capitals does. */
function lowercases(dir: string, vocabulary: string, ofModel: boolean | undefined): boolean {
  const path = join(dir, 'tokenizer_config.json');
  const json = existsSync(path) ? readJson(path, 'description of a tokenizer', REMEDY) : {};
  const { data } = TOKENIZER.safeParse(json);
  if (!data) throw new UserError(`${path}: describes no tokenizer of word pieces; ${REMEDY}`);
  const lowercase =
    data.do_lower_case ??
    ofModel ??
    !loadWordPiece(vocabulary, false).vocabulary.some((piece) => /^(?:##)?[A-Z]/.test(piece));
  if ((data.strip_accents ?? lowercase) !== lowercase || data.tokenize_chinese_chars === false) {
    throw new UserError(
      `${path}: has strip_accents apart from do_lower_case, or tokenize_chinese_chars false, which realm does not do; name another model with text.ner`,
    );
  }
  return lowercase;
}

function networkOf(dir: string): string {
  const places = [join(dir, 'model.onnx'), join(dir, 'onnx', 'model.onnx')];
  const network = places.find((place) => existsSync(place));
  if (network) return network;
  throw new UserError(`${places[0]}: no such file, nor onnx/model.onnx; ${REMEDY}`);
}

function labelsOf(path: string, id2label: Record<string, string>): string[] {
  const labels = Object.keys(id2label).map((_, id) => id2label[id]);
  if (!labels.includes('O') || labels.includes(undefined as never)) {
    throw new UserError(
      `${path}: id2label is ${shown(id2label)}; a model of named entities numbers its labels from 0 on and has the label O`,
    );
  }
  return labels;
}
