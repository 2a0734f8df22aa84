import { LINE_END, LINE_START, WORD } from './python-regex.ts';

// The tokens of DrQA's retriever evaluation (facebookresearch/DrQA at 6d7c1b7, drqa/tokenizers/regexp_tokenizer.py), close to
// the Penn Treebank's: numbers, abbreviations and hyphenated words are one token, quotes and dashes are unified.

const LETTERS = '[\\p{L}\\p{N}\\p{M}]';
const OPENING = `(?<=[\\p{Z}([{<]|${LINE_START})`;
const WORD_END = `(?:(?<=${WORD.regex})(?!${WORD.regex})|(?<!${WORD.regex})(?=${WORD.regex}))`;

/** In the order in which they are tried at each position; named if the token is replaced. */
const KINDS = [
  '\\p{Nd}+(?:[:.,]\\p{Nd}+)*',
  '(?:dr|esq|hon|jr|mr|mrs|ms|prof|rev|sr|st|rt|messrs|mmes|msgr)\\.(?=\\p{Z})',
  `(?:\\p{L}\\.){2,}(?=\\p{Z}|${LINE_END})`,
  `(?:(?!n't)${LETTERS})+(?=n't)|n't`,
  `${LETTERS}+(?:[-\\u058A\\u2010\\u2011]${LETTERS}+)+`,
  `can(?=not${WORD_END})`,
  `${LETTERS}+`,
  `'(?:[tsdm]|re|ll|ve)${WORD_END}`,
  `(?<openDouble>${OPENING}(?:\`\`|["\\u0093\\u201C\\u00AB])(?!\\p{Z}))`,
  `(?<closeDouble>(?<!\\p{Z})(?:''|["\\u0094\\u201D\\u00BB]))`,
  `(?<openSingle>${OPENING}['\\u0091\\u2018\\u201B\\u2039](?!\\p{Z}))`,
  `(?<closeSingle>(?<!\\p{Z})['\\u0092\\u2019\\u203A])`,
  '(?<dash>--|[\\u0096\\u0097\\u2013\\u2014\\u2015])',
  '(?<ellipsis>\\.\\.\\.|\\u2026)',
  '\\p{P}',
  '[^\\p{Z}\\p{C}]',
];
const TOKEN = new RegExp(KINDS.join('|'), 'giu');

const REPLACED: Record<string, string> = {
  openDouble: '``',
  closeDouble: "''",
  openSingle: '`',
  closeSingle: "'",
  dash: '--',
  ellipsis: '...',
};

/** The tokens of a text in NFD, each in lower case. */
export function drqaTokens(text: string): string[] {
  return Array.from(text.matchAll(TOKEN), ({ 0: token, groups }) => {
    const kind = Object.keys(REPLACED).find((name) => groups?.[name] !== undefined);
    return kind === undefined ? token.toLowerCase() : REPLACED[kind];
  });
}
