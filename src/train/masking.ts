import type { MaskedSentence } from '../model/realm-batch.ts';
import type { Random } from '../random.ts';
import type { WordPiece } from '../tokenizer/wordpiece.ts';

// What pretraining hides of a sentence: a salient span (paper, section 3.4), or what the paper's Table 2 compares it with.
// Hidden is always [MASK], no 80/10/10 rule: so has the released code it, and so the three differ in their places alone.

/** Masks one span, uniformly chosen. At most `maxMasks` pieces enter the loss. */
export function maskSpan(
  sentence: Int32Array,
  spans: Int32Array,
  source: number,
  maxMasks: number,
  mask: number,
  random: Pick<Random, 'int'>,
): MaskedSentence {
  const chosen = random.int(spans.length / 2);
  const places = range(spans[2 * chosen], spans[2 * chosen + 1]);
  return masked(sentence, places, places.slice(0, maxMasks), source, mask);
}

/** Share of a sentence's word pieces that random masks hide (BERT, Devlin et al. 2018, section 3.1). */
const SHARE = 0.15;

/** Word pieces that random masks hide of a sentence of `length`: 15 %, one at least, at most `maxMasks`. */
function budgetOf(length: number, maxMasks: number): number {
  return Math.min(maxMasks, Math.max(1, Math.round(SHARE * length)));
}

/** Masks single word pieces, uniformly chosen. */
export function maskTokens(
  sentence: Int32Array,
  source: number,
  maxMasks: number,
  mask: number,
  random: Random,
): MaskedSentence {
  const places = random.shuffle(range(0, sentence.length)).slice(0, budgetOf(sentence.length, maxMasks));
  places.sort((a, b) => a - b);
  return masked(sentence, places, places, source, mask);
}

/** Words of a span: geometric, clipped (SpanBERT, Joshi et al. 2020, section 3.1), 3.8 in the mean. */
const SPAN_P = 0.2;
const LONGEST_SPAN = 10;

/**
 * Masks spans of whole words that begin anywhere, until the word pieces that `maskTokens` may hide are spent; the last
 * span is cut to what is left of them (as in SpanBERT's code, span_masking.py).
 */
export function maskSpans(
  sentence: Int32Array,
  source: number,
  maxMasks: number,
  { mask, vocabulary }: Pick<WordPiece, 'mask' | 'vocabulary'>,
  random: Random,
): MaskedSentence {
  const budget = budgetOf(sentence.length, maxMasks);
  const words = range(0, sentence.length).filter((t) => t === 0 || !vocabulary[sentence[t]].startsWith('##'));
  const hidden = new Set<number>();
  while (hidden.size < budget) {
    const first = random.int(words.length);
    const length = spanLength(random);
    if (hidden.has(words[first])) continue;
    const end = words[first + length] ?? sentence.length;
    for (let t = words[first]; t < end && hidden.size < budget; t++) hidden.add(t);
  }
  const places = [...hidden].sort((a, b) => a - b);
  return masked(sentence, places, places, source, mask);
}

/** A number of words from 1 to 10: n has probability p (1 − p)^(n − 1), what lies beyond 10 shared out alike. */
export function spanLength(random: Pick<Random, 'float'>): number {
  const within = 1 - (1 - SPAN_P) ** LONGEST_SPAN;
  const n = Math.ceil(Math.log(1 - random.float() * within) / Math.log(1 - SPAN_P));
  return Math.min(LONGEST_SPAN, Math.max(1, n));
}

/** @param places pieces that [MASK] hides; `asked` those that enter the loss */
function masked(
  sentence: Int32Array,
  places: readonly number[],
  asked: readonly number[],
  source: number,
  mask: number,
): MaskedSentence {
  const masked = sentence.slice();
  for (const t of places) masked[t] = mask;
  return {
    sentence,
    masked,
    positions: asked.map((t) => t + 1), // [CLS] comes before
    targets: asked.map((t) => sentence[t]),
    source,
  };
}

function range(from: number, to: number): number[] {
  return Array.from({ length: to - from }, (_, i) => from + i);
}
