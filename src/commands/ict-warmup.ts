import type { Command } from 'commander';
import { examples } from './options.ts';
import { trainingCommand } from './training.ts';

export function registerIctWarmup(program: Command, exitWith: (code: number) => void): void {
  const command = trainingCommand(program, exitWith, {
    stage: 'ict-warmup',
    description: 'Warm up the retriever with the inverse cloze task',
    load: async () => (await import('../pipeline/ict-warmup.ts')).ictWarmup,
  });
  examples(command, 'ict-warmup --run runs/mine', 'ict-warmup --run runs/mine --set ict.steps=2000');
}
