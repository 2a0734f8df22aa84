import { join } from 'node:path';
import { writeFileAtomic } from '../system/files.ts';
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
    do_lower_case: tokenizer.lowercase,
    strip_accents: null,
    tokenize_chinese_chars: true,
    model_max_length: longest,
    pad_token: pad,
    unk_token: unk,
    cls_token: cls,
    sep_token: sep,
    mask_token: mask,
  });
  writeFileAtomic(join(folder, 'vocab.txt'), tokenizer.vocabulary.map((piece) => `${piece}\n`).join(''));
}

/** The tokenizer in the form of huggingface/tokenizers (tokenizer.json, version 1.0). */
function tokenizerJson({ vocabulary, lowercase }: WordPiece) {
  const id = (token: string) => vocabulary.indexOf(token);
  const special = (token: string, segment: number) => ({ SpecialToken: { id: token, type_id: segment } });
  const text = (name: 'A' | 'B', segment: number) => ({ Sequence: { id: name, type_id: segment } });
  const single = [special('[CLS]', 0), text('A', 0), special('[SEP]', 0)];
  return {
    version: '1.0',
    truncation: null,
    padding: null,
    added_tokens: [...SPECIAL_TOKENS]
      .sort((a, b) => id(a) - id(b))
      .map((content) => ({
        id: id(content),
        content,
        single_word: false,
        lstrip: false,
        rstrip: false,
        normalized: false,
        special: true,
      })),
    normalizer: {
      type: 'BertNormalizer',
      clean_text: true,
      handle_chinese_chars: true,
      strip_accents: null,
      lowercase,
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
      vocab: Object.fromEntries(vocabulary.map((piece, id) => [piece, id])),
    },
  };
}
