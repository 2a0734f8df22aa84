import type { Command } from 'commander';
import type { CommonOptions } from '../pipeline/context.ts';
import { RETRIEVER_STAGES, type RetrieverStage } from '../run/stages.ts';
import { GROUPS } from './help.ts';
import { examples, runOptions, settingsOptions, stageOption } from './options.ts';
import { print, printNext, valueLines } from './print.ts';

export function registerImport(program: Command): void {
  const command = program
    .command('import')
    .helpGroup(GROUPS.train)
    .description(
      "Import published weights (model.initial) as a stage's checkpoint, and their block embeddings if any",
    );
  stageOption(command, 'stage to import them as', RETRIEVER_STAGES, 'pretrain');
  runOptions(settingsOptions(command));
  examples(
    command,
    'import --run runs/mine --set model.initial=hf:google/realm-cc-news-pretrained-encoder',
    'import --run runs/mine --stage finetune-qa --set model.initial=models/realm-orqa-nq-openqa',
  );
  command.action(async (options: CommonOptions & { stage: RetrieverStage }) => {
    const { openRunForWork } = await import('../pipeline/context.ts');
    const { importStage } = await import('../pipeline/import.ts');
    const { withHubModels } = await import('../pipeline/hub-models.ts');
    const { runFolder } = await import('../run/folder.ts');
    const set = await withHubModels(runFolder(options.run), options);
    const context = await openRunForWork({ ...options, set }, 'import');
    const imported = await importStage(context, options.stage);
    print(options, imported, valueLines(imported));
    await printNext(context, options.stage);
  });
}
