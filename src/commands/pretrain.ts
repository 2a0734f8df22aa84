import type { Command } from 'commander';
import { examples, queueOption } from './options.ts';
import { trainingCommand } from './training.ts';

export function registerPretrain(program: Command, exitWith: (code: number) => void): void {
  const command = trainingCommand(program, exitWith, {
    stage: 'pretrain',
    description: 'Train retriever and reader together on masked salient spans, with a live index refresh',
    own: queueOption,
    load: async () => (await import('../pipeline/pretrain.ts')).pretrain,
  });
  examples(command, 'pretrain --run runs/mine', 'pretrain --run runs/mine --resume best');
}
