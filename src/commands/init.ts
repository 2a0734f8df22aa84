import { type Command, InvalidArgumentError } from 'commander';
import { DEFAULT_FILE } from '../init/default-file.ts';
import type { InitOptions } from '../pipeline/init.ts';
import { GROUPS } from './help.ts';
import { collect, examples, jsonOption } from './options.ts';
import { print } from './print.ts';

export function registerInit(program: Command): void {
  const command = program
    .command('init')
    .helpGroup(GROUPS.setUp)
    .description('Look at your documents and questions, and write settings for them')
    .argument('[documents]', 'file or folder of documents')
    .argument(
      '[questions...]',
      'files of questions with answers: one, which is split, or several with train, dev and test in their names',
    )
    .option('--to <file>', 'configuration file to write', DEFAULT_FILE)
    .option(
      '--initial <folder>',
      'pretrained encoder to start from: a folder or hf:owner/name (default: random weights)',
    )
    .option(
      '--hours <n>',
      'time that all stages together may take (default: by the size of the corpus)',
      hours,
    )
    .option('--set <path=value>', 'choose one setting yourself; repeatable', collect, [])
    .option('--force', 'replace files that exist already', false);
  jsonOption(command);
  examples(
    command,
    'init documents.jsonl',
    'init handbook/ questions.jsonl --to handbook.yaml --initial hf:google/bert_uncased_L-4_H-256_A-4',
  );
  command.action(
    async (documents: string | undefined, questions: string[], options: InitOptions & { json: boolean }) => {
      const { init, initLines } = await import('../pipeline/init.ts');
      const result = await init(documents, questions, options);
      print(options, result, initLines(result));
    },
  );
}

function hours(value: string): number {
  const n = Number(value);
  if (!/^\d*\.?\d+$/.test(value) || n <= 0)
    throw new InvalidArgumentError('expected a number above 0, such as 0.5');
  return n;
}
