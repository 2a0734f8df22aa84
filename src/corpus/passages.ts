import { splitWords } from '../tokenizer/unspaced.ts';

/** Words of a passage (DPR). */
const WORDS = 100;

/**
 * DPR's passages of a document: its words, separated by white space, in disjoint runs of 100. The last run is filled up
 * with words from the beginning of the document, each used once more at most. DPR published neither its code nor this rule.
 * Its author describes the words (facebookresearch/DPR, issues 138 and 159). The filling comes from a reconstruction of its
 * corpus (castorini/pyserini, scripts/dpr/wiki_generate_tsv_no_tables_lists.py, commit 8b15cb7), which counts words by spaCy.
 * Words of scripts without spaces are those of `splitWords`, and no space is put between them.
 */
export function hundredWords(text: string): string[] {
  const words = splitWords(text);
  const passages: string[] = [];
  for (let at = 0; at < words.length; at += WORDS) {
    const end = Math.min(at + WORDS, words.length);
    const run = joined(text, words, at, end);
    const filling = joined(text, words, 0, Math.min(words.length, WORDS - (end - at)));
    passages.push(filling === '' ? run : `${run} ${filling}`);
  }
  return passages;
}

/** Words [first, end) of a text, with one space where the text has white space. */
function joined(text: string, words: ReturnType<typeof splitWords>, first: number, end: number): string {
  let out = '';
  for (let w = first; w < end; w++) {
    const { start, end: stop } = words[w];
    out += `${w > first && start > words[w - 1].end ? ' ' : ''}${text.slice(start, stop)}`;
  }
  return out;
}
