import type { Config } from '../config.ts';
import { checkpointed } from '../report/record.ts';
import type { Run } from '../run/folder.ts';
import { RETRIEVER_STAGES } from '../run/stages.ts';
import { retrievesUntrained } from './context.ts';

/** What was just done in a run. */
export type Done = 'prepare' | 'ict-warmup' | 'build-index' | 'pretrain' | 'finetune-qa' | 'demo';

/** The next command after what was just done, with the options that it needs; several if there is a choice. */
export function nextCommands(run: Run, config: Config, done: Done): string[] {
  const { dir } = run;
  const { data } = config;
  const command = (words: string, ...more: string[]) =>
    ['realm', words, ...(dir === 'runs/default' ? [] : ['--run', quoted(dir)]), ...more].join(' ');
  switch (done) {
    case 'prepare':
      // A sentence encoder retrieves without training. A trained retriever only needs an index of the new corpus.
      return [
        command(
          config.ict.steps === 0 || retrievesUntrained(config) || hasRetriever(run)
            ? 'build-index'
            : 'ict-warmup',
        ),
      ];
    case 'ict-warmup':
      return [command('build-index')];
    case 'build-index':
      return [command('pretrain')];
    case 'pretrain':
      return [command('finetune-qa', ...(data.train === null ? ['--set', 'data.train=FILE'] : []))];
    case 'finetune-qa': {
      const evaluate = command(
        'eval exact-match',
        ...(data.test === null && data.dev === null ? ['--questions', 'FILE'] : []),
      );
      return [evaluate, command('ask')];
    }
    case 'demo':
      return [command('ask'), command('report'), command('serve')];
  }
}

/** Whether a stage has left a retriever: the inverse cloze task when it is finished or imported, later stages at any step. */
function hasRetriever(run: Run): boolean {
  return RETRIEVER_STAGES.some((stage) => {
    const saved = checkpointed(run.checkpoint(stage));
    if (saved === undefined) return false;
    return stage !== 'ict-warmup' || saved.step === 0 || saved.step >= saved.steps;
  });
}

/** A folder, quoted so that a shell reads it as one word. */
function quoted(dir: string): string {
  return /^[\w./@:+-]+$/.test(dir) ? dir : `'${dir.replaceAll("'", `'\\''`)}'`;
}
