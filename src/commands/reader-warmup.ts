import type { Command } from 'commander';
import { examples } from './options.ts';
import { trainingCommand } from './training.ts';

export function registerReaderWarmup(program: Command, exitWith: (code: number) => void): void {
  const command = trainingCommand(program, exitWith, {
    stage: 'reader-warmup',
    description:
      'Warm up the reader: copy a masked span from a given document (for encoders without a masked-language-model head)',
    load: async () => (await import('../pipeline/reader-warmup.ts')).readerWarmup,
  });
  examples(
    command,
    'reader-warmup --run runs/mine',
    'reader-warmup --run runs/mine --set readerWarmup.steps=2000',
  );
}
