import { existsSync } from 'node:fs';
import { type Config, tooLongFor } from '../config.ts';
import type { Corpus } from '../corpus/store/reader.ts';
import { cachedFolder } from '../hub/cache.ts';
import { isPooler } from '../model/head.ts';
import { UserError } from '../system/errors.ts';
import { lowercaseIn, vocabularyIn } from '../tokenizer/tokenizer-json.ts';
import { splitWords } from '../tokenizer/unspaced.ts';
import { hasCapitals, loadWordPiece } from '../tokenizer/wordpiece.ts';
import { describeFolder, misfits } from '../weights/import-bert.ts';
import { bertFolder } from '../weights/sentence-encoder.ts';

/**
 * Throws a `UserError` that names every setting which does not fit the encoder in model.initial or model.initialReader, each
 * with the value that fits. It reads only the encoder's description, so it runs before anything is prepared.
 */
export function checkInitial(config: Config): void {
  for (const setting of ['initial', 'initialReader'] as const) {
    const named = config.model[setting];
    const folder = named === null ? undefined : cachedFolder(named);
    if (folder === undefined) continue; // none, or a model on the Hub that is not downloaded yet
    if (!existsSync(folder))
      throw new UserError(
        `${folder}: no such folder, which model.${setting} names (a path in a configuration file is relative to that file's folder); ` +
          `pass the folder of an encoder with --set model.${setting}=PATH`,
      );
    // By now the head of a sentence encoder is in the settings.
    if (setting === 'initial') needTokenPooling(folder, config.model);
    const described = describeFolder(folder);
    if (!described) continue; // only its shapes are known
    const { file, config: theirs } = described;
    const found = [
      ...misfits(theirs, config.model),
      ...(config.model.positions > theirs.positions
        ? tooLongFor(config, theirs.positions).map((line) => `${line} (model.positions ${theirs.positions})`)
        : []),
      ...(setting === 'initial' ? vocabularyMisfits(bertFolder(folder), theirs.vocabulary, config) : []),
    ];
    if (found.length > 0)
      throw new UserError(`${file}: model.${setting} does not fit these settings: ${found.join('; ')}`);
  }
}

function vocabularyMisfits(folder: string, size: number, { text }: Config): string[] {
  const path = text.vocabulary ?? vocabularyIn(folder);
  const found: string[] = [];
  const lowercase = lowercaseIn(folder);
  if (lowercase !== undefined && text.lowercase !== null && lowercase !== text.lowercase)
    return [`text.lowercase is ${text.lowercase}, do_lower_case is ${lowercase}: set it to ${lowercase}`];
  const pieces = existsSync(path) ? loadWordPiece(path, text.lowercase).size : size;
  if (pieces > size)
    found.push(`${path} has ${pieces} word pieces, vocab_size is ${size}: use the vocabulary of this model`);
  if (
    lowercase === undefined &&
    text.lowercase &&
    existsSync(path) &&
    hasCapitals(loadWordPiece(path, null).vocabulary)
  )
    found.push(
      `text.lowercase is true, and the word pieces of ${path} have capital letters: set it to false, or to true in a tokenizer_config.json ("do_lower_case") if they are never used`,
    );
  return found;
}

/** A `UserError` where `model.width` is set and REALM's own head is used, whose projection has that purpose. */
export function needTokenPooling(path: string, { width, pooling }: Config['model']): void {
  if (width === null || !isPooler(pooling)) return;
  throw new UserError(
    `${path}: model.width needs the vector of a sentence encoder or model.pooling cls or mean; set one of them, or model.width to null and model.projection to the length`,
  );
}

/** Evenly spaced blocks whose words are counted. */
const SAMPLED_BLOCKS = 2000;
/**
 * A vocabulary does not suit a text if it needs more word pieces for each word between spaces, or if a larger share of them
 * is [UNK]. BERT's has 1.30 and 0.03 % on SQuAD's passages, 1.45 and 0 on the demo's world; the demo's own has 2.56 and
 * 1.2 % on SQuAD's passages.
 */
const MAX_PIECES_PER_WORD = 2;
const MAX_UNKNOWN_SHARE = 0.01;

/** A warning if the vocabulary splits words of the corpus into too many pieces; undefined if it does not. */
export function vocabularyWarning(corpus: Corpus): string | undefined {
  const unknown = corpus.tokenizer.vocabulary.indexOf('[UNK]');
  const blocks = Math.min(corpus.blocks, SAMPLED_BLOCKS);
  let [words, pieces, unknowns] = [0, 0, 0];
  for (let i = 0; i < blocks; i++) {
    const block = Math.floor((i * corpus.blocks) / blocks);
    const ids = corpus.bodyIds(block);
    words += splitWords(corpus.text(block)).length;
    pieces += ids.length;
    for (const id of ids) if (id === unknown) unknowns++;
  }
  if (words === 0 || pieces === 0) return undefined;
  if (pieces / words <= MAX_PIECES_PER_WORD && unknowns / pieces <= MAX_UNKNOWN_SHARE) return undefined;
  return (
    `the vocabulary does not suit these documents: ${(pieces / words).toFixed(2)} word pieces a word (about 1.3 is usual) and ` +
    `${((100 * unknowns) / pieces).toFixed(1)} % unknown ones; choose an encoder for this language and kind of text, ` +
    'or set model.initial and text.vocabulary to null to train a vocabulary on the documents'
  );
}
