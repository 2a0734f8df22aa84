import { type Normalizer, normalizeText } from './normalizer.ts';
import { SPECIAL_TOKENS } from './special-tokens.ts';

/** A token that is found whole in a text, before words are split (added_tokens of huggingface/tokenizers). */
export interface AddedToken {
  content: string;
  /** Found in the normalised text, such as in any casing; false: as written. */
  normalized: boolean;
  /** The character before it and the one after it must not be a letter, a digit or an underscore. */
  singleWord: boolean;
  /** Whether the vocabulary of the tokenizer's model has it too, so that a word can be this piece. */
  inModel: boolean;
}

/** A token found in characters [start, end) of a text. */
interface Found {
  id: number;
  start: number;
  end: number;
}

/**
 * Finds added tokens in a text, in order: those that are matched as written first, then the others in what is left. Of
 * several at one place the longest counts, as in huggingface/tokenizers (added_vocabulary.rs). White space beside a token
 * (lstrip, rstrip) gives no word piece, so that it does not matter here.
 */
export function addedTokenFinder(
  vocabulary: readonly string[],
  added: readonly AddedToken[],
  normalizer: Normalizer,
): (text: string) => Iterable<Found> {
  const ids = new Map<string, number>();
  const singleWord = new Set<string>();
  const written: string[] = [...SPECIAL_TOKENS];
  const normal: string[] = [];
  for (const content of SPECIAL_TOKENS) ids.set(content, vocabulary.indexOf(content));
  for (const { content, normalized, singleWord: single } of added) {
    const key = normalized ? normalizeText(content, 0, content.length, normalizer).text : content;
    if (key === '') continue;
    (normalized ? normal : written).push(key);
    const name = normalized ? `normalized ${key}` : key;
    ids.set(name, vocabulary.indexOf(content));
    if (single) singleWord.add(name);
  }
  const asWritten = anyOf(written);
  const whenNormal = normal.length > 0 ? anyOf(normal) : undefined;
  const bracketed = written.every((token) => token.startsWith('['));

  /** Matches of one kind of tokens in characters [from, to) of a text. */
  function* matches(text: string, pattern: RegExp, prefix: string): Iterable<Found> {
    for (const { 0: token, index } of text.matchAll(pattern)) {
      const [name, end] = [prefix + token, index + token.length];
      if (singleWord.has(name) && (WORD_END.test(text.slice(0, index)) || WORD_START.test(text.slice(end))))
        continue;
      yield { id: ids.get(name)!, start: index, end };
    }
  }

  /** Those that are matched in the normalised text, in characters [from, to). */
  function* among(text: string, from: number, to: number): Iterable<Found> {
    if (!whenNormal || from === to) return;
    const { text: normalised, starts, ends } = normalizeText(text, from, to, normalizer);
    for (const { id, start, end } of matches(normalised, whenNormal, 'normalized '))
      yield { id, start: starts[start], end: ends[end - 1] };
  }

  return function* (text) {
    let from = 0;
    if (!bracketed || text.includes('[')) {
      for (const found of matches(text, asWritten, '')) {
        yield* among(text, from, found.start);
        yield found;
        from = found.end;
      }
    }
    yield* among(text, from, text.length);
  };
}

const WORD_END = /[\p{L}\p{M}\p{N}\p{Pc}]$/u;
const WORD_START = /^[\p{L}\p{M}\p{N}\p{Pc}]/u;

/** The longest of several tokens at a place. */
function anyOf(tokens: readonly string[]): RegExp {
  const longestFirst = [...tokens].sort((a, b) => b.length - a.length);
  return new RegExp(
    longestFirst.map((token) => token.replace(/[.*+?^${}()|[\]\\/-]/g, '\\$&')).join('|'),
    'g',
  );
}
