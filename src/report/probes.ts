import { REFRESHED_STAGES } from '../run/stages.ts';
import { clipped, whole } from './format.ts';
import { type Html, html } from './html.ts';
import { type NamedRun, STAGE_NAMES } from './named.ts';
import type { ProbeRecord, Probes } from './record.ts';
import { evenly } from './thin.ts';

/** Probes of one stage that are shown, and for each the moments (columns) and ranks (rows). */
const PROBES = 8;
const COLUMNS = 8;
const RANKS = 5;
/** Tables that are open when the page is loaded. */
const OPEN_TABLES = 2;

/** What the retriever found for the same queries from index to index. */
export function probeTables(runs: readonly NamedRun[]): Html[] {
  return runs.flatMap((run) =>
    REFRESHED_STAGES.flatMap((stage) => {
      const record = run.probes.get(stage);
      if (!record || record.records.count === 0) return [];
      const title = `${runs.length > 1 ? `${run.look.letter} ${run.name}, ` : ''}${STAGE_NAMES[stage]}`;
      return [html`<h3>${title.replace(/^./, (c) => c.toUpperCase())}</h3>${stageProbes(record, title)}`];
    }),
  );
}

function stageProbes({ records }: ProbeRecord, title: string): Html {
  const moments = evenly(records.items(), COLUMNS);
  const left = records.count - moments.length;
  const queries = moments[0].probes.slice(0, PROBES);
  return html`${left > 0 && html`<p class="soft">${whole(moments.length)} of ${whole(records.count)} indexes, evenly spaced; changes are from one column to the next.</p>`}
${queries.map(({ query, answer }, i) => {
  const shown = clipped(query, 200);
  return html`<details class="probe" data-key="probe ${i} of ${title}"${i < OPEN_TABLES && html` open`}>
<summary dir="auto">${shown}${answer !== '' && html` <span class="answer">${clipped(answer, 80)}</span>`}</summary>
<div class="scroll" role="region" tabindex="0" aria-label="Documents found while ${title}, probe ${i + 1}: ${shown}"><table class="ranks">
<thead><tr><th scope="col"><span class="hidden">Rank</span></th>${moments.map(({ inUseAt }) => html`<th scope="col">step ${whole(inUseAt)}</th>`)}</tr></thead>
<tbody>${Array.from(
    { length: RANKS },
    (_, rank) =>
      html`<tr><th scope="row">${rank + 1}</th>${moments.map((moment, m) => found(moment, moments[m - 1], i, rank))}</tr>`,
  )}</tbody></table></div></details>`;
})}`;
}

function found(moment: Probes, before: Probes | undefined, probe: number, rank: number): Html {
  const block = moment.probes[probe]?.blocks[rank];
  if (!block) return html`<td>–</td>`;
  const title = clipped(block.title || block.document, 60);
  const earlier = before?.probes[probe]?.blocks
    .slice(0, RANKS)
    .findIndex(({ document, title }) => document === block.document && title === block.title);
  if (earlier === undefined || earlier === rank) return html`<td dir="auto">${title}</td>`;
  if (earlier < 0) return html`<td class="new" dir="auto"><b>new</b> ${title}</td>`;
  const moved = earlier - rank;
  return html`<td dir="auto">${title} <span class="moved"><span aria-hidden="true">${moved > 0 ? '↑' : '↓'}${Math.abs(moved)}</span><span class="hidden">${moved > 0 ? 'up' : 'down'} ${Math.abs(moved)}</span></span></td>`;
}
