import * as tf from '@tensorflow/tfjs';
import { hasFused } from '../engine/fused.ts';
import { statisticsOfCorpus } from '../preflight/corpus-statistics.ts';
import { measureElementwise, measureKernel, measureProduct } from '../preflight/machine.ts';
import { preflight } from '../preflight/needs.ts';
import { about } from '../preflight/rates.ts';
import type { Machine, StageNeeds } from '../preflight/types.ts';
import { stepsOf } from '../run/folder.ts';
import { UserError } from '../system/errors.ts';
import { memoryLimit } from '../system/memory.ts';
import { latestState } from '../train/checkpoints.ts';
import type { Context } from './context.ts';

/** Seconds that a stage may take without `--yes`: 3 days. */
const LONGEST = 3 * 86_400;

/** Estimates are right within a factor of 2 (see docs/training.md): a stage is refused where half of one is too much. */
const MARGIN = 2;

/** Rates below those of any machine: what is short by them needs no measurement. */
const SLOW = { dense: 2e9, attention: 1e9, elementwise: 1e9, kernel: 1e-4 };

/** The stages that are looked at before they start, by their names in the estimate. */
export const GATED_STAGES = ['ict-warmup', 'build-index', 'pretrain', 'finetune-qa'] as const;
export type GatedStage = (typeof GATED_STAGES)[number];

/**
 * A `UserError` where a stage would clearly need more memory than the machine has, or more than three days. It costs a look
 * at the corpus; only what may be long is measured, in about a second, by the fastest round: other work on the machine makes
 * rounds slower, and it may be over soon.
 * @param options.again the stage is trained from its beginning, whatever checkpoint there is
 */
export async function checkNeeds(context: Context, stage: GatedStage, { again = false } = {}): Promise<void> {
  const { run, config } = context;
  const { data } = config;
  // Only lengths of questions depend on these files, and a stage that does not read them must not fail on them.
  const files = { ...data, train: null, dev: null, test: null };
  const { counts } = await statisticsOfCorpus(run.corpus, { ...config, data: files });
  const left = again ? 1 : shareLeft(context, stage);
  if (left <= 0) return;
  const memory = memoryLimit();
  const needs = (rates: typeof SLOW): StageNeeds => {
    const machine: Machine = { memory, diskFree: Number.POSITIVE_INFINITY, fused: hasFused(), ...rates };
    return preflight(config, counts, machine).stages.find((s) => s.stage === stage)!;
  };
  const start = 'add --yes to start it anyway';
  const slow = needs(SLOW);
  const onGpu =
    (tf.backend() as { isUsingGpuDevice?: boolean }).isUsingGpuDevice === true || context.engine === 'webgpu';
  // A graphics card has memory of its own, in which the tensors are.
  if (!onGpu && slow.memory > MARGIN * memory)
    throw new UserError(
      `${stage}: needs about ${gib(slow.memory)} of memory, this machine has ${gib(memory)}; ${slow.memoryRemedy}, or ${start}`,
    );
  if (left * slow.seconds <= LONGEST) return;
  const measured = needs(await measureRates(context, counts.body.mean));
  const seconds = left * measured.seconds;
  if (seconds > MARGIN * LONGEST)
    throw new UserError(
      `${stage}: would take about ${about(seconds)} on this machine, more than ${LONGEST / 86_400} days; ${measured.timeRemedy}, or ${start}`,
    );
}

/** The share of a stage that is still to be done. */
function shareLeft({ run, config }: Context, stage: GatedStage): number {
  if (stage === 'build-index') return 1;
  return 1 - (latestState(run.checkpoint(stage))?.step ?? 0) / stepsOf(config, stage);
}

/** Rates of products of the model's own sizes. */
async function measureRates({ config }: Context, body: number): Promise<typeof SLOW> {
  const { hidden, heads, intermediate } = config.model;
  const tokens = Math.min(config.text.blockTokens, Math.max(8, Math.round(body)));
  const width = hidden / heads;
  return {
    dense: await measureProduct([2048, hidden], [hidden, intermediate], 'fastest'),
    attention: await measureProduct([16 * heads, tokens, width], [16 * heads, width, tokens], 'fastest'),
    elementwise: await measureElementwise('fastest'),
    kernel: await measureKernel('fastest'),
  };
}

const gib = (bytes: number) => `${(bytes / 2 ** 30).toFixed(1)} GiB`;
