import { warn } from '../system/progress.ts';

/** A stage without a single positive in so many steps has probably nothing to learn from. */
const STEPS = 10;

/**
 * Returns a function that looks at the metrics of each step of fine-tuning and warns once: after the first 10 steps, or the
 * last step if that is earlier, where no question had an answer in its blocks (facebookresearch/DPR, issue 25: a loss of 0 hides that).
 * @param steps of the whole stage
 */
export function watchPositives(steps: number): (step: number, metrics: Record<string, number>) => void {
  let seen = 0;
  let watching = true;
  return (step, metrics) => {
    if (!watching) return;
    seen++;
    if (metrics.retrieved > 0 || metrics.read > 0 || metrics.contrastiveLoss > 0) watching = false;
    else if (seen === STEPS || step === steps - 1) {
      watching = false;
      warn(
        `finetune-qa: in ${seen} ${seen === 1 ? 'step' : 'steps'} no question had an answer in the blocks found for it, so nothing is learnt; check that the documents hold the answers of data.train, or raise qa.retrieverBlocks`,
      );
    }
  };
}
