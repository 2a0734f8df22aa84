/** Words of a passage (DPR). */
const WORDS = 100;

/**
 * DPR's passages of an article: its words, parted by white space, in disjoint runs of 100, of which the last is filled
 * up from the article's beginning, once round at most. DPR published neither its code nor this rule: the words are its
 * author's (facebookresearch/DPR, issues 138 and 159), the filling is what those who made its corpus again found
 * (castorini/pyserini, scripts/dpr/wiki_generate_tsv_no_tables_lists.py, commit 8b15cb7), which counts words by spaCy.
 */
export function hundredWords(text: string): string[] {
  const words = text.match(/\S+/g) ?? [];
  const passages: string[] = [];
  for (let at = 0; at < words.length; at += WORDS) {
    const run = words.slice(at, at + WORDS);
    passages.push([...run, ...words.slice(0, WORDS - run.length)].join(' '));
  }
  return passages;
}
