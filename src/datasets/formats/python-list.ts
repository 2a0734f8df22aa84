// A list of strings as Python writes it: ['a', "it's", 'caf\xe9'].

const ESCAPES: Record<string, string> = {
  n: '\n',
  t: '\t',
  r: '\r',
  a: '\x07',
  b: '\b',
  f: '\f',
  v: '\v',
  '\\': '\\',
  "'": "'",
  '"': '"',
};

const STRING = /\s*u?(?:'((?:[^'\\]|\\[\s\S])*)'|"((?:[^"\\]|\\[\s\S])*)")\s*(,|\])/y;
const ESCAPE = /\\(?:x([\da-fA-F]{2})|u([\da-fA-F]{4})|U([\da-fA-F]{8})|([0-7]{1,3})|\n|([\s\S]))/g;

/** The strings of the list, or undefined if `text` is not such a list. */
export function parsePythonList(text: string): string[] | undefined {
  const list = text.trim();
  if (/^\[\s*\]$/.test(list)) return [];
  if (!list.startsWith('[')) return undefined;
  const strings: string[] = [];
  for (STRING.lastIndex = 1; STRING.lastIndex < list.length; ) {
    if (strings.length > 0 && list.slice(STRING.lastIndex).trim() === ']') return strings; // a comma before the end
    const found = STRING.exec(list);
    if (!found) return undefined;
    strings.push(plain(found[1] ?? found[2]));
    if (found[3] === ']') return STRING.lastIndex === list.length ? strings : undefined;
  }
  return undefined;
}

/** Python keeps the backslash of an escape that it does not know, such as \s. */
function plain(text: string): string {
  return text.replace(ESCAPE, (whole, x, u, U, octal, other) => {
    const code = x ?? u ?? U;
    if (code !== undefined) return String.fromCodePoint(Math.min(Number.parseInt(code, 16), 0x10ffff));
    if (octal !== undefined) return String.fromCodePoint(Number.parseInt(octal, 8));
    return other === undefined ? '' : (ESCAPES[other] ?? whole);
  });
}
