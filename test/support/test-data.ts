import { join } from 'node:path';

// Some tests read published texts that are not part of the repository: SQuAD's passages and questions, BERT's vocabularies.

/** The message of such a test when it is skipped. */
export const NO_TEST_DATA = 'needs the published texts in the folder that REALM_TEST_DATA names';

/** A file of that folder, or the folder itself; a path that does not exist if the variable is not set. */
export function testData(name = ''): string {
  return join(process.env.REALM_TEST_DATA ?? join(import.meta.dirname, 'no-test-data'), name);
}
