// Python's regular expressions as JavaScript's, for answers that are expressions (CuratedTREC) and for scores that are
// told to equal those of Python scripts.

/** `re` is Python's own module, `regex` the package of that name; they part over words, white space and escapes. */
export type Flavour = 're' | 'regex';

/** What `\w` matches (and `\b` is the edge of): letters, numbers and _ for `re`, the words of UTS #18 for `regex`. */
export const WORD: Record<Flavour, string> = {
  re: '[\\p{L}\\p{N}_]',
  regex: '[\\p{Alphabetic}\\p{M}\\p{Nd}\\p{Pc}\\p{Join_Control}]',
};

/** What str.isspace and `\s` of `re` take for white space: not \ufeff, as JavaScript's, but four separators more. */
export const SPACE =
  '[\\t-\\r\\x1c-\\x20\\x85\\xa0\\u1680\\u2000-\\u200a\\u2028\\u2029\\u202f\\u205f\\u3000]';

const CLASSES: Record<Flavour, Record<string, string>> = {
  re: { w: WORD.re, d: '\\p{Nd}', s: SPACE },
  regex: { w: WORD.regex, d: '\\p{Nd}', s: '\\p{White_Space}' },
};
const CONTROLS: Record<string, string> = { a: '\x07', f: '\f', n: '\n', r: '\r', t: '\t', v: '\v' };

/** Lines end at \n alone, so `m` of JavaScript, which knows three ends more, is of no use. */
export const LINE_START = '(?<![^\\n])';
export const LINE_END = '(?![^\\n])';

/**
 * `pattern` as Python compiles it with IGNORECASE, UNICODE and MULTILINE; undefined where Python refuses it.
 * Told departures: what JavaScript lacks is taken as refused, which is possessive repeats, atomic groups, conditions,
 * repeated assertions, flags other than `(?i)` at the start, and of `regex` \m \M \G \K \R \X \N \h \L, [[:names:]], branch
 * resets and classes in ranges. A look-behind of any width passes, where `re` wants it fixed; a reference to a group that
 * took no part matches emptily; U+0345 counts as a letter; \u0131 in a pattern of `regex` is not I.
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

/** One character of a pattern, or a class's source. */
type Item = string | { source: string };

/** Source for JavaScript's `v` mode, which has classes in classes. */
function translated(pattern: string, flavour: Flavour): string {
  const text = [...pattern.replace(/^\(\?[imu]+\)/, '')]; // flags that are set anyway
  let at = 0;
  let out = '';
  /** Whether what was put last can be repeated: no assertion, no other repeat. */
  let atom = false;
  /** Of each open group whether it is an atom. */
  const open: boolean[] = [];

  while (at < text.length) {
    const c = text[at++];
    if (c === '\\') {
      const found = ahead(/^(?![1-3][0-7]{2})[1-9]\d?|^[bBAZ]/);
      if (found === undefined) put(outside(escaped()), true);
      else if (/\d/.test(found)) put(`(?:\\${found})`, true);
      else put(edge(found), false);
    } else if (c === '[') put(bracket(), true);
    else if (c === '.') put('[^\\n]', true);
    else if (c === '^') put(LINE_START, false);
    else if (c === '$') put(LINE_END, false);
    else if (c === '|') put('|', false);
    else if (c === '(') group();
    else if (c === ')') put(')', open.pop() ?? refuse());
    else if (c === '*' || c === '+' || c === '?') repeat(c);
    else if (c === '{') {
      const [, low, comma, high] = /^(\d*)(,?)(\d*)/.exec(ahead(/^(?:\d+(?:,\d*)?|,\d*)\}/) ?? '') ?? [];
      if (low || comma) repeat(`{${low || 0}${comma}${high}}`);
      else put(outside('{'), true);
    } else put(outside(c), true);
  }
  if (open.length > 0) refuse();
  return out;

  function refuse(): never {
    throw new SyntaxError(`no expression: ${pattern}`);
  }

  function ahead(start: RegExp): string | undefined {
    const found = start.exec(text.slice(at, at + 80).join(''))?.[0];
    if (found !== undefined) at += [...found].length;
    return found;
  }

  function put(source: string, isAtom: boolean): void {
    out += source;
    atom = isAtom;
  }

  function repeat(source: string): void {
    if (!atom) refuse();
    put(source + (ahead(/^\?/) ?? ''), false);
    if (text[at] === '+') refuse();
  }

  function group(): void {
    if (ahead(/^\?#[^)]*\)/) !== undefined) return;
    const back = ahead(/^\?P=\w+\)/);
    if (back !== undefined) {
      put(`\\k<${back.slice(3, -1)}>`, true);
      return;
    }
    const kind = ahead(flavour === 're' ? /^\?(?:P<\w+>|:|<?[=!])/ : /^\?(?:P?<\w+>|:|<?[=!])/) ?? '';
    if (kind === '' && text[at] === '?') refuse();
    open.push(!/[=!]$/.test(kind));
    put(`(${kind.replace('P', '')}`, false);
  }

  function edge(letter: string): string {
    if (letter === 'A') return '^';
    if (letter === 'Z') return '$';
    const w = WORD[flavour];
    return letter === 'b'
      ? `(?:(?<!${w})(?=${w})|(?<=${w})(?!${w}))`
      : `(?:(?<!${w})(?!${w})|(?<=${w})(?=${w}))`;
  }

  /** What a backslash makes of what comes after it. */
  function escaped(): Item {
    const c = text[at++] ?? refuse();
    const source = CLASSES[flavour][c.toLowerCase()];
    if (source !== undefined) return { source: c === c.toLowerCase() ? source : `[^${source}]` };
    if (CONTROLS[c] !== undefined) return CONTROLS[c];
    const digits = { x: 2, u: 4, U: 8 }[c];
    if (digits !== undefined) {
      return String.fromCodePoint(
        Number.parseInt(ahead(new RegExp(`^[\\da-fA-F]{${digits}}`)) ?? refuse(), 16),
      );
    }
    if (/\d/.test(c)) {
      at--;
      return String.fromCodePoint(Number.parseInt(ahead(/^(?:0[0-7]{0,2}|[1-3][0-7]{2})/) ?? refuse(), 8));
    }
    if (flavour === 'regex' && (c === 'p' || c === 'P')) {
      return { source: `\\${c}${ahead(/^\{\w+(?:=\w+)?\}/) ?? refuse()}` };
    }
    return /[a-zA-Z]/.test(c) ? refuse() : c;
  }

  function outside(item: Item): string {
    if (typeof item !== 'string') return item.source;
    const more = otherCases(exactly(item));
    return more === '' ? exactly(item) : `[${exactly(item)}${more}]`;
  }

  function bracket(): string {
    const negated = ahead(/^\^/) !== undefined ? '^' : '';
    let inside = '';
    const start = at;
    while (at === start || text[at] !== ']') {
      const low = member();
      const isRange = text[at] === '-' && at + 1 < text.length && text[at + 1] !== ']';
      if (!isRange) {
        inside += typeof low === 'string' ? exactly(low) : low.source;
        continue;
      }
      at++;
      const high = member();
      if (typeof low !== 'string' || typeof high !== 'string') refuse();
      else inside += `${exactly(low)}-${exactly(high)}`;
    }
    at++;
    return `[${negated}${inside}${otherCases(inside)}]`;
  }

  function member(): Item {
    const c = text[at++] ?? refuse();
    if (flavour === 'regex' && c === '[' && text[at] === ':') refuse();
    if (c !== '\\') return c;
    return ahead(/^b/) === undefined ? escaped() : '\b';
  }

  /** Cases that Python sees and JavaScript does not: of i with and without its dot. */
  function otherCases(members: string): string {
    const has = (c: string, flags: string) => new RegExp(`[${members}]`, flags).test(c);
    if (flavour === 're')
      return has('i', 'iv') || has('\u0130', 'v') || has('\u0131', 'v') ? 'i\u0130\u0131' : '';
    return (has('i', 'v') ? '\u0130' : '') + (has('I', 'v') ? '\u0131' : '');
  }
}

/** A pattern of one character, in a class or outside. */
function exactly(character: string): string {
  return /[\w\u0080-\u{10ffff}]/u.test(character)
    ? character
    : `\\u{${character.codePointAt(0)!.toString(16)}}`;
}
