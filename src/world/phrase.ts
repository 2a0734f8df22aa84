/** A piece of text with the character ranges, ends exclusive, of the names and years in it. */
export interface Phrase {
  text: string;
  spans: [number, number][];
}

/** A name, a year or an answer: one span. */
export const salient = (text: string): Phrase => ({ text, spans: [[0, text.length]] });

export const plain = (text: string): Phrase => ({ text, spans: [] });

/** The value of each {slot} of a template. */
export type Slots = Record<string, Phrase>;

/**
 * Fills a template's {slots}. Spans keep pointing at the same words; a slot {a A} is
 * {A} after its article. `answer` is the index in `spans` of the first span of {A}, or -1. With `capital` the first letter is made a capital.
 */
export function fill(template: string, slots: Slots, capital = true): Phrase & { answer: number } {
  const parts = parse(template); // literal, slot, literal, slot, …, literal
  const spans: [number, number][] = [];
  let text = parts[0];
  let answer = -1;
  for (let i = 1; i < parts.length; i += 2) {
    const slot = parts[i].startsWith('a ') ? parts[i].slice(2) : parts[i];
    const phrase = slots[slot];
    if (!phrase) throw new Error(`no {${slot}} for "${template}"`);
    if (slot !== parts[i]) text += /^[aeiou]/i.test(phrase.text) ? 'an ' : 'a ';
    if (slot === 'A' && phrase.spans.length > 0) answer = spans.length;
    for (const [start, end] of phrase.spans) spans.push([start + text.length, end + text.length]);
    text += phrase.text + parts[i + 1];
  }
  return { text: capital ? capitalise(text) : text, spans, answer };
}

const capitalise = (text: string) => text[0].toUpperCase() + text.slice(1);

const parsed = new Map<string, string[]>();

function parse(template: string): string[] {
  let parts = parsed.get(template);
  if (!parts) {
    parts = template.split(/[{}]/);
    parsed.set(template, parts);
  }
  return parts;
}
