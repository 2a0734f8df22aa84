/** Special tokens in a block's input: [CLS], and a [SEP] after the title and after the body. */
export const BLOCK_SPECIALS = 3;

/** Sentences [first, end) of a document that make one block. */
export interface Packed {
  first: number;
  end: number;
}

/**
 * Packs sentences into blocks in order: the next sentence is added while it fits in the `room` tokens that a block has for
 * them (ORQA's wiki_preprocessor). A sentence longer than that makes a block alone: callers split such sentences first.
 * Sentences without tokens go into the current block.
 */
export function packBlocks(sentenceTokens: ArrayLike<number>, room: number): Packed[] {
  const blocks: Packed[] = [];
  let first = 0;
  let tokens = 0;
  for (let s = 0; s < sentenceTokens.length; s++) {
    if (tokens > 0 && tokens + sentenceTokens[s] > room) {
      blocks.push({ first, end: s });
      first = s;
      tokens = 0;
    }
    tokens += sentenceTokens[s];
  }
  if (tokens > 0) blocks.push({ first, end: sentenceTokens.length });
  return blocks;
}

/** How many body tokens fit into a block with a title of `titleTokens`. */
export function bodyRoom(titleTokens: number, blockTokens: number): number {
  return blockTokens - BLOCK_SPECIALS - titleTokens;
}

/**
 * How many title tokens are kept: at most half of a block, so that a long title leaves room for text. ORQA has no such
 * limit; no title of Wikipedia comes near it at 288 tokens.
 */
export function titleRoom(blockTokens: number): number {
  return Math.floor((blockTokens - BLOCK_SPECIALS) / 2);
}
