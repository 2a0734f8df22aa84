import type { Config } from '../config.ts';
import { checkpointed } from '../report/record.ts';
import { currentIndex } from '../retrieval/publish.ts';
import type { Run } from '../run/folder.ts';
import { RETRIEVER_STAGES, type Stage } from '../run/stages.ts';
import { type Context, retrievesUntrained } from './context.ts';

/** What was just done in a run. */
export type Done =
  | 'prepare'
  | 'ict-warmup'
  | 'build-index'
  | 'reader-warmup'
  | 'pretrain'
  | 'finetune-qa'
  | 'demo';

/** The next command after what was just done, with the options that it needs; several if there is a choice. */
export function nextCommands(run: Run, config: Config, done: Done): string[] {
  const { dir } = run;
  const { data } = config;
  const command = (words: string, ...more: string[]) =>
    ['realm', words, ...(dir === 'runs/default' ? [] : ['--run', quoted(dir)]), ...more].join(' ');
  const finetune = () => command('finetune-qa', ...(data.train === null ? ['--set', 'data.train=FILE'] : []));
  const warmUpReader = config.readerWarmup.steps > 0 && !isDone(run, 'reader-warmup');
  // A sentence encoder retrieves well already, and short pretraining added nothing to it where it was measured (docs/results.md).
  const afterReaderWarmup = () => {
    if (config.pretrain.steps === 0) return [finetune()];
    return retrievesUntrained(config) && data.train !== null
      ? [finetune(), command('pretrain')]
      : [command('pretrain')];
  };
  switch (done) {
    case 'prepare':
      // A trained retriever only needs an index of the new corpus. A sentence encoder retrieves without training.
      if (hasRetriever(run)) return [command('build-index')];
      if (config.ict.steps > 0 && !retrievesUntrained(config)) return [command('ict-warmup')];
      return [command(warmUpReader ? 'reader-warmup' : 'build-index')];
    case 'ict-warmup':
      return [command(warmUpReader ? 'reader-warmup' : 'build-index')];
    case 'build-index':
      if (warmUpReader) return [command('reader-warmup')];
      if (isDone(run, 'reader-warmup') || config.pretrain.steps === 0) return afterReaderWarmup();
      // The reader of a sentence encoder cannot fill masks, and pretraining alone would not teach it to.
      if (retrievesUntrained(config) && data.train !== null) return [finetune()];
      return [command('pretrain')];
    case 'reader-warmup':
      // It needs no index, and may come first.
      return currentIndex(run.index) === undefined
        ? nextCommands(run, config, 'prepare')
        : afterReaderWarmup();
    case 'pretrain':
      return [finetune()];
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

/** The next command of a prepared run that is not fine-tuned. An unfinished stage is continued. */
export function firstMissing({ run, config }: Context): string {
  const done = (): Done => {
    if (isDone(run, 'pretrain')) return 'pretrain';
    if (currentIndex(run.index) !== undefined) return 'build-index';
    return isDone(run, 'ict-warmup') ? 'ict-warmup' : 'prepare';
  };
  return nextCommands(run, config, done())[0];
}

/** Whether a stage has left a retriever: the inverse cloze task when it is finished or imported, later stages at any step. */
function hasRetriever(run: Run): boolean {
  return RETRIEVER_STAGES.some((stage) =>
    stage === 'ict-warmup' ? isDone(run, stage) : checkpointed(run.checkpoint(stage)) !== undefined,
  );
}

/** Whether a stage is finished, or its weights were imported (step 0). */
function isDone(run: Run, stage: Stage): boolean {
  const saved = checkpointed(run.checkpoint(stage));
  return saved !== undefined && (saved.step === 0 || saved.step >= saved.steps);
}

/** A path or setting, quoted so that a shell reads it as one word. */
export function quoted(word: string): string {
  return /^[\w./@:+-][\w./@:+=-]*$/.test(word) ? word : `'${word.replaceAll("'", `'\\''`)}'`;
}
