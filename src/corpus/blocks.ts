/** [CLS], and a [SEP] after the title and after the body: tokens of a block's input beside title and body. */
export const BLOCK_SPECIALS = 3;

/** Sentences [first, end) of a document, which make one block. */
export interface Packed {
  first: number;
  end: number;
}

/**
 * Packs sentences into blocks in order: the next sentence joins while it fits in the `room` that a block has for them
 * (ORQA's wiki_preprocessor). A sentence too long for any block becomes one alone: the caller cuts it before. Sentences
 * without tokens join the block they meet.
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

/** How many body tokens a block holds beside its title. */
export function bodyRoom(titleTokens: number, blockTokens: number): number {
  return blockTokens - BLOCK_SPECIALS - titleTokens;
}

/**
 * How many title tokens are kept: at most half of what a block holds, so that a title as long as a sentence leaves
 * room for text. ORQA has no such limit; no title of Wikipedia comes near it at 288 tokens.
 */
export function titleRoom(blockTokens: number): number {
  return Math.floor((blockTokens - BLOCK_SPECIALS) / 2);
}
