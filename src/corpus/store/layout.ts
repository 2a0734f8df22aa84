/**
 * The files of a prepared corpus and the fields of their records, as reader.ts reads and writer.ts writes them.
 * Numbers are little-endian; offsets have 64 bits.
 *
 * manifest.json   counts, tokenizer, length and SHA-256 of every other file; written last
 * vocab.txt       the vocabulary, one piece a line
 * documents.bin   a record for each document: see `DOCUMENT`
 * documents.idx   u64 offsets into documents.bin, one more than documents
 * blocks.idx      a record for each block, and one more that ends the last: see `BLOCK`
 * text.bin        the texts of the blocks, UTF-8, without separators
 * tokens.bin      the body token ids of the blocks, without separators, u16 or u32
 * starts.bin      the token offsets in its body at which each sentence of a block starts, u16
 * sentences.idx   a record for each sentence of X, and one more that ends the last: see `SENTENCE`
 * sentence-tokens.bin   token ids of X if it is not made from the blocks (otherwise X points into tokens.bin)
 * spans.bin       token positions [start, end) of the spans of each sentence, u16 pairs
 */
import { createHash } from 'node:crypto';
import * as z from 'zod';

export const FORMAT = 'realm corpus';
export const VERSION = 1;

/** Bytes of an offset. */
export const OFFSET_BYTES = 8;

/** Where the fields of a record in documents.bin start. The id is followed by the title, and that by the title's token ids. */
export const DOCUMENT = {
  /** Bytes of the id, u32. */
  idBytes: 0,
  /** Bytes of the title, u32. */
  titleBytes: 4,
  id: 8,
} as const;

/** Where the fields of a record in blocks.idx start. Each of the first three ends where the next record's starts. */
export const BLOCK = {
  /** Offset into text.bin in bytes, u64. */
  text: 0,
  /** Offset into tokens.bin in tokens, u64. */
  tokens: 8,
  /** Offset into starts.bin in entries, u64. */
  starts: 16,
  /** See `blockHash`, u64. */
  hash: 24,
  /** Number of the document, u32; four unused bytes follow. */
  document: 32,
} as const;
export const BLOCK_BYTES = 40;

/** Where the fields of a record in sentences.idx start. */
export const SENTENCE = {
  /** Offset into the file of the tokens, in tokens, u64. */
  tokens: 0,
  /** Offset into spans.bin in entries, u64; the spans end where the next record's start. */
  spans: 8,
  /** Number of tokens, u32. */
  length: 16,
  /** The block that the sentence comes from, i32; -1 for none. */
  block: 20,
} as const;
export const SENTENCE_BYTES = 24;

/** Bytes of a token position in starts.bin and spans.bin. */
export const POSITION_BYTES = 2;

export const FILES = [
  'vocab.txt',
  'documents.bin',
  'documents.idx',
  'blocks.idx',
  'text.bin',
  'tokens.bin',
  'starts.bin',
  'sentences.idx',
  'sentence-tokens.bin',
  'spans.bin',
] as const;
export type FileName = (typeof FILES)[number];

/** The size of a corpus; the manifest holds it. */
export interface CorpusCounts {
  documents: number;
  blocks: number;
  /** In the bodies of all blocks. */
  tokens: number;
  sentences: number;
  spans: number;
}

const count = z.number().int().nonnegative();
export const MANIFEST = z.object({
  format: z.literal(FORMAT),
  version: z.literal(VERSION),
  documents: count,
  blocks: count,
  tokens: count,
  sentences: count,
  spans: count,
  /** Whether X points into the blocks. */
  sentencesFromBlocks: z.boolean(),
  /** The model that found the spans (see `taggerIdentity`); absent if the built-in rules did. */
  tagger: z.string().optional(),
  idBytes: z.union([z.literal(2), z.literal(4)]),
  lowercase: z.boolean(),
  /** The tokenizer's settings where they are not BERT's own for its casing (see `unusualSettings`). */
  tokenizer: z
    .strictObject({
      lowercase: z.boolean(),
      stripAccents: z.boolean(),
      splitIdeographs: z.boolean(),
      added: z
        .array(
          z.strictObject({
            content: z.string(),
            normalized: z.boolean(),
            singleWord: z.boolean(),
            inModel: z.boolean(),
          }),
        )
        .readonly(),
    })
    .optional(),
  files: z.record(z.enum(FILES), z.object({ bytes: count, sha256: z.string() })),
});
export type Manifest = z.infer<typeof MANIFEST>;

/** A corpus that is being written, at a checkpoint. */
export const corpusState = z.strictObject({
  counts: z.strictObject({ documents: count, blocks: count, tokens: count, sentences: count, spans: count }),
  textBytes: count,
  starts: count,
  /** Tokens of the external sentences. */
  foreignTokens: count,
  fromBlocks: z.boolean(),
  files: z.record(z.enum(FILES), z.object({ bytes: count, sha256: z.string() })),
});
export type CorpusState = z.infer<typeof corpusState>;

/** First 8 bytes of SHA-1 over title + " <sep> " + text: the identity of a block in the released code. */
export function blockHash(title: string, text: string): bigint {
  return createHash('sha1').update(`${title} <sep> ${text}`).digest().readBigUInt64BE(0);
}

/** Offsets are plain numbers, exact up to 2^53. */
export function writeU64(buffer: Buffer, value: number, at: number): void {
  buffer.writeUInt32LE(value % 2 ** 32, at);
  buffer.writeUInt32LE(Math.floor(value / 2 ** 32), at + 4);
}

export function readU64(buffer: Buffer, at: number): number {
  return buffer.readUInt32LE(at + 4) * 2 ** 32 + buffer.readUInt32LE(at);
}
