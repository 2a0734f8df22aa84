import { UserError } from '../../errors.ts';
import type { Question } from '../qa.ts';
import { parsePythonList } from './python-list.ts';
import { readTable } from './table.ts';

/**
 * DPR's files of questions, such as `nq-test.qa.csv`: rows of a question, a tab, and its answers as a Python list, without
 * a head (facebookresearch/DPR, dpr/data/retriever_data.py, CsvQASrc, commit a31212d). ’ is written as ' as there.
 */
export async function* readDprQuestions(path: string): AsyncGenerator<Question> {
  for await (const { cells, where } of readTable(path, "a file of DPR's questions")) {
    const answers = cells.length === 2 ? parsePythonList(cells[1]) : undefined;
    if (!answers) {
      throw new UserError(
        `${where}: is no question, a tab and a list of answers such as ['A', 'B']; mend the row`,
      );
    }
    yield { question: cells[0].replaceAll('’', "'"), answers, answerKind: 'string' };
  }
}
