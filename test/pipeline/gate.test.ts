import assert from 'node:assert/strict';
import { before, test } from 'node:test';
import type { Config } from '../../src/config.ts';
import type { Context } from '../../src/pipeline/context.ts';
import { checkNeeds, type GatedStage } from '../../src/pipeline/gate.ts';
import { UserError } from '../../src/system/errors.ts';
import { temporaryFolder } from '../support/tiny.ts';
import { tunedRun } from '../support/tuned-run.ts';

const folder = temporaryFolder('gate');
const STAGES: GatedStage[] = ['ict-warmup', 'build-index', 'pretrain', 'finetune-qa'];
let context: Context;
before(async () => {
  ({ context } = await tunedRun(
    folder,
    'ict={steps: 9, microBatch: 1}',
    'pretrain.steps=9',
    'qa.steps=9',
    'data.dev=none',
  ));
});

const withConfig = (change: (config: Config) => Partial<Config>) => ({
  ...context,
  config: { ...context.config, ...change(context.config) },
});

const refused = (message: RegExp) => (error: unknown) =>
  error instanceof UserError && message.test(error.message);

test('a stage of minutes starts, even if a file of questions is missing', async () => {
  for (const stage of STAGES) await checkNeeds(context, stage);
});

test('a stage that needs a multiple of the memory is refused with the setting to lower', async () => {
  const large = withConfig(({ model }) => ({ model: { ...model, layers: 1000, hidden: 100_000 } }));
  for (const stage of STAGES)
    await assert.rejects(
      checkNeeds(large, stage),
      refused(
        new RegExp(
          `^${stage}: needs about [\\d.]+ GiB of memory, but this machine has .*; lower .*, or add --yes to start it anyway$`,
        ),
      ),
    );
});

test('ranks on one machine share its memory', async () => {
  const ranksHere = 2 ** 20;
  await assert.rejects(
    checkNeeds(context, 'ict-warmup', { ranksHere }),
    refused(
      /^ict-warmup: needs about .* but this machine has 0\.0 GiB for each of its 1048576 ranks; lower /,
    ),
  );
});

test('a stage of months is refused, but not a finished one', async () => {
  // A billion steps of 42 passes each: fifty days at a tenth of a millisecond a pass.
  const long = (steps: number) => withConfig(({ ict }) => ({ ict: { ...ict, steps } }));
  await assert.rejects(
    checkNeeds(long(1e9), 'ict-warmup'),
    refused(
      /^ict-warmup: would take about .* (days|years) on this machine, more than 3 days; lower ict\.steps or ict\.batch, or add --yes/,
    ),
  );
  // The checkpoint of this run is of its only step.
  await checkNeeds(long(1), 'ict-warmup');
});
