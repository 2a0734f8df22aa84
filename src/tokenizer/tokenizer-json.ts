import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { shown, UserError } from '../system/errors.ts';
import { readJson } from '../system/files.ts';
import type { AddedToken } from './added-tokens.ts';
import type { Normalizer } from './normalizer.ts';
import { SPECIAL_TOKENS } from './special-tokens.ts';

// The tokenizer of a model folder. Folders of transformers 5 and later have tokenizer.json and no vocab.txt.

const NAME = 'tokenizer.json';
const REMEDY = 'choose a model with the tokenizer of BERT';
/** Bytes; the largest of WordPiece, for a hundred languages, takes a few MiB. */
const LIMIT = 64 << 20;

/**
 * The file in a model folder that holds its word pieces: tokenizer.json, which transformers prefers too and which has added
 * tokens, else vocab.txt, also where there is neither, for the message.
 */
export function vocabularyIn(folder: string): string {
  const json = join(folder, NAME);
  return existsSync(json) ? json : join(folder, 'vocab.txt');
}

/** How the files of a tokenizer say that text is normalised; what they do not say is undefined. */
export interface DescribedTokenizer extends Partial<Normalizer> {
  /** The file that says it. */
  path: string;
}

/**
 * What tokenizer_config.json says, field by field, else tokenizer.json. transformers, too, makes the tokenizer that the
 * former describes.
 * @param json a tokenizer.json with another name or in another folder
 */
export function describedTokenizer(folder: string, json = join(folder, NAME)): DescribedTokenizer {
  const config = join(folder, 'tokenizer_config.json');
  const described: DescribedTokenizer = { path: config };
  if (existsSync(config)) {
    const fields = readJson(config, 'description of a tokenizer', 'download it again');
    if (isFields(fields)) Object.assign(described, flags(config, fields, CONFIG_NAMES));
  }
  if (!existsSync(json)) return described;
  const { normalizer } = readTokenizerJson(json);
  if (described.lowercase === undefined) described.path = json;
  return { ...normalizer, ...described };
}

/** Whether a model folder's tokenizer lower-cases, as its files say; undefined where none does. */
export function lowercaseIn(folder: string): boolean | undefined {
  return describedTokenizer(folder).lowercase;
}

export function isTokenizerJson(path: string): boolean {
  return path.endsWith('.json');
}

/** What people call the kinds of tokenizers that realm does not read. */
const OTHER_KINDS: Record<string, string> = {
  Unigram: 'a SentencePiece tokenizer (Unigram)',
  BPE: 'a byte-level BPE tokenizer',
  WordLevel: 'a tokenizer of whole words (WordLevel)',
};

interface Fields {
  [name: string]: unknown;
}

const isFields = (value: unknown): value is Fields =>
  typeof value === 'object' && value !== null && !Array.isArray(value);

/**
 * The word pieces of a tokenizer.json by their ids, its added tokens, and how it normalises.
 * `UserError` for every kind of tokenizer that realm does not have, by its name.
 */
export function readTokenizerJson(path: string): {
  vocabulary: string[];
  added: AddedToken[];
  normalizer: Partial<Normalizer>;
} {
  const json = readJson(path, 'tokenizer', REMEDY, LIMIT);
  if (!isFields(json) || !isFields(json.model))
    throw new UserError(`${path}: describes no tokenizer; ${REMEDY}`);
  const { model } = json;
  // Files of old versions have no type; only WordPiece has this field.
  const kind = model.type ?? (model.max_input_chars_per_word === undefined ? 'unknown' : 'WordPiece');
  if (kind !== 'WordPiece')
    throw new UserError(
      `${path}: is ${OTHER_KINDS[String(kind)] ?? `a tokenizer of the kind ${shown(kind)}`}, and realm reads only WordPiece, the kind of BERT; ${REMEDY}`,
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
  const normalizer = normalizerOf(path, json);
  return { ...piecesOf(path, model.vocab, json.added_tokens), normalizer };
}

function piecesOf(
  path: string,
  vocab: unknown,
  addedTokens: unknown,
): { vocabulary: string[]; added: AddedToken[] } {
  if (!isFields(vocab)) throw new UserError(`${path}: has no vocabulary; ${REMEDY}`);
  const ids = new Map(Object.entries(vocab));
  const added: AddedToken[] = [];
  for (const token of Array.isArray(addedTokens) ? addedTokens : []) {
    if (!isFields(token) || typeof token.content !== 'string') continue;
    const { content, normalized, single_word: singleWord } = token;
    const inModel = ids.has(content);
    // Tokens that were added after training have ids beyond the vocabulary's.
    if (!inModel) ids.set(content, token.id);
    if (!SPECIAL_TOKENS.includes(content as never))
      added.push({ content, normalized: normalized === true, singleWord: singleWord === true, inModel });
  }
  const pieces: string[] = new Array(ids.size);
  for (const [piece, id] of ids) {
    if (!Number.isInteger(id) || (id as number) < 0 || (id as number) >= ids.size || (id as number) in pieces)
      throw new UserError(
        `${path}: gives ${shown(piece)} the id ${shown(id)}, and the ids of ${ids.size} word pieces must be 0 to ${ids.size - 1}; ${REMEDY}`,
      );
    // A prepared corpus has its vocabulary one piece a line.
    if (/[\r\n]/.test(piece))
      throw new UserError(
        `${path}: ${shown(piece)} has a line break, which realm's word pieces cannot have; ${REMEDY}`,
      );
    pieces[id as number] = piece;
  }
  return { vocabulary: pieces, added };
}

function flag(path: string, name: string, value: unknown): boolean {
  if (typeof value === 'boolean') return value;
  throw new UserError(`${path}: ${name} is ${shown(value)}, not true or false; ${REMEDY}`);
}

/** BERT's normalizer and pre-tokenizer alone. */
function normalizerOf(path: string, { normalizer, pre_tokenizer: words }: Fields): Partial<Normalizer> {
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
  const fields = normalizer as Fields;
  if (fields.clean_text === false)
    throw new UserError(`${path}: clean_text is false, which realm does not have; ${REMEDY}`);
  return { lowercase: true, ...flags(path, fields, NORMALIZER_NAMES) };
}

/** What the two files call the fields of a `Normalizer`. */
const CONFIG_NAMES = {
  lowercase: 'do_lower_case',
  stripAccents: 'strip_accents',
  splitIdeographs: 'tokenize_chinese_chars',
} as const satisfies Record<keyof Normalizer, string>;
const NORMALIZER_NAMES = {
  lowercase: 'lowercase',
  stripAccents: 'strip_accents',
  splitIdeographs: 'handle_chinese_chars',
} as const satisfies Record<keyof Normalizer, string>;

/** Those of the fields that a file has, and not as null. */
function flags(path: string, fields: Fields, names: Record<keyof Normalizer, string>): Partial<Normalizer> {
  const found: Partial<Normalizer> = {};
  for (const [ours, theirs] of Object.entries(names) as [keyof Normalizer, string][]) {
    const value = fields[theirs] ?? undefined;
    if (value !== undefined) found[ours] = flag(path, theirs, value);
  }
  return found;
}
