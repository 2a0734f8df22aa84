import { createHash } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { UserError } from '../../system/errors.ts';
import { readJson } from '../../system/files.ts';
import { changedFile } from '../../system/verified.ts';
import { loadOwnWordPiece, type WordPiece } from '../../tokenizer/wordpiece.ts';
import { damaged, type FileReader, fileReader, integersOf, REMEDY } from './file-reader.ts';
import {
  BLOCK,
  BLOCK_BYTES,
  DOCUMENT,
  FILES,
  type FileName,
  FORMAT,
  MANIFEST,
  type Manifest,
  OFFSET_BYTES,
  POSITION_BYTES,
  SENTENCE,
  SENTENCE_BYTES,
  VERSION,
} from './layout.ts';

// A prepared corpus, open for reading: blocks (Z) with their titles, and the sentences with salient spans (X). A record
// is read by its position, in constant time and memory whatever the size of the corpus; the system's page cache keeps
// what is read often. layout.ts describes the files, writer.ts writes them.

/** Z, open for reading. */
export interface Corpus {
  dir: string;
  blocks: number;
  /** SHA-256 of the manifest, which lists the hash of every file. An index and weights name the corpus they belong to by it. */
  sha256: string;
  tokenizer: WordPiece;
  title(block: number): string;
  text(block: number): string;
  documentId(block: number): string;
  titleIds(block: number): Int32Array;
  bodyIds(block: number): Int32Array;
  /** Number of tokens in the body. Does not read them. */
  bodyLength(block: number): number;
  /** Token offsets in the body at which sentences start, ascending; the first is 0. */
  sentenceStarts(block: number): Int32Array;
  /** The identity of the block: see `blockHash`. */
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

/** Opens a prepared corpus. Checks every file against its length and SHA-256 in the manifest; a `UserError` names a file that differs. */
export function openCorpus(dir: string): Corpus {
  const { manifest, sha256 } = readManifest(dir);
  for (const name of FILES) fileReader(join(dir, name), manifest.files[name].bytes).close();
  const changed = changedFile(dir, manifest.files);
  if (changed) throw damaged(join(dir, changed), 'has changed since it was written');
  const tokenizer = loadOwnWordPiece(join(dir, 'vocab.txt'), manifest.tokenizer ?? manifest.lowercase);
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
    throw new UserError(
      `${path}: has format version ${version}, but this program reads ${VERSION}; ${REMEDY}`,
    );
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
    'documents.idx': (manifest.documents + 1) * OFFSET_BYTES,
    'blocks.idx': (manifest.blocks + 1) * BLOCK_BYTES,
    'tokens.bin': manifest.tokens * manifest.idBytes,
    'sentences.idx': (manifest.sentences + 1) * SENTENCE_BYTES,
    'spans.bin': manifest.spans * 2 * POSITION_BYTES,
  };
  for (const [name, bytes] of Object.entries(expected)) {
    if (manifest.files[name as FileName].bytes !== bytes) {
      throw new UserError(`${path}: the counts do not agree with the length of ${name}; ${REMEDY}`);
    }
  }
  if (manifest.sentencesFromBlocks && manifest.files['sentence-tokens.bin'].bytes > 0) {
    throw new UserError(
      `${path}: sentence-tokens.bin must be empty when sentencesFromBlocks is true; ${REMEDY}`,
    );
  }
  return { manifest, sha256: createHash('sha256').update(readFileSync(path)).digest('hex') };
}

/** SHA-256 (`Corpus.sha256`) and number of documents of a prepared corpus, from its manifest alone; undefined if it has none. */
export function corpusSummary(dir: string): { sha256: string; documents: number } | undefined {
  try {
    const bytes = readFileSync(join(dir, 'manifest.json'));
    const { documents } = JSON.parse(bytes.toString());
    if (typeof documents !== 'number') return undefined;
    return { sha256: createHash('sha256').update(bytes).digest('hex'), documents };
  } catch {
    return undefined;
  }
}

/** Number of document records that `documentIds` reads at once. */
const DOCUMENTS_AT_ONCE = 1 << 12;

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
        throw damaged(file.path, `has token ${ids[i]}, which is not in the vocabulary`);
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
  let lastDocument: StoredDocument | undefined; // the blocks of a document follow one another

  function documentOf(block: number): StoredDocument {
    const number = blockIndex.u32(blockRecord(block) + BLOCK.document);
    if (lastDocument?.number === number) return lastDocument;
    if (number >= manifest.documents)
      throw damaged(blockIndex.path, `points to document ${number}, which does not exist`);
    const start = documentIndex.u64(number * OFFSET_BYTES);
    const end = documentIndex.u64((number + 1) * OFFSET_BYTES);
    const idAt = start + DOCUMENT.id;
    const titleAt = idAt + documents.u32(start + DOCUMENT.idBytes);
    const idsAt = titleAt + documents.u32(start + DOCUMENT.titleBytes);
    if (idsAt > end) throw damaged(documents.path, `has a broken record of document ${number}`);
    lastDocument = {
      number,
      id: documents.bytes(idAt, titleAt).toString('utf8'),
      title: documents.bytes(titleAt, idsAt).toString('utf8'),
      titleIds: checkIds(documents, integersOf(documents.bytes(idsAt, end), idBytes)),
    };
    return lastDocument;
  }

  function* documentIds(): Generator<string> {
    for (let first = 0; first < manifest.documents; first += DOCUMENTS_AT_ONCE) {
      const end = Math.min(manifest.documents, first + DOCUMENTS_AT_ONCE);
      const from = documentIndex.u64(first * OFFSET_BYTES);
      const records = documents.bytes(from, documentIndex.u64(end * OFFSET_BYTES));
      for (let d = first; d < end; d++) {
        const at = documentIndex.u64(d * OFFSET_BYTES) - from;
        const idAt = at + DOCUMENT.id;
        yield records.toString('utf8', idAt, idAt + records.readUInt32LE(at + DOCUMENT.idBytes));
      }
    }
  }

  function blockRecord(block: number): number {
    if (!(block >= 0 && block < manifest.blocks)) {
      throw new RangeError(`block ${block} of ${manifest.blocks}`);
    }
    return block * BLOCK_BYTES;
  }

  function sentenceRecord(i: number): number {
    if (!(i >= 0 && i < manifest.sentences)) throw new RangeError(`sentence ${i} of ${manifest.sentences}`);
    return i * SENTENCE_BYTES;
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
      const at = blockRecord(block) + BLOCK.text;
      return text.bytes(blockIndex.u64(at), blockIndex.u64(at + BLOCK_BYTES)).toString('utf8');
    },
    bodyIds(block) {
      const at = blockRecord(block) + BLOCK.tokens;
      return checkIds(tokens, tokens.integers(blockIndex.u64(at), blockIndex.u64(at + BLOCK_BYTES), idBytes));
    },
    bodyLength(block) {
      const at = blockRecord(block) + BLOCK.tokens;
      const length = blockIndex.u64(at + BLOCK_BYTES) - blockIndex.u64(at);
      if (length < 0) throw damaged(blockIndex.path, `gives block ${block} a negative length`);
      return length;
    },
    sentenceStarts(block) {
      const at = blockRecord(block) + BLOCK.starts;
      return starts.integers(blockIndex.u64(at), blockIndex.u64(at + BLOCK_BYTES), POSITION_BYTES);
    },
    hash: (block) => blockIndex.bigU64(blockRecord(block) + BLOCK.hash),
    sentences: {
      count: manifest.sentences,
      ids(i) {
        const at = sentenceRecord(i);
        const first = sentenceIndex.u64(at + SENTENCE.tokens);
        const end = first + sentenceIndex.u32(at + SENTENCE.length);
        return checkIds(sentenceTokens, sentenceTokens.integers(first, end, idBytes));
      },
      spans(i) {
        const at = sentenceRecord(i) + SENTENCE.spans;
        return spans.integers(sentenceIndex.u64(at), sentenceIndex.u64(at + SENTENCE_BYTES), POSITION_BYTES);
      },
      source: (i) => sentenceIndex.u32(sentenceRecord(i) + SENTENCE.block) | 0,
    },
    close,
  };
}
