// Translates Python's regular expressions to JavaScript's, for answers that are regular expressions (CuratedTREC) and for
// scores that must equal those of Python scripts.

/** `re` is Python's own module, `regex` the package of that name; they differ in words, white space and escapes. */
export type Flavour = 're' | 'regex';

/** What `\w` matches (and `\b` is the edge of): letters, numbers and _ for `re`, the words of UTS #18 for `regex`. */
export const WORD: Record<Flavour, string> = {
  re: '[\\p{L}\\p{N}_]',
  regex: '[\\p{Alphabetic}\\p{M}\\p{Nd}\\p{Pc}\\p{Join_Control}]',
};

/** White space of str.isspace and of `\s` of `re`: unlike JavaScript's without \ufeff, and with four separators more. */
export const SPACE =
  '[\\t-\\r\\x1c-\\x20\\x85\\xa0\\u1680\\u2000-\\u200a\\u2028\\u2029\\u202f\\u205f\\u3000]';

/** Escapes of one class of characters; the capital letter is its complement. */
const CLASSES: Record<Flavour, Record<string, string>> = {
  re: { w: WORD.re, d: '\\p{Nd}', s: SPACE },
  regex: { w: WORD.regex, d: '\\p{Nd}', s: '\\p{White_Space}' },
};
/** Escapes of one character. */
const CONTROLS: Record<string, string> = { a: '\x07', f: '\f', n: '\n', r: '\r', t: '\t', v: '\v' };
/** Hexadecimal digits that follow an escape. */
const HEX_DIGITS: Record<string, number> = { x: 2, u: 4, U: 8 };
/** Escapes of a position. */
const EDGES: Record<Flavour, Record<string, string>> = { re: edges(WORD.re), regex: edges(WORD.regex) };

function edges(w: string): Record<string, string> {
  return {
    A: '^',
    Z: '$',
    b: `(?:(?<!${w})(?=${w})|(?<=${w})(?!${w}))`,
    B: `(?:(?<!${w})(?!${w})|(?<=${w})(?=${w}))`,
  };
}

/** Lines end at \n alone; JavaScript's flag `m` also ends them at three other characters. */
export const LINE_START = '(?<![^\\n])';
export const LINE_END = '(?![^\\n])';

/**
 * `pattern` as Python compiles it with IGNORECASE, UNICODE and MULTILINE; undefined if Python refuses it.
 * Known differences: what JavaScript lacks counts as refused, which is possessive repeats, atomic groups, conditions,
 * repeated assertions, flags other than `(?i)` at the start, and of `regex` \m \M \G \K \R \X \N \h \L, [[:names:]], branch
 * resets and classes in ranges. A look-behind of any width passes, although `re` requires a fixed one; a reference to a
 * group that took no part matches the empty string; U+0345 counts as a letter; \u0131 in a pattern of `regex` is not I.
 * @param flags of JavaScript's `g` and `y`
 */
export function pythonRegex(
  pattern: string,
  flavour: Flavour,
  flags: 'g' | 'y' | '' = '',
): RegExp | undefined {
  try {
    return new RegExp(translated(pattern, flavour), `iv${flags}`);
  } catch (error) {
    if (error instanceof SyntaxError) return undefined;
    throw error;
  }
}

/** A character that means something else in Python's patterns: its source, and whether that can be repeated. */
const SPECIAL: Record<string, [source: string, isAtom: boolean]> = {
  '.': ['[^\\n]', true],
  '^': [LINE_START, false],
  $: [LINE_END, false],
  '|': ['|', false],
};

/** Source for JavaScript's `v` mode, which has classes in classes. */
function translated(pattern: string, flavour: Flavour): string {
  const cursor = cursorOver(pattern);
  let out = '';
  /** Whether the last part can be repeated; assertions and repeats cannot. */
  let atom = false;
  /** For each open group, whether it can be repeated. */
  const open: boolean[] = [];

  for (let c = cursor.next(); c !== undefined; c = cursor.next()) {
    if (SPECIAL[c]) put(...SPECIAL[c]);
    else if (c === '\\') backslash();
    else if (c === '[') put(bracket(cursor, flavour), true);
    else if (c === '(') group();
    else if (c === ')') put(')', open.pop() ?? cursor.refuse());
    else if (c === '*' || c === '+' || c === '?') repeat(c);
    else if (c === '{') brace();
    else put(outside(c, flavour), true);
  }
  if (open.length > 0) cursor.refuse();
  return out;

  function put(source: string, isAtom: boolean): void {
    out += source;
    atom = isAtom;
  }

  function backslash(): void {
    const found = cursor.take(/^(?![1-3][0-7]{2})[1-9]\d?|^[bBAZ]/); // a group's number, or a position
    if (found === undefined) put(outside(escaped(cursor, flavour), flavour), true);
    else if (EDGES[flavour][found]) put(EDGES[flavour][found], false);
    else put(`(?:\\${found})`, true);
  }

  function brace(): void {
    const [, low, comma, high] = /^(\d*)(,?)(\d*)/.exec(cursor.take(/^(?:\d+(?:,\d*)?|,\d*)\}/) ?? '') ?? [];
    if (low || comma) repeat(`{${low || 0}${comma}${high}}`);
    else put(outside('{', flavour), true);
  }

  function repeat(source: string): void {
    if (!atom) cursor.refuse();
    put(source + (cursor.take(/^\?/) ?? ''), false);
    if (cursor.peek() === '+') cursor.refuse();
  }

  function group(): void {
    if (cursor.take(/^\?#[^)]*\)/) !== undefined) return; // a comment
    const back = cursor.take(/^\?P=\w+\)/);
    if (back !== undefined) {
      put(`\\k<${back.slice(3, -1)}>`, true);
      return;
    }
    const kind = cursor.take(flavour === 're' ? /^\?(?:P<\w+>|:|<?[=!])/ : /^\?(?:P?<\w+>|:|<?[=!])/) ?? '';
    if (kind === '' && cursor.peek() === '?') cursor.refuse();
    open.push(!/[=!]$/.test(kind));
    put(`(${kind.replace('P', '')}`, false);
  }
}

/** Reads a pattern from its start to its end. */
interface Cursor {
  /** Undefined at the end. */
  next(): string | undefined;
  /** The character `ahead` of the next one, which is not read yet. */
  peek(ahead?: number): string | undefined;
  /** Reads what `start` matches here; undefined if nothing. */
  take(start: RegExp): string | undefined;
  /** Reads the last character again. */
  back(): void;
  refuse(): never;
}

function cursorOver(pattern: string): Cursor {
  const text = [...pattern.replace(/^\(\?[imu]+\)/, '')]; // flags that are set anyway
  let at = 0;
  return {
    next: () => text[at++],
    peek: (ahead = 0) => text[at + ahead],
    take(start) {
      const found = start.exec(text.slice(at, at + 80).join(''))?.[0];
      if (found !== undefined) at += [...found].length;
      return found;
    },
    back() {
      at--;
    },
    refuse() {
      throw new SyntaxError(`not a regular expression of Python: ${pattern}`);
    },
  };
}

/** One character of a pattern, or the source of a class. */
type Item = string | { source: string };

/** The meaning of a backslash and the characters after it, in a class or outside. */
function escaped(cursor: Cursor, flavour: Flavour): Item {
  const c = cursor.next() ?? cursor.refuse();
  const source = CLASSES[flavour][c.toLowerCase()];
  if (source !== undefined) return { source: c === c.toLowerCase() ? source : `[^${source}]` };
  if (CONTROLS[c] !== undefined) return CONTROLS[c];
  const digits = HEX_DIGITS[c];
  if (digits !== undefined) return coded(new RegExp(`^[\\da-fA-F]{${digits}}`), 16);
  if (/\d/.test(c)) {
    cursor.back();
    return coded(/^(?:0[0-7]{0,2}|[1-3][0-7]{2})/, 8);
  }
  if (flavour === 'regex' && (c === 'p' || c === 'P')) {
    return { source: `\\${c}${cursor.take(/^\{\w+(?:=\w+)?\}/) ?? cursor.refuse()}` };
  }
  return /[a-zA-Z]/.test(c) ? cursor.refuse() : c;

  function coded(digits: RegExp, radix: number): string {
    return String.fromCodePoint(Number.parseInt(cursor.take(digits) ?? cursor.refuse(), radix));
  }
}

/** A class; its first bracket is read already. */
function bracket(cursor: Cursor, flavour: Flavour): string {
  const negated = cursor.take(/^\^/) !== undefined ? '^' : '';
  let inside = '';
  for (let isFirst = true; isFirst || cursor.peek() !== ']'; isFirst = false) {
    const low = member(cursor, flavour);
    const isRange = cursor.peek() === '-' && cursor.peek(1) !== undefined && cursor.peek(1) !== ']';
    if (!isRange) {
      inside += typeof low === 'string' ? exactly(low) : low.source;
      continue;
    }
    cursor.next();
    const high = member(cursor, flavour);
    if (typeof low !== 'string' || typeof high !== 'string') cursor.refuse();
    else inside += `${exactly(low)}-${exactly(high)}`;
  }
  cursor.next();
  return `[${negated}${inside}${otherCases(inside, flavour)}]`;
}

function member(cursor: Cursor, flavour: Flavour): Item {
  const c = cursor.next() ?? cursor.refuse();
  if (flavour === 'regex' && c === '[' && cursor.peek() === ':') cursor.refuse();
  if (c !== '\\') return c;
  return cursor.take(/^b/) === undefined ? escaped(cursor, flavour) : '\b';
}

/** The source of an item outside a class. */
function outside(item: Item, flavour: Flavour): string {
  if (typeof item !== 'string') return item.source;
  const more = otherCases(exactly(item), flavour);
  return more === '' ? exactly(item) : `[${exactly(item)}${more}]`;
}

/** Cases that Python equates and JavaScript does not: of i with and without its dot. */
function otherCases(members: string, flavour: Flavour): string {
  const has = (c: string, flags: string) => new RegExp(`[${members}]`, flags).test(c);
  if (flavour === 're')
    return has('i', 'iv') || has('\u0130', 'v') || has('\u0131', 'v') ? 'i\u0130\u0131' : '';
  return (has('i', 'v') ? '\u0130' : '') + (has('I', 'v') ? '\u0131' : '');
}

/** A pattern of one character, in a class or outside. */
function exactly(character: string): string {
  return /[\w\u0080-\u{10ffff}]/u.test(character)
    ? character
    : `\\u{${character.codePointAt(0)!.toString(16)}}`;
}
