// npm run bench:spans -- FILE: compares the names that realm finds with names marked by people, in a file in CoNLL's
// format: one token and its label per line, an empty line after each sentence.
//   --ner FOLDER    also compares the names found by such a model (see text.ner)
//   --python PATH   also compares those of spaCy's English model; PATH is a Python with spacy
//   --spacy NAME    the spaCy model (default en_core_web_sm)
import { spawnSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { dates } from '../src/corpus/spans/dates.ts';
import { type Entity, openTagger, readLabel } from '../src/corpus/spans/named-entities.ts';
import { salientSpans } from '../src/corpus/spans/salient-spans.ts';
import type { Range } from '../src/datasets/types.ts';

const { values: options, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    ner: { type: 'string' },
    python: { type: 'string' },
    spacy: { type: 'string', default: 'en_core_web_sm' },
  },
});

interface Marked {
  text: string;
  names: Entity[];
}

/** Sentences in CoNLL's format as prose: there, tokens are separated, with a space before every comma. */
function readMarked(path: string): Marked[] {
  const sentences: Marked[] = [];
  let tokens: [string, string][] = [];
  for (const line of [...readFileSync(path, 'utf8').split(/\r?\n/), '']) {
    const fields = line.trim().split(/\s+/);
    if (fields[0] === '-DOCSTART-') continue;
    if (fields.length > 1) tokens.push([fields[0], fields[fields.length - 1]]);
    else if (tokens.length > 0) {
      sentences.push(joinTokens(tokens));
      tokens = [];
    }
  }
  return sentences;
}

function joinTokens(tokens: readonly [string, string][]): Marked {
  const names: Entity[] = [];
  let text = '';
  let last = 'O';
  let quoted = false;
  let attach = true; // no space before the next token
  for (const [token, label] of tokens) {
    const closes =
      /^(?:[,.;:!?%)\]}’”]|\.\.\.|'|''|n't|'(?:s|S|re|ve|ll|d|m))$/.test(token) || (token === '"' && quoted);
    const start = attach || closes ? text.length : text.length + 1;
    text = text.padEnd(start) + token;
    const { starts, kind } = readLabel(label);
    if (kind !== 'O') {
      if (kind === last && !starts) names[names.length - 1].end = text.length;
      else names.push({ start, end: text.length, kind });
    }
    last = kind;
    attach = /^(?:[([{$£€“‘`]|``)$/.test(token) || (token === '"' && !quoted);
    if (token === '"') quoted = !quoted;
  }
  return { text, names };
}

/** Names found by the rules: salient spans that are not dates. */
function byRules(text: string): Range[] {
  const when = new Set(dates(text).map(({ start }) => start));
  return salientSpans(text).filter(({ start }) => !when.has(start));
}

function bySpacy(texts: readonly string[], python: string): Range[][] {
  const { status, stdout, stderr } = spawnSync(
    python,
    [join(import.meta.dirname, 'spacy_peer.py'), options.spacy],
    { input: JSON.stringify(texts), encoding: 'utf8', maxBuffer: 1 << 30 },
  );
  if (status !== 0) throw new Error(stderr);
  return (JSON.parse(stdout) as [number, number][][]).map((some) =>
    some.map(([start, end]) => ({ start, end })),
  );
}

const share = (part: number, whole: number) =>
  `${((100 * part) / Math.max(1, whole)).toFixed(1)} %`.padStart(8);
const same = (a: Range, b: Range) => a.start === b.start && a.end === b.end;
const touch = (a: Range, b: Range) => a.start < b.end && b.start < a.end;

/** Prints precision, recall and F1 of spans compared with a reference, and the recall for each kind of span. */
function compare(title: string, found: readonly Range[][], reference: readonly Range[][]): void {
  for (const [how, agrees] of [
    ['exact', same],
    ['overlap', touch],
  ] as const) {
    let all = 0;
    let right = 0;
    const kinds = new Map<string, [number, number]>();
    found.forEach((some, s) => {
      all += some.length;
      right += some.filter((one) => reference[s].some((other) => agrees(one, other))).length;
      for (const one of reference[s]) {
        const kind = (one as Partial<Entity>).kind ?? '';
        const [met, of] = kinds.get(kind) ?? [0, 0];
        kinds.set(kind, [met + (some.some((other) => agrees(one, other)) ? 1 : 0), of + 1]);
      }
    });
    const [met, of] = [...kinds.values()].reduce(([a, b], [c, d]) => [a + c, b + d], [0, 0]);
    const precision = right / Math.max(1, all);
    const recall = met / Math.max(1, of);
    const f1 = (2 * precision * recall) / Math.max(1e-9, precision + recall);
    const each =
      kinds.size > 1 ? [...kinds].sort().map(([kind, [a, b]]) => `${kind} ${share(a, b).trim()}`) : [];
    console.log(
      `${title.padEnd(24)} ${how.padEnd(8)} ${share(precision, 1)} ${share(recall, 1)} ${share(f1, 1)}   ${each.join(', ')}`,
    );
  }
}

if (positionals.length !== 1) throw new Error('give one file of tokens and labels');
const marked = readMarked(positionals[0]);
const texts = marked.map(({ text }) => text);
const gold = marked.map(({ names }) => names);
const rules = texts.map(byRules);
console.log(`${texts.length} sentences, ${gold.flat().length} names marked\n`);
console.log(`${''.padEnd(33)} precision  recall      F1   recall by kind`);
compare('rules, marked', rules, gold);
if (options.ner) {
  compare(`${options.ner}, marked`, await (await openTagger(options.ner)).entities(texts), gold);
}
if (options.python) {
  const spacy = bySpacy(texts, options.python);
  compare('spaCy, marked', spacy, gold);
  compare('rules, spaCy', rules, spacy);
}
