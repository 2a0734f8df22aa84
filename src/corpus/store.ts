/**
 * The prepared corpus on disk: blocks (Z) with their titles, and the sentences with salient spans (X). Readers fetch
 * a record by its position from open files, in constant time and memory whatever the size of the corpus; the
 * system's page cache does the keeping. Numbers are little-endian; offsets have 64 bits.
 *
 * manifest.json   counts, tokenizer, length and SHA-256 of every other file; written last
 * vocab.txt       the vocabulary, one piece a line
 * documents.bin   for each document: byte lengths of id and title (u32 each), id, title, title token ids
 * documents.idx   u64 offsets into documents.bin, one more than documents
 * blocks.idx      40 bytes a block: see BLOCK_RECORD; one record more than blocks
 * text.bin        the texts of the blocks, UTF-8, end to end
 * tokens.bin      the body token ids of the blocks, end to end, u16 or u32
 * starts.bin      the token offsets in its body at which each sentence of a block starts, u16
 * sentences.idx   24 bytes a sentence of X: see SENTENCE_RECORD; one record more than sentences
 * sentence-tokens.bin   token ids of X where it is not made from the blocks (otherwise X points into tokens.bin)
 * spans.bin       token positions [start, end) of the spans of each sentence, u16 pairs
 */
import { createHash, type Hash } from 'node:crypto';
import { closeSync, fstatSync, fsyncSync, ftruncateSync, openSync, readFileSync, readSync } from 'node:fs';
import { join } from 'node:path';
import * as z from 'zod';
import { errorCode, UserError } from '../errors.ts';
import { explainRead, type FileSeal, readFully, readJson, writeFileAtomic, writeFully } from '../files.ts';
import { loadWordPiece, type WordPiece } from '../tokenizer/wordpiece.ts';
import { changedFile } from '../verified.ts';

/** Z, open for reading. */
export interface Corpus {
  dir: string;
  blocks: number;
  /** SHA-256 of the manifest, which lists the hash of every file: ties an index and weights to this very corpus. */
  sha256: string;
  tokenizer: WordPiece;
  title(block: number): string;
  text(block: number): string;
  documentId(block: number): string;
  titleIds(block: number): Int32Array;
  bodyIds(block: number): Int32Array;
  /** Tokens of the body, without reading them. */
  bodyLength(block: number): number;
  /** Token offsets in the body at which sentences start, ascending; the first is 0. */
  sentenceStarts(block: number): Int32Array;
  /** First 8 bytes of SHA-1 over title + " <sep> " + text, the released code's identity of a block. */
  hash(block: number): bigint;
  documents: number;
  /** The ids of all documents, in order. */
  documentIds(): Generator<string>;
  sentences: Sentences;
  close(): void;
}

/** X: sentences that hold at least one salient span. */
export interface Sentences {
  count: number;
  ids(i: number): Int32Array;
  /** Pairs [start, end) of token positions in the sentence, one after the other. */
  spans(i: number): Int32Array;
  /** The block that the sentence came from; -1 when X was not made from Z. */
  source(i: number): number;
}

/** How far a corpus reaches; the manifest holds it. */
export interface CorpusCounts {
  documents: number;
  blocks: number;
  /** Of the bodies of all blocks. */
  tokens: number;
  sentences: number;
  spans: number;
}

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
  /** A sentence of an X that is not made from the blocks. All of X comes by the one way or by the other. */
  addForeignSentence(ids: Int32Array, spans: ArrayLike<number>): void;
  /** Brings all that was added to the disk; `continueCorpus` goes on from there. */
  checkpoint(): CorpusState;
  /** Writes what is left and the manifest. */
  finish(): CorpusCounts;
  /** Closes the files without finishing: after an error. */
  abandon(): void;
}

const FORMAT = 'realm corpus';
const VERSION = 1;
const REMEDY = 'prepare the corpus again';

/** Offsets into text.bin (bytes), tokens.bin (tokens), starts.bin (entries), u64 each; hash u64; document u32; 4 bytes unused. */
const BLOCK_RECORD = 40;
/** Offsets into the tokens (tokens) and spans.bin (entries), u64 each; tokens u32; block i32. */
const SENTENCE_RECORD = 24;

const FILES = [
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
type FileName = (typeof FILES)[number];

const count = z.number().int().nonnegative();
const MANIFEST = z.object({
  format: z.literal(FORMAT),
  version: z.literal(VERSION),
  documents: count,
  blocks: count,
  tokens: count,
  sentences: count,
  spans: count,
  /** Whether X points into the blocks. */
  sentencesFromBlocks: z.boolean(),
  /** The model that found the spans (see `taggerIdentity`); absent where the default's rules did. */
  tagger: z.string().optional(),
  idBytes: z.union([z.literal(2), z.literal(4)]),
  lowercase: z.boolean(),
  files: z.record(z.enum(FILES), z.object({ bytes: count, sha256: z.string() })),
});
type Manifest = z.infer<typeof MANIFEST>;

/** A corpus that is not finished. */
export const corpusState = z.strictObject({
  counts: z.strictObject({ documents: count, blocks: count, tokens: count, sentences: count, spans: count }),
  textBytes: count,
  starts: count,
  foreignTokens: count,
  fromBlocks: z.boolean(),
  files: z.record(z.enum(FILES), z.object({ bytes: count, sha256: z.string() })),
});
export type CorpusState = z.infer<typeof corpusState>;

/** The identity of a block: see `Corpus.hash`. */
export function blockHash(title: string, text: string): bigint {
  return createHash('sha1').update(`${title} <sep> ${text}`).digest().readBigUInt64BE(0);
}

/** Starts a corpus in the folder `dir`, which stands and is empty. Holds one buffer a file, however long the corpus. */
export function writeCorpus(dir: string, tokenizer: WordPiece, tagger?: string): CorpusWriter {
  const files = {} as Record<FileName, Appender>;
  for (const name of FILES) files[name] = appender(openSync(join(dir, name), 'wx+'), createHash('sha256'), 0);
  files['vocab.txt'].bytes(Buffer.from(tokenizer.vocabulary.map((piece) => `${piece}\n`).join('')));
  const counts: CorpusCounts = { documents: 0, blocks: 0, tokens: 0, sentences: 0, spans: 0 };
  const state = { counts, textBytes: 0, starts: 0, foreignTokens: 0, fromBlocks: true };
  return writerOver(dir, tokenizer, tagger, files, state);
}

/**
 * Goes on with the corpus in `dir` from a `checkpoint`; what was written after it is cut off. Undefined, and all files
 * closed, where a file does not hold what it held then. Reads all of them: hashes go on from there.
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
  let { textBytes, starts, foreignTokens, fromBlocks } = state;
  let blockAt = 0; // first token of the last block

  function blockRecord(hash: bigint, document: number): void {
    const index = files['blocks.idx'];
    index.u64(textBytes);
    index.u64(counts.tokens);
    index.u64(starts);
    index.bigU64(hash);
    index.u32(document);
    index.u32(0);
  }

  function sentenceRecord(at: number, length: number, block: number, spans: ArrayLike<number>): void {
    const index = files['sentences.idx'];
    index.u64(at);
    index.u64(counts.spans * 2);
    index.u32(length);
    index.u32(block >>> 0);
    for (let i = 0; i < spans.length; i++) files['spans.bin'].u16(spans[i]);
    counts.spans += spans.length / 2;
    counts.sentences++;
  }

  return {
    addDocument(id, title, titleIds) {
      const record = files['documents.bin'];
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
      blockRecord(blockHash(title, text), document);
      const bytes = Buffer.from(text);
      files['text.bin'].bytes(bytes);
      files['tokens.bin'].ids(ids, idBytes);
      for (let i = 0; i < sentenceStarts.length; i++) files['starts.bin'].u16(sentenceStarts[i]);
      blockAt = counts.tokens;
      textBytes += bytes.length;
      counts.tokens += ids.length;
      starts += sentenceStarts.length;
      return counts.blocks++;
    },
    addSentence(block, start, length, spans) {
      if (block !== counts.blocks - 1) throw new Error('a sentence of X comes right after its block');
      sentenceRecord(blockAt + start, length, block, spans);
    },
    addForeignSentence(ids, spans) {
      fromBlocks = false;
      files['sentence-tokens.bin'].ids(ids, idBytes);
      sentenceRecord(foreignTokens, ids.length, -1, spans);
      foreignTokens += ids.length;
    },
    checkpoint() {
      const seals = {} as Record<FileName, FileSeal>;
      for (const name of FILES) seals[name] = files[name].sync();
      return { counts: { ...counts }, textBytes, starts, foreignTokens, fromBlocks, files: seals };
    },
    finish() {
      files['documents.idx'].u64(files['documents.bin'].length);
      blockRecord(0n, 0);
      files['sentences.idx'].u64(fromBlocks ? counts.tokens : foreignTokens);
      files['sentences.idx'].u64(counts.spans * 2);
      files['sentences.idx'].u64(0);
      const seals = {} as Record<FileName, FileSeal>;
      for (const name of FILES) seals[name] = files[name].close();
      const manifest: Manifest = {
        format: FORMAT,
        version: VERSION,
        ...counts,
        sentencesFromBlocks: fromBlocks,
        tagger, // left out of the JSON where it is undefined
        idBytes,
        lowercase: tokenizer.lowercase,
        files: seals,
      };
      writeFileAtomic(join(dir, 'manifest.json'), `${JSON.stringify(manifest, null, 2)}\n`);
      return { ...counts };
    },
    abandon() {
      for (const name of FILES) files[name].abandon();
    },
  };
}

/** A file that grows at its end, through a buffer, hashed on the way. */
interface Appender {
  length: number;
  u16(value: number): void;
  u32(value: number): void;
  u64(value: number): void;
  bigU64(value: bigint): void;
  bytes(bytes: Uint8Array): void;
  ids(ids: Int32Array, idBytes: 2 | 4): void;
  /** Brings everything to the disk. */
  sync(): FileSeal;
  close(): FileSeal;
  abandon(): void;
}

/** The file as it was when it was sealed, without what came after; undefined where it is not as it was. */
function reopen(path: string, { bytes, sha256 }: FileSeal): Appender | undefined {
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

/** @param length bytes that stand in the file; `hash` has seen them */
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
      const at = room(8);
      buffer.writeUInt32LE(value % 2 ** 32, at);
      buffer.writeUInt32LE(Math.floor(value / 2 ** 32), at + 4);
    },
    bigU64(value) {
      buffer.writeBigUInt64LE(value, room(8));
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
      const seal = self.sync();
      closeSync(fd);
      open = false;
      return seal;
    },
    abandon() {
      if (open) closeSync(fd);
      open = false;
    },
  };
  return self;
}

/** Opens a prepared corpus. Checks the manifest, and every file against its length and SHA-256 there; a `UserError` names the one that differs. */
export function openCorpus(dir: string): Corpus {
  const { manifest, sha256 } = readManifest(dir);
  for (const name of FILES) fileReader(join(dir, name), manifest.files[name].bytes).close();
  const changed = changedFile(dir, manifest.files);
  if (changed) throw damaged(join(dir, changed), 'has other content than when it was written');
  const tokenizer = loadWordPiece(join(dir, 'vocab.txt'), manifest.lowercase);
  const opened: FileReader[] = [];
  function open(name: FileName): FileReader {
    const file = fileReader(join(dir, name), manifest.files[name].bytes);
    opened.push(file);
    return file;
  }
  try {
    return corpusOver(dir, manifest, sha256, tokenizer, open, () => {
      for (const file of opened) file.close();
    });
  } catch (error) {
    for (const file of opened) file.close();
    throw error;
  }
}

function readManifest(dir: string): { manifest: Manifest; sha256: string } {
  const path = join(dir, 'manifest.json');
  const json = readJson(path, 'prepared corpus', REMEDY);
  const version = (json as { version?: unknown } | null)?.version;
  if ((json as { format?: unknown } | null)?.format === FORMAT && version !== VERSION) {
    throw new UserError(`${path}: has format version ${version}, this program reads ${VERSION}; ${REMEDY}`);
  }
  const parsed = MANIFEST.safeParse(json);
  if (!parsed.success) {
    const { path: field, message } = parsed.error.issues[0];
    throw new UserError(
      `${path}: is not the manifest of a prepared corpus (${field.join('.')}: ${message}); ${REMEDY}`,
    );
  }
  const manifest = parsed.data;
  const expected: Partial<Record<FileName, number>> = {
    'documents.idx': (manifest.documents + 1) * 8,
    'blocks.idx': (manifest.blocks + 1) * BLOCK_RECORD,
    'tokens.bin': manifest.tokens * manifest.idBytes,
    'sentences.idx': (manifest.sentences + 1) * SENTENCE_RECORD,
    'spans.bin': manifest.spans * 4,
  };
  for (const [name, bytes] of Object.entries(expected)) {
    if (manifest.files[name as FileName].bytes !== bytes) {
      throw new UserError(`${path}: its counts do not agree with the length of ${name}; ${REMEDY}`);
    }
  }
  if (manifest.sentencesFromBlocks && manifest.files['sentence-tokens.bin'].bytes > 0) {
    throw new UserError(
      `${path}: says of sentence-tokens.bin both that it is in use and that it is not; ${REMEDY}`,
    );
  }
  return { manifest, sha256: createHash('sha256').update(readFileSync(path)).digest('hex') };
}

function damaged(path: string, what: string): UserError {
  return new UserError(`${path}: ${what}; the corpus is damaged, ${REMEDY}`);
}

function corpusOver(
  dir: string,
  manifest: Manifest,
  sha256: string,
  tokenizer: WordPiece,
  open: (name: FileName) => FileReader,
  close: () => void,
): Corpus {
  const { idBytes } = manifest;
  const documentIndex = open('documents.idx');
  const documents = open('documents.bin');
  const blockIndex = open('blocks.idx');
  const text = open('text.bin');
  const tokens = open('tokens.bin');
  const starts = open('starts.bin');
  const sentenceIndex = open('sentences.idx');
  const sentenceTokens = manifest.sentencesFromBlocks ? tokens : open('sentence-tokens.bin');
  const spans = open('spans.bin');

  function checkIds(file: FileReader, ids: Int32Array): Int32Array {
    for (let i = 0; i < ids.length; i++) {
      if (ids[i] < 0 || ids[i] >= tokenizer.size) {
        throw damaged(file.path, `holds token ${ids[i]}, not in the vocabulary`);
      }
    }
    return ids;
  }

  interface StoredDocument {
    number: number;
    id: string;
    title: string;
    titleIds: Int32Array;
  }
  let lastDocument: StoredDocument | undefined; // blocks of a document are neighbours

  function documentOf(block: number): StoredDocument {
    const number = blockIndex.u32(recordOf(block) + 32);
    if (lastDocument?.number === number) return lastDocument;
    if (number >= manifest.documents)
      throw damaged(blockIndex.path, `points to document ${number}, not there`);
    const start = documentIndex.u64(number * 8);
    const end = documentIndex.u64(number * 8 + 8);
    const titleAt = start + 8 + documents.u32(start);
    const idsAt = titleAt + documents.u32(start + 4);
    if (idsAt > end) throw damaged(documents.path, `holds a broken record of document ${number}`);
    lastDocument = {
      number,
      id: documents.bytes(start + 8, titleAt).toString('utf8'),
      title: documents.bytes(titleAt, idsAt).toString('utf8'),
      titleIds: checkIds(documents, integersOf(documents.bytes(idsAt, end), idBytes)),
    };
    return lastDocument;
  }

  /** So many ids are read at once. */
  const IDS = 1 << 12;

  function* documentIds(): Generator<string> {
    for (let first = 0; first < manifest.documents; first += IDS) {
      const end = Math.min(manifest.documents, first + IDS);
      const from = documentIndex.u64(first * 8);
      const records = documents.bytes(from, documentIndex.u64(end * 8));
      for (let d = first; d < end; d++) {
        const at = documentIndex.u64(d * 8) - from;
        yield records.toString('utf8', at + 8, at + 8 + records.readUInt32LE(at));
      }
    }
  }

  function recordOf(block: number): number {
    if (!(block >= 0 && block < manifest.blocks)) {
      throw new RangeError(`block ${block} of ${manifest.blocks}`);
    }
    return block * BLOCK_RECORD;
  }

  function sentenceRecord(i: number): number {
    if (!(i >= 0 && i < manifest.sentences)) throw new RangeError(`sentence ${i} of ${manifest.sentences}`);
    return i * SENTENCE_RECORD;
  }

  return {
    dir,
    blocks: manifest.blocks,
    documents: manifest.documents,
    documentIds,
    sha256,
    tokenizer,
    title: (block) => documentOf(block).title,
    documentId: (block) => documentOf(block).id,
    titleIds: (block) => documentOf(block).titleIds.slice(),
    text(block) {
      const at = recordOf(block);
      return text.bytes(blockIndex.u64(at), blockIndex.u64(at + BLOCK_RECORD)).toString('utf8');
    },
    bodyIds(block) {
      const at = recordOf(block) + 8;
      return checkIds(
        tokens,
        tokens.integers(blockIndex.u64(at), blockIndex.u64(at + BLOCK_RECORD), idBytes),
      );
    },
    bodyLength(block) {
      const at = recordOf(block) + 8;
      const length = blockIndex.u64(at + BLOCK_RECORD) - blockIndex.u64(at);
      if (length < 0) throw damaged(blockIndex.path, `gives block ${block} a negative length`);
      return length;
    },
    sentenceStarts(block) {
      const at = recordOf(block) + 16;
      return starts.integers(blockIndex.u64(at), blockIndex.u64(at + BLOCK_RECORD), 2);
    },
    hash: (block) => blockIndex.bigU64(recordOf(block) + 24),
    sentences: {
      count: manifest.sentences,
      ids(i) {
        const at = sentenceRecord(i);
        const first = sentenceIndex.u64(at);
        const end = first + sentenceIndex.u32(at + 16);
        return checkIds(sentenceTokens, sentenceTokens.integers(first, end, idBytes));
      },
      spans(i) {
        const at = sentenceRecord(i) + 8;
        return spans.integers(sentenceIndex.u64(at), sentenceIndex.u64(at + SENTENCE_RECORD), 2);
      },
      source: (i) => sentenceIndex.u32(sentenceRecord(i) + 20) | 0,
    },
    close,
  };
}

/** A file read by position. Numbers come through a window, so that neighbours cost one system call together. */
interface FileReader {
  path: string;
  u32(at: number): number;
  u64(at: number): number;
  bigU64(at: number): bigint;
  bytes(start: number, end: number): Buffer;
  /** Unsigned numbers [first, end) of `width` bytes each. */
  integers(first: number, end: number, width: 2 | 4): Int32Array;
  close(): void;
}

function fileReader(path: string, size: number): FileReader {
  let fd: number;
  try {
    fd = openSync(path, 'r');
  } catch (error) {
    if (errorCode(error) === 'ENOENT') throw damaged(path, 'is missing');
    throw explainRead(path, 'a file of the corpus', error, REMEDY);
  }
  const found = fstatSync(fd);
  if (!found.isFile() || found.size !== size) {
    closeSync(fd);
    throw damaged(path, found.isFile() ? `is ${found.size} bytes long, not ${size}` : 'is not a file');
  }
  const window = Buffer.alloc(Math.min(4096, size));
  let windowAt = 0;
  let windowEnd = 0;

  function fill(buffer: Buffer, at: number): void {
    for (let done = 0; done < buffer.length; ) {
      const n = readSync(fd, buffer, done, buffer.length - done, at + done);
      if (n === 0) throw damaged(path, `ends before byte ${at + buffer.length}`);
      done += n;
    }
  }

  /** Where bytes [at, at + width) lie in the window. */
  function locate(at: number, width: number): number {
    if (at + width > size) throw damaged(path, `is pointed to at byte ${at}, beyond its end`);
    if (at < windowAt || at + width > windowEnd) {
      const from = Math.min(at - (at % 8), size - window.length);
      fill(window, from);
      windowAt = from;
      windowEnd = from + window.length;
    }
    return at - windowAt;
  }

  function bytes(start: number, end: number): Buffer {
    if (!(start >= 0 && start <= end && end <= size)) {
      throw damaged(path, `is pointed to at bytes ${start} to ${end}, outside it`);
    }
    const buffer = Buffer.allocUnsafe(end - start);
    fill(buffer, start);
    return buffer;
  }

  return {
    path,
    u32: (at) => window.readUInt32LE(locate(at, 4)),
    u64(at) {
      const i = locate(at, 8);
      return window.readUInt32LE(i + 4) * 2 ** 32 + window.readUInt32LE(i);
    },
    bigU64: (at) => window.readBigUInt64LE(locate(at, 8)),
    bytes,
    integers: (first, end, width) => integersOf(bytes(first * width, end * width), width),
    close: () => closeSync(fd),
  };
}

function integersOf(bytes: Buffer, width: 2 | 4): Int32Array {
  const integers = new Int32Array(Math.floor(bytes.length / width));
  for (let i = 0; i < integers.length; i++) {
    integers[i] = width === 2 ? bytes.readUInt16LE(i * 2) : bytes.readInt32LE(i * 4);
  }
  return integers;
}
