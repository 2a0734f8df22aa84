/**
 * What a BERT tokenizer does to characters before it splits words (BertNormalizer of huggingface/tokenizers). Control
 * characters are always dropped (clean_text).
 */
export interface Normalizer {
  lowercase: boolean;
  /** Drop accents; BERT itself does so where it lower-cases. */
  stripAccents: boolean;
  /** Each Chinese, Japanese or Korean ideograph is a word (handle_chinese_chars, tokenize_chinese_chars). */
  splitIdeographs: boolean;
}

/** BERT's own rules, which depend on lower-casing alone. */
export function bertNormalizer(lowercase: boolean): Normalizer {
  return { lowercase, stripAccents: lowercase, splitIdeographs: true };
}

/** Control, format, private-use, NUL, the replacement character, and halves of a surrogate pair. */
export function isDropped(code: number, character: string): boolean {
  if (code === 0x09 || code === 0x0a || code === 0x0d) return false;
  return code === 0xfffd || /[\p{Cc}\p{Cf}\p{Co}\p{Cs}]/u.test(character);
}

export function isSpace(character: string): boolean {
  return /\p{White_Space}/u.test(character);
}

/** The CJK blocks that BERT puts spaces around. Kana and Hangul are written with spaces or treated as other scripts. */
export function isIdeograph(code: number): boolean {
  return (
    (code >= 0x4e00 && code <= 0x9fff) ||
    (code >= 0x3400 && code <= 0x4dbf) ||
    (code >= 0x20000 && code <= 0x2a6df) ||
    (code >= 0x2a700 && code <= 0x2b73f) ||
    (code >= 0x2b740 && code <= 0x2b81f) ||
    (code >= 0x2b820 && code <= 0x2ceaf) ||
    (code >= 0xf900 && code <= 0xfaff) ||
    (code >= 0x2f800 && code <= 0x2fa1f)
  );
}

/** One character without its accents and in lower case, as far as the normalizer does either; '' if nothing is left. */
export function normalizeCharacter(character: string, { lowercase, stripAccents }: Normalizer): string {
  let result = '';
  for (const part of stripAccents ? character.normalize('NFD') : character) {
    if (stripAccents && /\p{Mn}/u.test(part)) continue;
    result += lowercase ? part.toLowerCase() : part;
  }
  return result;
}

/** Characters [from, to) of a text as words are split from them; unit u came from characters [starts[u], ends[u]) of the text. */
export function normalizeText(
  text: string,
  from: number,
  to: number,
  normalizer: Normalizer,
): { text: string; starts: number[]; ends: number[] } {
  let normal = '';
  const starts: number[] = [];
  const ends: number[] = [];
  for (let i = from; i < to; ) {
    const code = text.codePointAt(i)!;
    const character = String.fromCodePoint(code);
    let become = '';
    if (!isDropped(code, character)) {
      become = isSpace(character) ? ' ' : normalizeCharacter(character, normalizer);
      if (normalizer.splitIdeographs && isIdeograph(code)) become = ` ${become} `;
    }
    for (let u = 0; u < become.length; u++) {
      starts.push(i);
      ends.push(i + character.length);
    }
    normal += become;
    i += character.length;
  }
  return { text: normal, starts, ends };
}
