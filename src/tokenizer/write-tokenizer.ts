import { join } from 'node:path';
import { writeFileAtomic } from '../system/files.ts';
import type { Normalizer } from './normalizer.ts';
import { MAX_WORD_LENGTH, SPECIAL_TOKENS, type WordPiece } from './wordpiece.ts';

/**
 * Writes a tokenizer as transformers saves a BERT's: tokenizer.json and tokenizer_config.json, and vocab.txt, which versions
 * before 5 and other programs read.
 * @param longest tokens of the longest sequence
 */
export function writeTokenizer(folder: string, tokenizer: WordPiece, longest: number): void {
  const json = (name: string, value: object) =>
    writeFileAtomic(join(folder, name), `${JSON.stringify(value, null, 2)}\n`);
  json('tokenizer.json', tokenizerJson(tokenizer));
  const [pad, unk, cls, sep, mask] = SPECIAL_TOKENS;
  json('tokenizer_config.json', {
    tokenizer_class: 'BertTokenizer',
    ...normalizerFields(tokenizer.settings),
    model_max_length: longest,
    pad_token: pad,
    unk_token: unk,
    cls_token: cls,
    sep_token: sep,
    mask_token: mask,
  });
  writeFileAtomic(join(folder, 'vocab.txt'), tokenizer.vocabulary.map((piece) => `${piece}\n`).join(''));
}

/** How text is normalised, in the words of tokenizer_config.json; null is BERT's rule for accents: as the casing. */
export function normalizerFields({ lowercase, stripAccents, splitIdeographs }: Normalizer) {
  return {
    do_lower_case: lowercase,
    strip_accents: stripAccents === lowercase ? null : stripAccents,
    tokenize_chinese_chars: splitIdeographs,
  };
}

/** The tokenizer in the form of huggingface/tokenizers (tokenizer.json, version 1.0). */
function tokenizerJson({ vocabulary, settings }: WordPiece) {
  const id = (token: string) => vocabulary.indexOf(token);
  const special = (token: string, segment: number) => ({ SpecialToken: { id: token, type_id: segment } });
  const text = (name: 'A' | 'B', segment: number) => ({ Sequence: { id: name, type_id: segment } });
  const { do_lower_case, strip_accents, tokenize_chinese_chars } = normalizerFields(settings);
  const beyond = new Set(settings.added.filter(({ inModel }) => !inModel).map(({ content }) => content));
  const tokens = [
    ...SPECIAL_TOKENS.map((content) => ({ content, singleWord: false, normalized: false, special: true })),
    ...settings.added.map((token) => ({ ...token, special: false })),
  ];
  const single = [special('[CLS]', 0), text('A', 0), special('[SEP]', 0)];
  return {
    version: '1.0',
    truncation: null,
    padding: null,
    added_tokens: tokens
      .sort((a, b) => id(a.content) - id(b.content))
      .map(({ content, singleWord, normalized, special }) => ({
        id: id(content),
        content,
        single_word: singleWord,
        lstrip: false,
        rstrip: false,
        normalized,
        special,
      })),
    normalizer: {
      type: 'BertNormalizer',
      clean_text: true,
      handle_chinese_chars: tokenize_chinese_chars,
      strip_accents,
      lowercase: do_lower_case,
    },
    pre_tokenizer: { type: 'BertPreTokenizer' },
    post_processor: {
      type: 'TemplateProcessing',
      single,
      pair: [...single, text('B', 1), special('[SEP]', 1)],
      special_tokens: Object.fromEntries(
        ['[CLS]', '[SEP]'].map((token) => [token, { id: token, ids: [id(token)], tokens: [token] }]),
      ),
    },
    decoder: { type: 'WordPiece', prefix: '##', cleanup: true },
    model: {
      type: 'WordPiece',
      unk_token: '[UNK]',
      continuing_subword_prefix: '##',
      max_input_chars_per_word: MAX_WORD_LENGTH,
      vocab: Object.fromEntries(
        vocabulary.map((piece, id) => [piece, id] as const).filter(([piece]) => !beyond.has(piece)),
      ),
    },
  };
}
