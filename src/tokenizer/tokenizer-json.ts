import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { shown, UserError } from '../system/errors.ts';
import { readJson } from '../system/files.ts';

// The tokenizer of a model folder. Folders of transformers 5 and later have tokenizer.json and no vocab.txt.

const NAME = 'tokenizer.json';
const REMEDY = 'choose a model with the tokenizer of BERT';
/** Bytes; the largest of WordPiece, for a hundred languages, takes a few MiB. */
const LIMIT = 64 << 20;

/** The file in a model folder that holds its word pieces; vocab.txt also where there is neither, for the message. */
export function vocabularyIn(folder: string): string {
  const [list, json] = [join(folder, 'vocab.txt'), join(folder, NAME)];
  return !existsSync(list) && existsSync(json) ? json : list;
}

/** Whether a model folder's tokenizer lower-cases, as tokenizer_config.json says, else tokenizer.json; undefined where neither does. */
export function lowercaseIn(folder: string): boolean | undefined {
  const config = join(folder, 'tokenizer_config.json');
  if (existsSync(config)) {
    const fields = readJson(config, 'description of a tokenizer', 'download it again');
    if (isFields(fields) && typeof fields.do_lower_case === 'boolean') return fields.do_lower_case;
  }
  const json = join(folder, NAME);
  return existsSync(json) ? readTokenizerJson(json).lowercase : undefined;
}

export function isTokenizerJson(path: string): boolean {
  return path.endsWith('.json');
}

interface Fields {
  [name: string]: unknown;
}

const isFields = (value: unknown): value is Fields =>
  typeof value === 'object' && value !== null && !Array.isArray(value);

/**
 * The word pieces of a tokenizer.json by their ids, and whether it lower-cases.
 * `UserError` for every kind of tokenizer that realm does not have, by its name.
 */
export function readTokenizerJson(path: string): { vocabulary: string[]; lowercase: boolean } {
  const json = readJson(path, 'tokenizer', REMEDY, LIMIT);
  if (!isFields(json) || !isFields(json.model))
    throw new UserError(`${path}: describes no tokenizer; ${REMEDY}`);
  const { model } = json;
  // Files of old versions have no type; only WordPiece has this field.
  const kind = model.type ?? (model.max_input_chars_per_word === undefined ? 'unknown' : 'WordPiece');
  if (kind !== 'WordPiece')
    throw new UserError(
      `${path}: is a tokenizer of the kind ${shown(kind)}, and realm has only WordPiece; ${REMEDY}`,
    );
  const differs = [
    ['continuing_subword_prefix', model.continuing_subword_prefix, '##'],
    ['unk_token', model.unk_token, '[UNK]'],
    ['max_input_chars_per_word', model.max_input_chars_per_word, 100],
  ].find(([, value, ours]) => value !== undefined && value !== ours);
  if (differs)
    throw new UserError(
      `${path}: has ${differs[0]} ${shown(differs[1])}, and realm has only ${differs[2]}; ${REMEDY}`,
    );
  return { vocabulary: piecesOf(path, model.vocab, json.added_tokens), lowercase: lowercaseOf(path, json) };
}

function piecesOf(path: string, vocab: unknown, added: unknown): string[] {
  if (!isFields(vocab)) throw new UserError(`${path}: has no vocabulary; ${REMEDY}`);
  const ids = new Map(Object.entries(vocab));
  // Tokens that were added after training may have ids beyond the vocabulary's.
  for (const token of Array.isArray(added) ? added : []) {
    if (isFields(token) && typeof token.content === 'string' && !ids.has(token.content))
      ids.set(token.content, token.id);
  }
  const pieces: string[] = new Array(ids.size);
  for (const [piece, id] of ids) {
    if (!Number.isInteger(id) || (id as number) < 0 || (id as number) >= ids.size || (id as number) in pieces)
      throw new UserError(
        `${path}: gives ${shown(piece)} the id ${shown(id)}, and the ids of ${ids.size} word pieces must be 0 to ${ids.size - 1}; ${REMEDY}`,
      );
    pieces[id as number] = piece;
  }
  return pieces;
}

/** BERT's normalizer alone: white space and control characters cleaned, ideographs apart, accents stripped with lower-casing. */
function lowercaseOf(path: string, { normalizer, pre_tokenizer: words }: Fields): boolean {
  const kinds = [
    ['normalizer', normalizer, 'BertNormalizer'],
    ['pre_tokenizer', words, 'BertPreTokenizer'],
  ] as const;
  for (const [name, value, ours] of kinds) {
    const type = isFields(value) ? value.type : value;
    if (type !== ours)
      throw new UserError(
        `${path}: its ${name} is of the kind ${shown(type)}, and realm has only ${ours}; ${REMEDY}`,
      );
  }
  const { lowercase = true, strip_accents, handle_chinese_chars, clean_text } = normalizer as Fields;
  if (
    typeof lowercase !== 'boolean' ||
    (strip_accents ?? lowercase) !== lowercase ||
    handle_chinese_chars === false ||
    clean_text === false
  )
    throw new UserError(
      `${path}: has strip_accents apart from lowercase, or handle_chinese_chars or clean_text false, which realm does not have; ${REMEDY}`,
    );
  return lowercase;
}
