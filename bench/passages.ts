import type { Document } from '../src/datasets/types.ts';
import { random } from '../src/random.ts';

/** Number of different words: the frequency falls with the number of a word (Zipf); the most frequent words are short. */
const WORDS = 60_000;

/** Words in a passage: DPR splits Wikipedia this way. */
const PASSAGE_WORDS = 100;

/** `n` passages of invented words, with the length of Wikipedia's and as many names and years. Passage i does not depend on `n`. */
export function* passages(n: number): Generator<Document> {
  const words = makeWords();
  const { float, int } = random(2);
  const word = () => words[Math.floor(WORDS ** float()) - 1];
  const capital = (text: string) => text[0].toUpperCase() + text.slice(1);
  for (let i = 0; i < n; i++) {
    const text: string[] = [];
    let left = 0; // words until the end of the sentence
    for (let w = 0; w < PASSAGE_WORDS; w++) {
      const first = left === 0;
      if (first) left = 10 + int(25);
      left--;
      const drawn = float();
      const plain = drawn < 0.02 ? String(1800 + int(220)) : word();
      const written = first || (drawn > 0.88 && plain.length > 4) ? capital(plain) : plain;
      text.push(
        left === 0 || w === PASSAGE_WORDS - 1
          ? `${written}.`
          : drawn > 0.83 && drawn < 0.88
            ? `${written},`
            : written,
      );
    }
    yield { id: String(i), title: `${capital(word())} ${capital(word())}`, text: text.join(' ') };
  }
}

function makeWords(): string[] {
  const { int } = random(1);
  const letter = (letters: string) => letters[int(letters.length)];
  const words = new Set<string>();
  while (words.size < WORDS) {
    const syllables = words.size < 300 ? 1 : words.size < 5000 ? 2 : 2 + int(3);
    let word = '';
    for (let s = 0; s < syllables; s++)
      word += letter('bcdfghklmnprstvw') + letter('aeiou') + letter('lnrst   ').trim();
    if (words.size < 300 || word.length > 3) words.add(word);
  }
  return [...words];
}
