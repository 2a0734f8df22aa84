import { createHash, type Hash } from 'node:crypto';
import { closeSync, fstatSync, fsyncSync, ftruncateSync, openSync } from 'node:fs';
import { join } from 'node:path';
import { type FileDigest, readFully, writeFileAtomic, writeFully } from '../../system/files.ts';
import { unusualSettings, type WordPiece } from '../../tokenizer/wordpiece.ts';
import {
  BLOCK,
  BLOCK_BYTES,
  blockHash,
  type CorpusCounts,
  type CorpusState,
  FILES,
  type FileName,
  FORMAT,
  type Manifest,
  OFFSET_BYTES,
  SENTENCE,
  SENTENCE_BYTES,
  VERSION,
  writeU64,
} from './layout.ts';

/** Writes a corpus in the format of layout.ts, record after record. */
export interface CorpusWriter {
  /** Returns the number of the document. */
  addDocument(id: string, title: string, titleIds: Int32Array): number;
  /** Returns the number of the block. `sentenceStarts` are token offsets in `ids`. */
  addBlock(
    document: number,
    title: string,
    text: string,
    ids: Int32Array,
    sentenceStarts: ArrayLike<number>,
  ): number;
  /** A sentence of X: tokens [start, start + length) of the body of block `block`. */
  addSentence(block: number, start: number, length: number, spans: ArrayLike<number>): void;
  /** A sentence of an X that is not made from the blocks. Either all sentences of X are added this way, or none. */
  addExternalSentence(ids: Int32Array, spans: ArrayLike<number>): void;
  /** Syncs everything added so far to the disk; `continueCorpus` resumes there. */
  checkpoint(): CorpusState;
  /** Writes what is buffered, and the manifest. */
  finish(): CorpusCounts;
  /** Closes the files without finishing, after an error. */
  abandon(): void;
}

/** Starts a corpus in the empty folder `dir`. Holds one buffer for each file, however large the corpus. */
export function writeCorpus(dir: string, tokenizer: WordPiece, tagger?: string): CorpusWriter {
  const files = {} as Record<FileName, Appender>;
  for (const name of FILES) files[name] = appender(openSync(join(dir, name), 'wx+'), createHash('sha256'), 0);
  files['vocab.txt'].bytes(Buffer.from(tokenizer.vocabulary.map((piece) => `${piece}\n`).join('')));
  const counts: CorpusCounts = { documents: 0, blocks: 0, tokens: 0, sentences: 0, spans: 0 };
  const state = { counts, textBytes: 0, starts: 0, foreignTokens: 0, fromBlocks: true };
  return writerOver(dir, tokenizer, tagger, files, state);
}

/**
 * Resumes the corpus in `dir` from a `checkpoint`; what was written later is truncated. Returns undefined, with all
 * files closed, if a file differs from the checkpoint. Reads every file once, to compare it and to resume its hash.
 */
export function continueCorpus(
  dir: string,
  tokenizer: WordPiece,
  state: CorpusState,
  tagger?: string,
): CorpusWriter | undefined {
  const files = {} as Record<FileName, Appender>;
  for (const name of FILES) {
    const file = reopen(join(dir, name), state.files[name]);
    if (!file) {
      for (const opened of Object.values(files)) opened.abandon();
      return undefined;
    }
    files[name] = file;
  }
  return writerOver(dir, tokenizer, tagger, files, state);
}

function writerOver(
  dir: string,
  tokenizer: WordPiece,
  tagger: string | undefined,
  files: Record<FileName, Appender>,
  state: Omit<CorpusState, 'files'>,
): CorpusWriter {
  const idBytes = tokenizer.size <= 0x10000 ? 2 : 4;
  const counts = { ...state.counts };
  let { textBytes, starts, foreignTokens: externalTokens, fromBlocks } = state;
  let lastBlockStart = 0; // first token of the last block
  const blockRecord = Buffer.alloc(BLOCK_BYTES);
  const sentenceRecord = Buffer.alloc(SENTENCE_BYTES);

  /** The record where a block starts, which is also where the block before ends. */
  function addBlockRecord(hash: bigint, document: number): void {
    writeU64(blockRecord, textBytes, BLOCK.text);
    writeU64(blockRecord, counts.tokens, BLOCK.tokens);
    writeU64(blockRecord, starts, BLOCK.starts);
    blockRecord.writeBigUInt64LE(hash, BLOCK.hash);
    blockRecord.writeUInt32LE(document, BLOCK.document);
    files['blocks.idx'].bytes(blockRecord);
  }

  /** The record where a sentence starts, which is also where the spans of the sentence before end. */
  function addSentenceRecord(tokensAt: number, length: number, block: number): void {
    writeU64(sentenceRecord, tokensAt, SENTENCE.tokens);
    writeU64(sentenceRecord, counts.spans * 2, SENTENCE.spans);
    sentenceRecord.writeUInt32LE(length, SENTENCE.length);
    sentenceRecord.writeInt32LE(block, SENTENCE.block);
    files['sentences.idx'].bytes(sentenceRecord);
  }

  function addSpans(spans: ArrayLike<number>): void {
    for (let i = 0; i < spans.length; i++) files['spans.bin'].u16(spans[i]);
    counts.spans += spans.length / 2;
    counts.sentences++;
  }

  return {
    addDocument(id, title, titleIds) {
      const record = files['documents.bin']; // fields in the order of `DOCUMENT`
      files['documents.idx'].u64(record.length);
      const idText = Buffer.from(id);
      const titleText = Buffer.from(title);
      record.u32(idText.length);
      record.u32(titleText.length);
      record.bytes(idText);
      record.bytes(titleText);
      record.ids(titleIds, idBytes);
      return counts.documents++;
    },
    addBlock(document, title, text, ids, sentenceStarts) {
      addBlockRecord(blockHash(title, text), document);
      const bytes = Buffer.from(text);
      files['text.bin'].bytes(bytes);
      files['tokens.bin'].ids(ids, idBytes);
      for (let i = 0; i < sentenceStarts.length; i++) files['starts.bin'].u16(sentenceStarts[i]);
      lastBlockStart = counts.tokens;
      textBytes += bytes.length;
      counts.tokens += ids.length;
      starts += sentenceStarts.length;
      return counts.blocks++;
    },
    addSentence(block, start, length, spans) {
      if (block !== counts.blocks - 1) throw new Error('a sentence of X must follow its block directly');
      addSentenceRecord(lastBlockStart + start, length, block);
      addSpans(spans);
    },
    addExternalSentence(ids, spans) {
      fromBlocks = false;
      files['sentence-tokens.bin'].ids(ids, idBytes);
      addSentenceRecord(externalTokens, ids.length, -1);
      addSpans(spans);
      externalTokens += ids.length;
    },
    checkpoint() {
      const digests = {} as Record<FileName, FileDigest>;
      for (const name of FILES) digests[name] = files[name].sync();
      return {
        counts: { ...counts },
        textBytes,
        starts,
        foreignTokens: externalTokens,
        fromBlocks,
        files: digests,
      };
    },
    finish() {
      files['documents.idx'].u64(files['documents.bin'].length);
      addBlockRecord(0n, 0);
      addSentenceRecord(fromBlocks ? counts.tokens : externalTokens, 0, 0);
      const digests = {} as Record<FileName, FileDigest>;
      for (const name of FILES) digests[name] = files[name].close();
      const manifest: Manifest = {
        format: FORMAT,
        version: VERSION,
        ...counts,
        sentencesFromBlocks: fromBlocks,
        tagger, // JSON omits it if undefined
        idBytes,
        lowercase: tokenizer.lowercase,
        tokenizer: unusualSettings(tokenizer), // also omitted
        files: digests,
      };
      writeFileAtomic(join(dir, 'manifest.json'), `${JSON.stringify(manifest, null, 2)}\n`);
      return { ...counts };
    },
    abandon() {
      for (const name of FILES) files[name].abandon();
    },
  };
}

/** A file that is written at its end through a buffer, and hashed as it is written. */
interface Appender {
  length: number;
  u16(value: number): void;
  u32(value: number): void;
  u64(value: number): void;
  bytes(bytes: Uint8Array): void;
  ids(ids: Int32Array, idBytes: 2 | 4): void;
  /** Syncs everything to the disk. */
  sync(): FileDigest;
  close(): FileDigest;
  abandon(): void;
}

/** The file as it was at the checkpoint, without what came after; undefined if it differs. */
function reopen(path: string, { bytes, sha256 }: FileDigest): Appender | undefined {
  let fd: number;
  try {
    fd = openSync(path, 'r+');
  } catch {
    return undefined;
  }
  const hash = createHash('sha256');
  if (fstatSync(fd).size >= bytes) {
    const piece = Buffer.allocUnsafe(1 << 20);
    for (let at = 0; at < bytes; ) {
      const some = piece.subarray(0, Math.min(piece.length, bytes - at));
      readFully(fd, some, at);
      hash.update(some);
      at += some.length;
    }
    if (hash.copy().digest('hex') === sha256) {
      ftruncateSync(fd, bytes);
      return appender(fd, hash, bytes);
    }
  }
  closeSync(fd);
  return undefined;
}

/** @param length bytes already in the file; `hash` has read them */
function appender(fd: number, hash: Hash, length: number): Appender {
  const buffer = Buffer.allocUnsafe(1 << 18);
  let used = 0;
  let written = length;
  let open = true;

  function write(bytes: Uint8Array): void {
    hash.update(bytes);
    writeFully(fd, bytes, written);
    written += bytes.length;
  }
  function flush(): void {
    write(buffer.subarray(0, used));
    used = 0;
  }
  function room(bytes: number): number {
    if (used + bytes > buffer.length) flush();
    const at = used;
    used += bytes;
    self.length += bytes;
    return at;
  }

  const self: Appender = {
    length,
    u16(value) {
      buffer.writeUInt16LE(value, room(2));
    },
    u32(value) {
      buffer.writeUInt32LE(value, room(4));
    },
    u64(value) {
      writeU64(buffer, value, room(OFFSET_BYTES));
    },
    bytes(bytes) {
      if (bytes.length > buffer.length) {
        flush();
        write(bytes);
        self.length += bytes.length;
      } else {
        buffer.set(bytes, room(bytes.length));
      }
    },
    ids(ids, idBytes) {
      for (let i = 0; i < ids.length; i++) {
        if (idBytes === 2) self.u16(ids[i]);
        else self.u32(ids[i]);
      }
    },
    sync() {
      flush();
      fsyncSync(fd);
      return { bytes: self.length, sha256: hash.copy().digest('hex') };
    },
    close() {
      const digest = self.sync();
      closeSync(fd);
      open = false;
      return digest;
    },
    abandon() {
      if (open) closeSync(fd);
      open = false;
    },
  };
  return self;
}
