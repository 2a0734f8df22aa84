import type { MaskedSentence } from '../model/realm-batch.ts';
import type { Random } from '../random.ts';
import type { WordPiece } from '../tokenizer/wordpiece.ts';

// What pretraining masks in a sentence: a salient span (paper, section 3.4), or the alternatives in the paper's Table 2.
// Always [MASK], never BERT's 80/10/10, as in the released code; the three strategies differ only in which tokens they mask.

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
  const positions = range(spans[2 * chosen], spans[2 * chosen + 1]);
  return masked(sentence, positions, positions.slice(0, maxMasks), source, mask);
}

/** Share of a sentence's word pieces that random masks hide (BERT, Devlin et al. 2018, section 3.1). */
const MASKED_SHARE = 0.15;

/** Number of word pieces that random masks hide in a sentence of `length`: 15 %, at least one, at most `maxMasks`. */
function budgetOf(length: number, maxMasks: number): number {
  return Math.min(maxMasks, Math.max(1, Math.round(MASKED_SHARE * length)));
}

/** Masks single word pieces, uniformly chosen. */
export function maskTokens(
  sentence: Int32Array,
  source: number,
  maxMasks: number,
  mask: number,
  random: Random,
): MaskedSentence {
  const positions = random.shuffle(range(0, sentence.length)).slice(0, budgetOf(sentence.length, maxMasks));
  positions.sort((a, b) => a - b);
  return masked(sentence, positions, positions, source, mask);
}

/** Words in a span: geometric distribution, clipped (SpanBERT, Joshi et al. 2020, section 3.1); the mean is 3.8. */
const SPAN_P = 0.2;
const MAX_SPAN_WORDS = 10;

/**
 * Masks spans of whole words that start anywhere, until as many word pieces are hidden as `maskTokens` may hide; the
 * last span is shortened to fit (as in SpanBERT's code, span_masking.py).
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
  const positions = [...hidden].sort((a, b) => a - b);
  return masked(sentence, positions, positions, source, mask);
}

/** A number of words from 1 to 10: n has probability proportional to p (1 − p)^(n − 1). */
export function spanLength(random: Pick<Random, 'float'>): number {
  const within = 1 - (1 - SPAN_P) ** MAX_SPAN_WORDS;
  const n = Math.ceil(Math.log(1 - random.float() * within) / Math.log(1 - SPAN_P));
  return Math.min(MAX_SPAN_WORDS, Math.max(1, n));
}

/** @param hidden pieces that [MASK] replaces; `predicted` those that enter the loss */
function masked(
  sentence: Int32Array,
  hidden: readonly number[],
  predicted: readonly number[],
  source: number,
  mask: number,
): MaskedSentence {
  const masked = sentence.slice();
  for (const t of hidden) masked[t] = mask;
  return {
    sentence,
    masked,
    positions: predicted.map((t) => t + 1), // [CLS] comes before
    targets: predicted.map((t) => sentence[t]),
    source,
  };
}

function range(from: number, to: number): number[] {
  return Array.from({ length: to - from }, (_, i) => from + i);
}
