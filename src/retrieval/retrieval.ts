import type { Config } from '../config.ts';
import type { Corpus } from '../corpus/store/reader.ts';
import type { Model } from '../model/model.ts';
import type { Bm25 } from './bm25.ts';
import type { SearchIndex } from './search.ts';

/** A model with the corpus and the index that it retrieves from, and the settings of all of them. */
export interface Retrieval {
  model: Model;
  corpus: Corpus;
  index: Pick<SearchIndex, 'search' | 'vectors'>;
  /** BM25 over the same blocks, for hybrid retrieval. */
  bm25?: Pick<Bm25, 'search' | 'scores'>;
  config: Config;
}
