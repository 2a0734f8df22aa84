import type { Command } from 'commander';
import { examples, queueOption } from './options.ts';
import { type TrainingOptions, trainingCommand } from './training.ts';

interface FinetuneOptions extends TrainingOptions {
  refreshEvery?: string;
}

export function registerFinetuneQa(program: Command, exitWith: (code: number) => void): void {
  const command = trainingCommand<FinetuneOptions>(program, exitWith, {
    stage: 'finetune-qa',
    description: 'Fine-tune the model to answer questions with spans of retrieved blocks',
    load: async () => (await import('../pipeline/finetune-qa.ts')).finetuneQa,
    own: (command) =>
      queueOption(
        command.option(
          '--refresh-every <steps>',
          'train the document tower too, with a new index every so many steps (qa.refreshEvery)',
        ),
      ),
    settings: ({ refreshEvery }) => (refreshEvery === undefined ? [] : [`qa.refreshEvery=${refreshEvery}`]),
  });
  examples(
    command,
    'finetune-qa --run runs/mine',
    'finetune-qa --run runs/mine --set data.train=questions.jsonl --refresh-every 500',
  );
}
