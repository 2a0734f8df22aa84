import { isUtf8 } from 'node:buffer';
import { UserError } from '../system/errors.ts';
import { readPieces } from './bytes.ts';
import { explainRead, type JsonLine, LINE_LIMIT } from './jsonl.ts';

const [QUOTE, BACKSLASH, LINE_FEED] = [0x22, 0x5c, 0x0a];
const [OPEN_LIST, CLOSE_LIST, OPEN_OBJECT, CLOSE_OBJECT] = [0x5b, 0x5d, 0x7b, 0x7d];

/**
 * Streams the objects of a JSON file that is one list of objects, or one object with a list of objects under a key
 * (SQuAD's "data", TriviaQA's "Data"). Holds one object at a time, of limited length: DPR's training file for Natural
 * Questions has 7 GB. Errors name an object by its number, from 1.
 */
export async function* readJsonElements(path: string, what: string): AsyncGenerator<JsonLine> {
  const open: number[] = []; // the lists and objects around the current position
  let inString = false;
  let escaped = false;
  let number = 0;
  let line = 1;
  let held: Buffer[] = []; // the start of an object that continues in the next piece
  let heldBytes = 0;
  let depth = 0; // of the current object; 0: none

  const hold = (part: Buffer) => {
    heldBytes += part.length;
    if (heldBytes > LINE_LIMIT) {
      throw new UserError(
        `${path}: element ${number + 1}: is longer than ${LINE_LIMIT >> 20} MiB; split it into several elements`,
      );
    }
    held.push(part);
  };
  const element = (last: Buffer): JsonLine => {
    hold(last);
    const bytes = held.length === 1 ? held[0] : Buffer.concat(held);
    held = [];
    heldBytes = 0;
    number++;
    const where = `${path}: element ${number} (line ${line})`;
    if (!isUtf8(bytes)) throw new UserError(`${where}: is not UTF-8 text; save the file as UTF-8`);
    try {
      return { value: JSON.parse(bytes.toString('utf8')), where };
    } catch {
      throw new UserError(`${where}: is not valid JSON; fix it`);
    }
  };
  const notOne = () =>
    new UserError(
      `${path}: line ${line}: is not one JSON list or object; if every line is an object of its own, name the file .jsonl`,
    );

  let started = false;
  try {
    for await (const piece of readPieces(path)) {
      let from = 0;
      for (let at = 0; at < piece.length; at++) {
        const byte = piece[at];
        if (inString) {
          if (escaped) escaped = false;
          else if (byte === BACKSLASH) escaped = true;
          else if (byte === QUOTE) inString = false;
        } else if (byte === QUOTE) inString = true;
        else if (byte === OPEN_LIST || byte === OPEN_OBJECT) {
          if (open.length === 0 && started) throw notOne();
          started = true;
          open.push(byte);
          const inList = open[open.length - 2] === OPEN_LIST;
          if (depth === 0 && byte === OPEN_OBJECT && inList && open.length <= 3) {
            depth = open.length;
            from = at;
          }
        } else if (byte === CLOSE_LIST || byte === CLOSE_OBJECT) {
          if (open.length === depth && depth > 0) {
            yield element(piece.subarray(from, at + 1));
            depth = 0;
          }
          if (open.pop() !== (byte === CLOSE_LIST ? OPEN_LIST : OPEN_OBJECT)) throw notOne();
        }
        if (byte === LINE_FEED) line++;
      }
      if (depth > 0) hold(piece.subarray(from));
    }
  } catch (error) {
    throw explainRead(path, what, error);
  }
  if (!started) throw notOne();
  if (open.length > 0)
    throw new UserError(
      `${path}: the JSON is not complete at the end of the file; make or download it again`,
    );
}
