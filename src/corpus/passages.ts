/** Words of a passage (DPR). */
const WORDS = 100;

/**
 * DPR's passages of a document: its words, separated by white space, in disjoint runs of 100. The last run is filled up
 * with words from the beginning of the document, each used once more at most. DPR published neither its code nor this rule.
 * Its author describes the words (facebookresearch/DPR, issues 138 and 159). The filling comes from a reconstruction of its
 * corpus (castorini/pyserini, scripts/dpr/wiki_generate_tsv_no_tables_lists.py, commit 8b15cb7), which counts words by spaCy.
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
