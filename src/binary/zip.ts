import { shown, UserError } from '../system/errors.ts';
import type { OpenFile } from './file.ts';

// The positions of the files in a zip archive (PKWARE's APPNOTE.TXT, sections 4.3 and 4.5.3), for archives that store them
// uncompressed, as PyTorch does. Their bytes can then be read by position, like those of any other file.

/** A stored file of an archive: its bytes in the archive. */
export interface ZipEntry {
  begin: number;
  end: number;
  crc32: number;
}

/** Bytes of the record at the end, and of the longest comment after it. */
const END_RECORD = 22;
const MAX_COMMENT_BYTES = 0xffff;
/** Maximum bytes of the directory (hundreds of thousands of files), so that a damaged length cannot use up all memory. */
const DIRECTORY_LIMIT = 100_000_000;
/** This value means that the size or position is in a 64-bit field. */
const ELSEWHERE = 0xffffffff;

/** The files of an archive by name. `UserError` for a damaged archive, and for one that compresses or encrypts. */
export function readZip(file: OpenFile): Map<string, ZipEntry> {
  const { offset, bytes } = directory(file);
  const entries = new Map<string, ZipEntry>();
  const view = new DataView(file.read(offset, bytes));
  for (let at = 0; at < bytes; ) {
    if (bytes - at < 46 || view.getUint32(at, true) !== 0x02014b50) damaged(file, 'its directory is broken');
    const [nameLength, extraLength, commentLength] = [28, 30, 32].map((i) => view.getUint16(at + i, true));
    const next = at + 46 + nameLength + extraLength + commentLength;
    if (next > bytes) damaged(file, 'its directory is broken');
    const name = new TextDecoder().decode(new Uint8Array(view.buffer, at + 46, nameLength));
    if (view.getUint16(at + 8, true) & 1) refuse(file, name, 'is encrypted');
    if (view.getUint16(at + 10, true) !== 0) refuse(file, name, 'is compressed');
    const sizes = wideSizes(file, view, at, nameLength, extraLength);
    if (sizes.stored !== sizes.size) damaged(file, `${shown(name)} has two sizes`);
    if (entries.has(name)) damaged(file, `${shown(name)} is in it twice`);
    const begin = contents(file, name, sizes.position);
    if (begin + sizes.size > offset) damaged(file, `${shown(name)} ends after the last file`);
    entries.set(name, { begin, end: begin + sizes.size, crc32: view.getUint32(at + 16, true) });
    at = next;
  }
  return entries;
}

/** True for a file that starts like a zip archive. */
export function isZip(file: OpenFile): boolean {
  return file.bytes >= END_RECORD && new DataView(file.read(0, 4)).getUint32(0, true) === 0x04034b50;
}

/** Position and length of the directory, from the record at the end of the archive. */
function directory(file: OpenFile): { offset: number; bytes: number } {
  const tail = Math.min(file.bytes, END_RECORD + MAX_COMMENT_BYTES);
  const view = new DataView(file.read(file.bytes - tail, tail));
  let at = tail - END_RECORD;
  while (
    at >= 0 &&
    !(view.getUint32(at, true) === 0x06054b50 && view.getUint16(at + 20, true) === tail - at - END_RECORD)
  )
    at--;
  if (at < 0) damaged(file, 'it has no directory at its end');
  let bytes = view.getUint32(at + 12, true);
  let offset = view.getUint32(at + 16, true);
  const end = file.bytes - tail + at;
  if (offset === ELSEWHERE || bytes === ELSEWHERE || view.getUint16(at + 10, true) === 0xffff) {
    // Zip64: a locator before this record has the position of a record with 64-bit fields.
    const locator = end >= 20 ? new DataView(file.read(end - 20, 20)) : undefined;
    if (locator?.getUint32(0, true) !== 0x07064b50) return damaged(file, 'it has no directory of 64 bits');
    const place = Number(locator.getBigUint64(8, true));
    if (place > end - 56) damaged(file, 'its directory of 64 bits is outside of it');
    const record = new DataView(file.read(place, 56));
    if (record.getUint32(0, true) !== 0x06064b50) damaged(file, 'it has no directory of 64 bits');
    bytes = Number(record.getBigUint64(40, true));
    offset = Number(record.getBigUint64(48, true));
  }
  if (bytes > DIRECTORY_LIMIT) damaged(file, `its directory would be ${bytes} bytes long`);
  if (offset + bytes > end) damaged(file, 'its directory is outside of it');
  return { offset, bytes };
}

/** Sizes and position of an entry. The extra field 1 has, in this order, those that do not fit into 32 bits. */
function wideSizes(file: OpenFile, view: DataView, at: number, nameLength: number, extraLength: number) {
  const values = { size: 24, stored: 20, position: 42 };
  const found = { size: 0, stored: 0, position: 0 };
  let extra = at + 46 + nameLength;
  const end = extra + extraLength;
  while (extra + 4 <= end && view.getUint16(extra, true) !== 1) extra += 4 + view.getUint16(extra + 2, true);
  extra += 4;
  for (const [key, place] of Object.entries(values)) {
    let value = view.getUint32(at + place, true);
    if (value === ELSEWHERE) {
      if (extra + 8 > end) return damaged(file, 'a size of 64 bits is missing');
      value = Number(view.getBigUint64(extra, true));
      extra += 8;
    }
    found[key as keyof typeof found] = value;
  }
  return found;
}

/** Where an entry's bytes start: after its own header, which has another name and padding. */
function contents(file: OpenFile, name: string, position: number): number {
  if (position + 30 > file.bytes) damaged(file, `${shown(name)} is outside of it`);
  const header = new DataView(file.read(position, 30));
  if (header.getUint32(0, true) !== 0x04034b50)
    damaged(file, `${shown(name)} does not start where it should`);
  return position + 30 + header.getUint16(26, true) + header.getUint16(28, true);
}

function damaged(file: OpenFile, what: string): never {
  throw new UserError(`${file.path}: not a complete zip archive: ${what}; copy or download it again`);
}

function refuse(file: OpenFile, name: string, what: string): never {
  throw new UserError(
    `${file.path}: ${shown(name)} ${what}, which PyTorch never does; save the weights again with torch.save or as safetensors`,
  );
}
