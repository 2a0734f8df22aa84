/** A document of the corpus. */
export interface Document {
  id: string;
  title: string;
  text: string;
}

/** Called for each page of a wiki that a reader leaves out, with the reason as a name of `PrepareCounts`. */
export type LeftOut = (why: 'redirects' | 'otherPages') => void;

/** A sentence of X from a file of its own. */
export interface ExternalSentence {
  text: string;
  /** Its salient spans in characters, in order; undefined if they have to be found. */
  spans: Range[] | undefined;
}

/** What the answers are: texts, or regular expressions that match every right text, as in CuratedTREC. */
export type AnswerKind = 'string' | 'regex';

/** What counts as right. */
export interface Accepted {
  answers: string[];
  answerKind: AnswerKind;
}

/** A question and every answer that counts as right. */
export interface Question extends Accepted {
  question: string;
  /** Its own id, if the data set has one. */
  id?: string;
  /** Id of the document that holds the answer, if the data set names it. */
  passageId?: string;
  /** Ids of documents that look right but are not, the most similar first, if the data set names them. */
  negativeIds?: string[];
}

/** A question as a file has it: perhaps without an answer. */
export interface ReadQuestion extends Question {
  /** Its only answer is yes or no, which is in no document. */
  yesNo?: boolean;
}

/** Characters [start, end) of a text, in UTF-16 units. */
export interface Range {
  start: number;
  end: number;
}

/** What people judged: of each query, the grade of each judged document. 1 and more is relevant, 0 and less is not. */
export type Judgements = Map<string, Map<string, number>>;
