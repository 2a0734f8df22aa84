// Files that realm reads and writes count characters in Unicode code points, as Python does; JavaScript's strings count
// UTF-16 units, of which a character beyond U+FFFF, such as an emoji, has two.

/** The number of code points in UTF-16 units [0, end) of a text. */
export function codePointsBefore(text: string, end: number): number {
  let count = end;
  for (let i = 1; i < end; i++) if (isSecondHalf(text, i)) count--;
  return count;
}

/** The UTF-16 unit where each code point of a text starts, and the text's end: entry c for code point c. */
export function codePointStarts(text: string): Uint32Array {
  const starts = new Uint32Array(text.length + 1);
  let count = 0;
  for (let i = 0; i < text.length; i++) if (!isSecondHalf(text, i)) starts[count++] = i;
  starts[count] = text.length;
  return starts.subarray(0, count + 1);
}

/** Whether a character's second unit is at `i`; one half of a pair by itself is a code point, as in Python. */
function isSecondHalf(text: string, i: number): boolean {
  return i > 0 && isBetween(text, i, 0xdc00) && isBetween(text, i - 1, 0xd800);
}

function isBetween(text: string, i: number, from: number): boolean {
  const unit = text.charCodeAt(i);
  return unit >= from && unit < from + 0x400;
}
