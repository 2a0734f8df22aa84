/** A page of the corpus. */
export interface Document {
  id: string;
  title: string;
  text: string;
}

/** A sentence of X from a file of its own. */
export interface ExternalSentence {
  text: string;
  /** Its salient spans in characters, by their starts; undefined where they are still to be found. */
  spans: Range[] | undefined;
}

/** What the answers are: texts, or regular expressions that match every right text, as CuratedTREC's. */
export type AnswerKind = 'string' | 'regex';

/** What counts as right. */
export interface Accepted {
  answers: string[];
  answerKind: AnswerKind;
}

/** A question and every answer that counts as right. */
export interface Question extends Accepted {
  question: string;
  /** Its own id, where the data set gives one. */
  id?: string;
  /** Id of the document that holds the answer, where the data set tells. */
  passageId?: string;
  /** Ids of documents that look right and are not, the most alike first, where the data set names such. */
  negativeIds?: string[];
}

/** Characters [start, end) of a text, in UTF-16 units. */
export interface Range {
  start: number;
  end: number;
}
