import { clipped, percent, whole } from './format.ts';
import { type Html, html } from './html.ts';
import type { NamedRun } from './named.ts';
import type { Prediction, Predictions } from './record.ts';
import { evenly } from './thin.ts';

/** Of each kind. */
const EXAMPLES = 6;
/** Characters of a passage shown on each side of the answer. */
const CONTEXT_CHARACTERS = 280;

/** Questions answered right and wrong, evenly spaced in the file of predictions. */
export function examples(runs: readonly NamedRun[]): Html[] {
  return runs.flatMap((run) => {
    const { predictions } = run;
    if (!predictions || predictions.right.count + predictions.wrong.count === 0) return [];
    const heading = runs.length > 1 && html`<h3>${run.look.letter} ${run.name}</h3>`;
    return [
      html`${heading}<p class="soft">${whole(predictions.right.count)} right, ${whole(predictions.wrong.count)} wrong; a few of each, evenly spaced. The probability is the answer's share among all spans of all blocks read. It is not calibrated: it does not say how often such answers are right.</p>
<div class="examples">${kind(predictions, 'right')}${kind(predictions, 'wrong')}</div>`,
    ];
  });
}

function kind(predictions: Predictions, name: 'right' | 'wrong'): Html {
  const shown = evenly(predictions[name].items(), EXAMPLES);
  return html`${shown.map((p) => example(p, name))}`;
}

function example(p: Prediction, name: 'right' | 'wrong'): Html {
  const sign = name === 'right' ? '✓' : '✗';
  const accepted = p.answers.slice(0, 5).map((answer) => clipped(answer, 80));
  return html`<article class="example ${name}">
<p class="verdict"><span aria-hidden="true">${sign}</span> ${name}${p.probability !== undefined && html` <span class="soft">probability ${percent(p.probability)}</span>`}</p>
<p class="question" dir="auto">${clipped(p.question, 300)}</p>
<p dir="auto"><strong>${p.prediction === '' ? 'no answer' : clipped(p.prediction, 120)}</strong>${name === 'wrong' && accepted.length > 0 && html` <span class="soft">accepted: ${accepted.join(' / ')}</span>`}</p>
${passage(p)}
${p.title !== '' && html`<p class="source" dir="auto">${clipped(p.title, 120)}</p>`}
</article>`;
}

/** The part of the passage around the answer, with the answer marked. */
function passage({ passage: text, start, end }: Prediction): Html | undefined {
  if (text === undefined || text === '') return undefined;
  const characters = Array.from(text); // code points, which `start` and `end` count
  if (start === undefined || end === undefined || !(start >= 0 && start < end && end <= characters.length)) {
    return html`<blockquote dir="auto">${clipped(text, 2 * CONTEXT_CHARACTERS)}</blockquote>`;
  }
  const part = (from: number, to: number) => characters.slice(from, to).join('');
  const before = part(Math.max(0, start - CONTEXT_CHARACTERS), start);
  const after = part(end, end + CONTEXT_CHARACTERS);
  return html`<blockquote dir="auto">${start > CONTEXT_CHARACTERS && '…'}${before}<mark>${clipped(part(start, end), 200)}</mark>${after}${end + CONTEXT_CHARACTERS < characters.length && '…'}</blockquote>`;
}
