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

/** Longer stages need `--yes`: 3 days. */
const MAX_STAGE_SECONDS = 3 * 86_400;

/** Estimates are right within a factor of 2 (see docs/training.md): a stage is refused if half of its estimate is too much. */
const MARGIN = 2;

/** Slower than any machine: a stage that is short at these rates needs no measurement. */
const SLOWEST_RATES = { dense: 2e9, attention: 1e9, elementwise: 1e9, kernel: 1e-4 };

/** The stages that are checked before they start, by their names in the estimate. */
export const GATED_STAGES = [
  'ict-warmup',
  'build-index',
  'reader-warmup',
  'pretrain',
  'finetune-qa',
] as const;
export type GatedStage = (typeof GATED_STAGES)[number];

/**
 * Throws a `UserError` if a stage would clearly need more memory than the machine has, or more than three days. It reads
 * statistics of the corpus. Speed is measured, in about a second, only for a stage that may be long. The fastest round
 * counts, because other work on the machine makes rounds slower and may end soon.
 * @param options.again the stage is trained from scratch, even if there is a checkpoint
 * @param options.ranksHere ranks on this machine, each of which needs memory of its own
 */
export async function checkNeeds(
  context: Context,
  stage: GatedStage,
  { again = false, ranksHere = 1 } = {},
): Promise<void> {
  const { run, config } = context;
  const { data } = config;
  // Only lengths of questions depend on these files, and a stage that does not read them must not fail on them.
  const files = { ...data, train: null, dev: null, test: null };
  const { counts } = await statisticsOfCorpus(run.corpus, { ...config, data: files });
  if (stage !== 'build-index' && stepsOf(config, stage) === 0) return; // the stage does nothing
  // Each of several ranks does its part.
  const left = (again ? 1 : shareLeft(context, stage)) / (context.ranks?.size ?? 1);
  if (left <= 0) return;
  const memory = memoryLimit() / ranksHere;
  const needs = (rates: typeof SLOWEST_RATES): StageNeeds => {
    const machine: Machine = { memory, diskFree: Number.POSITIVE_INFINITY, fused: hasFused(), ...rates };
    return preflight(config, counts, machine).stages.find((s) => s.stage === stage)!;
  };
  const start = 'add --yes to start it anyway';
  const slow = needs(SLOWEST_RATES);
  const onGpu =
    (tf.backend() as { isUsingGpuDevice?: boolean }).isUsingGpuDevice === true || context.engine === 'webgpu';
  // A GPU has its own memory for the tensors.
  if (!onGpu && slow.memory > MARGIN * memory)
    throw new UserError(
      `${stage}: needs about ${gib(slow.memory)} of memory, but this machine has ${gib(memory)}${ranksHere > 1 ? ` for each of its ${ranksHere} ranks` : ''}; ${slow.memoryRemedy}, or ${start}`,
    );
  if (left * slow.seconds <= MAX_STAGE_SECONDS) return;
  const measured = needs(await measureRates(context, counts.body.mean));
  const seconds = left * measured.seconds;
  if (seconds > MARGIN * MAX_STAGE_SECONDS)
    throw new UserError(
      `${stage}: would take about ${about(seconds)} on this machine, more than ${MAX_STAGE_SECONDS / 86_400} days; ${measured.timeRemedy}, or ${start}`,
    );
}

/** The share of a stage that remains. */
function shareLeft({ run, config }: Context, stage: GatedStage): number {
  if (stage === 'build-index') return 1;
  return 1 - (latestState(run.checkpoint(stage))?.step ?? 0) / stepsOf(config, stage);
}

/** Speeds measured with matrices of the model's own sizes. */
async function measureRates({ config }: Context, body: number): Promise<typeof SLOWEST_RATES> {
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
