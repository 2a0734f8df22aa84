import { closeSync, openSync, readSync } from 'node:fs';
import { createRequire } from 'node:module';
import { UserError } from '../system/errors.ts';

// bzip2 by seek-bzip, which checks the checksum of every block and of every stream, and knows files of several streams, as
// Wikimedia's "multistream" dumps and pbzip2 write them. Its decode() takes a whole file; here its decoder is driven block by
// block, so that memory is that of one block (900 kB packed).
// Other libraries: unbzip2-stream is slower and fails with a TypeError for a damaged file; @foxglove/wasm-bz2 returns the first
// stream only (findings/wasm-bz2-returns-the-first-stream.sh). Node.js has no bzip2.

interface Decoder {
  /** Decodes the next block of a stream; false at the end of the stream. */
  _init_block(): boolean;
  /** Writes the block that was decoded. */
  _read_bunzip(): void;
  /** Starts with the header of the next stream. */
  _start_bunzip(input: Input, output: Output): void;
  reader: { read(bits: number): number };
  streamCRC: number;
}
interface Input {
  readByte(): number;
  read(buffer: Uint8Array, offset: number, length: number): number;
}
interface Output {
  writeByte(byte: number): void;
}

// It has no types.
const Bunzip = createRequire(import.meta.url)('seek-bzip') as new (input: Input, output: Output) => Decoder;

/** Bytes that are read, and yielded, at a time. */
const PIECE_BYTES = 1 << 18;

/**
 * The unpacked bytes of a bzip2 file, piece by piece. `UserError` if it is damaged or incomplete.
 * @param onRead called with the number of bytes that were read from the disk
 */
export function* unbzip2(path: string, onRead: (bytes: number) => void): Generator<Buffer> {
  const fd = openSync(path, 'r');
  try {
    const input = fileInput(fd, onRead);
    if (input.atEnd()) throw incomplete(path);
    const output = pieces();
    const decoder = new Bunzip(input, output);
    for (;;) {
      if (decoder._init_block()) {
        decoder._read_bunzip();
        yield* output.full();
      } else if (decoder.reader.read(32) >>> 0 !== decoder.streamCRC) {
        throw incomplete(path);
      } else if (input.atEnd()) {
        break;
      } else {
        decoder._start_bunzip(input, output);
      }
    }
    yield output.rest();
  } catch (error) {
    // The decoder throws a TypeError for bytes that it cannot decode.
    throw error instanceof EndOfFile || error instanceof TypeError || error instanceof RangeError
      ? incomplete(path)
      : error;
  } finally {
    closeSync(fd);
  }
}

const incomplete = (path: string) =>
  new UserError(`${path}: is not a complete bzip2 file; make or download it again`);

class EndOfFile extends Error {}

function fileInput(fd: number, onRead: (bytes: number) => void) {
  const held = Buffer.allocUnsafe(PIECE_BYTES);
  let at = 0;
  let end = 0;
  const atEnd = () => {
    if (at < end) return false;
    end = readSync(fd, held, 0, held.length, null);
    at = 0;
    onRead(end);
    return end === 0;
  };
  const readByte = () => {
    if (at === end && atEnd()) throw new EndOfFile();
    return held[at++];
  };
  const read = (buffer: Uint8Array, offset: number, length: number) => {
    for (let i = 0; i < length; i++) buffer[offset + i] = readByte();
    return length;
  };
  return { atEnd, readByte, read };
}

function pieces() {
  let piece = Buffer.allocUnsafe(PIECE_BYTES);
  let used = 0;
  let done: Buffer[] = [];
  return {
    writeByte(byte: number) {
      piece[used++] = byte;
      if (used < PIECE_BYTES) return;
      done.push(piece);
      piece = Buffer.allocUnsafe(PIECE_BYTES);
      used = 0;
    },
    /** The pieces that are complete. */
    full(): Buffer[] {
      const found = done;
      done = [];
      return found;
    },
    rest: () => piece.subarray(0, used),
  };
}
