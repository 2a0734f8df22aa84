// The head of the retriever's encoder: how the vectors of a text's tokens become the one that the index holds.

/** A dense layer after pooling (sentence-transformers: Dense). */
export interface DenseLayer {
  /** Length of its output. */
  size: number;
  activation: 'none' | 'tanh';
}

/** A head as settings describe it. What is null or left out is REALM's: the tanh pooler, a projection to 128, no length 1. */
export interface Head {
  /** The vector that the head starts with: BERT's tanh pooler of the first token, that token itself, or the mean of all. */
  pooling?: 'pooler' | 'cls' | 'mean' | null;
  /** Dense layers between pooling and projection. */
  dense?: readonly DenseLayer[] | null;
  /** P of REALM's projection, a dense layer and a layer normalisation; none: there is no such layer. */
  projection?: number | 'none' | null;
  /** Length of the index's vectors, below the encoder's own: a last dense layer, which starts as the principal components. */
  width?: number | null;
  /** Whether vectors are scaled to length 1: scores are then cosines. */
  normalize?: boolean | null;
  /** Text before each query, and before each document. */
  queryPrefix?: string | null;
  documentPrefix?: string | null;
  /** Tokens of the longest sequence that the encoder is meant for; null: as many as it has positions. */
  sequenceTokens?: number | null;
}

/** P in ORQA and REALM. */
const REALM_PROJECTION = 128;

/** Whether the head starts from BERT's pooler, as REALM's does. */
export function isPooler(pooling: Head['pooling']): boolean {
  return (pooling ?? 'pooler') === 'pooler';
}

/** The projection, with REALM's where none is named: a sentence encoder's vectors need none. */
export function projectionOf({ pooling, projection }: Head): number | 'none' {
  return projection ?? (isPooler(pooling) ? REALM_PROJECTION : 'none');
}

/** All dense layers: those of the encoder, and the one that makes vectors of `width` numbers. */
export function denseLayers({ dense, width }: Head): Head['dense'] {
  return width == null ? dense : [...(dense ?? []), { size: width, activation: 'none' }];
}

/** P, the length of a vector in the index. */
export function vectorLength(head: Head & { hidden: number }): number {
  const projection = projectionOf(head);
  return projection === 'none' ? (denseLayers(head)?.at(-1)?.size ?? head.hidden) : projection;
}

/** Whether the head has no weights that only training gives: all that it needs comes with the encoder. */
export function isWholeWithoutTraining(head: Head): boolean {
  return !isPooler(head.pooling) && projectionOf(head) === 'none';
}
