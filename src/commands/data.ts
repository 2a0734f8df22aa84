import type { Command } from 'commander';
import type { GetOptions } from '../pipeline/data.ts';
import { GROUPS } from './help.ts';
import { examples, jsonOption } from './options.ts';
import { print, valueLines } from './print.ts';

export function registerData(program: Command): void {
  const data = program
    .command('data')
    .helpGroup(GROUPS.setUp)
    .description('List, download and split published data sets')
    .helpCommand(false);
  examples(data, 'data list', 'data get nq-open');

  const list = data
    .command('list')
    .description('List the data sets that can be downloaded, with sizes and licences');
  jsonOption(list);
  examples(list, 'data list');
  list.action(async (options: { json: boolean }) => {
    const { dataLines } = await import('./data-lines.ts');
    const { CATALOGUE } = await import('../datasets/catalogue.ts');
    print(options, CATALOGUE, dataLines());
  });

  const get = data
    .command('get')
    .description('Download a data set, or resume its download, and compare it with its published checksum')
    .argument('<name>', 'name of the data set, as in "realm data list"')
    .option('--to <dir>', 'folder in which the data set gets a folder of its own', 'data')
    .option('--mirror <url>', 'address of a folder that holds the files, instead of the official one')
    .option('--from <path>', 'file, or folder of files, that you have already');
  get.option('--hub', 'take the Parquet files of the Hugging Face Hub instead of the official files', false);
  jsonOption(get);
  examples(get, 'data get nq-open', 'data get squad --to data --from downloads/');
  get.action(async (name: string, options: GetOptions & { json: boolean }) => {
    const { getData } = await import('../pipeline/data.ts');
    const placed = await getData(name, options);
    print(
      options,
      placed,
      placed.map(({ path, how }) => `${path} (${how})`),
    );
  });

  const resplit = data
    .command('resplit')
    .description("Split training questions into ORQA's training and dev sets, by the hash of each question")
    .argument('<file>', 'file of questions, in any format that realm reads')
    .option('--to <dir>', 'folder of the two files', '.');
  jsonOption(resplit);
  examples(resplit, 'data resplit data/nq-open/NQ-open.train.jsonl --to data');
  resplit.action(async (file: string, options: { to: string; json: boolean }) => {
    const { resplitQuestions } = await import('../pipeline/data.ts');
    const result = await resplitQuestions(file, options.to);
    print(options, result, valueLines(result));
  });
}
