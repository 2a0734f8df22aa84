import { basename } from 'node:path';
import { type QueueState, queueSummary } from '../queue/state.ts';
import { duration } from '../system/progress.ts';
import { beforeAndAfter } from './before-after.ts';
import { figure, percent, whole } from './format.ts';
import { type Html, html } from './html.ts';
import { swatch } from './look.ts';
import { type NamedRun, STAGE_NAMES } from './named.ts';
import type { Series } from './thin.ts';

/** A card for each run: the progress of its stages, and its main results. */
export function runCards(runs: readonly NamedRun[]): Html {
  return html`<div class="cards">${runs.map((run) => card(run, runs.length > 1))}</div>`;
}

function card(run: NamedRun, letters: boolean): Html {
  const { config, documents, blocks } = run;
  const facts = [
    documents !== undefined && `${whole(documents)} documents`,
    blocks !== undefined && `${whole(blocks)} blocks`,
    config && `${config.model.layers} layers of ${config.model.hidden}`,
    config && `seed ${config.seed}`,
    config && `refresh ${config.refresh.mode === 'off' ? 'off' : `every ${config.refresh.every} steps`}`,
  ].filter((fact) => fact !== false && fact !== undefined);
  const reached = headline(run);
  return html`<article class="card">
<h3>${letters && html`<span class="letter">${run.look.letter}</span> `}${run.name}${letters && html` ${swatch(run.look)}`}</h3>
<p class="soft">${facts.length > 0 ? facts.join(' · ') : 'no settings yet'}</p>
${run.troubles.map((trouble) => html`<p class="trouble">${trouble}</p>`)}
${reached.length > 0 && html`<dl class="headline">${reached.map(({ name, value, note }) => html`<div><dt>${name}</dt><dd>${value}${note !== undefined && html` <small>${note}</small>`}</dd></div>`)}</dl>`}
${stages(run)}
${run.queue && workers(run.queue)}
</article>`;
}

/** What the workers of a queue do for the run. */
function workers(state: QueueState): Html {
  const { leases } = state;
  return html`<p class="soft">${queueSummary(state)}</p>
${leases.length > 0 && html`<table><thead><tr><th scope="col">Shard</th><th scope="col">Worker</th><th scope="col">Lease renewed before</th></tr></thead><tbody>${leases.map(({ shard, worker, seconds }) => html`<tr><td>${shard}</td><td>${worker}</td><td>${duration(seconds)}</td></tr>`)}</tbody></table>`}`;
}

/** Progress of the stages, those without steps only where they were started; the folder of a grid of ablations has none of its own. */
function stages({ stages, ablation }: NamedRun): Html {
  if (ablation && stages.every(({ steps }) => steps === 0)) return html`<p>A grid of ablations.</p>`;
  const listed = stages.filter(
    ({ stage, steps, of }) =>
      steps > 0 || (stage === 'reader-warmup' ? (of ?? 0) > 0 : stage !== 'closed-book' && of !== 0),
  );
  return html`<ul class="stages">${listed.map(({ stage, steps, of }) => {
    const state = steps === 0 ? 'not started' : of !== undefined && steps >= of ? 'done' : 'unfinished';
    return html`<li><span>${STAGE_NAMES[stage]}</span><progress max="${of || 1}" value="${Math.min(steps, of ?? steps)}" aria-label="${STAGE_NAMES[stage]}"></progress><span class="number">${whole(steps)}${of !== undefined && ` / ${whole(of)}`} <span class="soft">${state}</span></span></li>`;
  })}</ul>
${listed.flatMap(({ stage, evaluated }) => {
  const found = beforeAndAfter(evaluated);
  return found.length === 0
    ? []
    : [
        html`<p class="soft">Dev questions, ${STAGE_NAMES[stage]}: ${found.map(({ name, text }) => `${name} ${text}`).join(', ')}</p>`,
      ];
})}`;
}

/** The main results of a run. */
function headline(run: NamedRun): { name: string; value: string; note?: string }[] {
  const found: { name: string; value: string; note?: string }[] = [];
  const exact =
    measured(run, 'exactMatch', 'finetune-qa') ??
    (run.summary?.exactMatch === undefined
      ? undefined
      : { value: run.summary.exactMatch, questions: run.summary.questions });
  if (exact) found.push({ name: 'exact match', value: percent(exact.value), note: certainty(exact) });
  const recall =
    measured(run, 'recall@5', 'pretrain') ??
    (run.summary?.recall5.pretrain === undefined
      ? undefined
      : { value: run.summary.recall5.pretrain, questions: run.summary.questions });
  if (recall)
    found.push({ name: 'recall@5, no question seen', value: percent(recall.value), note: certainty(recall) });
  const utility = run.stages.find(({ stage }) => stage === 'pretrain')?.figures.get('retrievalUtility');
  if (utility) {
    found.push({
      name: 'retrieval utility, last tenth',
      value: figure(lastTenth(utility)),
      note: 'nats a masked word piece',
    });
  }
  const refreshes = run.refreshes.get('pretrain')?.at.count;
  if (refreshes) found.push({ name: 'live index refreshes', value: whole(refreshes) });
  return found;
}

type Measured = { value: number; low?: number; high?: number };
type Counted = Measured & { questions?: number };

/** A metric of the newest evaluation that has it. */
function measured(run: NamedRun, name: string, stage: string): Counted | undefined {
  return run.evaluations
    .filter((e) => e.stage === stage)
    .sort((a, b) => (a.time < b.time ? 1 : -1))
    .flatMap(({ figures, questions }) =>
      figures.filter((f) => f.name === name).map((f) => ({ ...f, questions })),
    )[0];
}

function certainty({ low, high, questions }: Counted): string | undefined {
  const parts = [
    low !== undefined && high !== undefined && `${percent(low)} to ${percent(high)}`,
    questions !== undefined && `${whole(questions)} questions`,
  ].filter((part) => part !== false);
  return parts.length > 0 ? parts.join(', ') : undefined;
}

function lastTenth({ points }: Series): number {
  const last = points.slice(-Math.max(1, Math.floor(points.length / 10)));
  const n = last.reduce((sum, p) => sum + p.n, 0);
  return last.reduce((sum, p) => sum + p.n * p.y, 0) / n;
}

/** All evaluations, one column for each run; undefined if nothing was evaluated. */
export function resultsTable(runs: readonly NamedRun[]): Html | undefined {
  const groups = new Map<string, Map<string, Map<NamedRun, Measured>>>();
  const put = (group: string, name: string, run: NamedRun, value: Measured | undefined) => {
    if (value === undefined) return;
    const rows = groups.get(group) ?? new Map<string, Map<NamedRun, Measured>>();
    groups.set(group, rows);
    const row = rows.get(name) ?? new Map<NamedRun, Measured>();
    rows.set(name, row.set(run, value));
  };
  // The demo's summary repeats its evaluations, if those were recorded.
  const evaluated = runs
    .filter(({ summary }) => summary)
    .every(({ evaluations }) =>
      ['exact-match', 'recall'].every((metric) => evaluations.some((e) => e.metric === metric)),
    );
  for (const run of runs) {
    for (const { metric, stage, file, questions, protocol, heldOut, figures } of run.evaluations) {
      const group = [
        METRICS[metric] ?? metric,
        stage !== '' && `after ${STAGE_NAMES[stage] ?? stage}`,
        file !== '' && basename(file),
        questions !== undefined &&
          `${whole(questions)} ${MASKED.includes(metric) ? 'sentences' : 'questions'}`,
        heldOut === false && 'seen in pretraining',
        protocol !== undefined && `protocol ${protocol}`,
      ].filter((part) => part !== false);
      for (const f of figures.slice(0, MAX_METRICS)) put(group.join(', '), f.name, run, f);
    }
    const { summary } = run;
    if (!summary || evaluated) continue;
    const group = `demo${summary.questions === undefined ? '' : `, ${whole(summary.questions)} held-out questions`}`;
    const value = (share: number | undefined) => (share === undefined ? undefined : { value: share });
    put(group, 'recall@5 after the warm-up', run, value(summary.recall5['ict-warmup']));
    put(group, 'recall@5 after pretraining', run, value(summary.recall5.pretrain));
    put(group, 'recall@5 of BM25', run, value(summary.recall5.bm25));
    put(group, 'exact match', run, value(summary.exactMatch));
    put(group, 'exact match, null document alone', run, value(summary.exactMatchClosedBook));
  }
  if (groups.size === 0) return undefined;
  const intervals = [...groups.values()].some((rows) =>
    [...rows.values()].some((row) => [...row.values()].some(({ low }) => low !== undefined)),
  );
  return html`${intervals && html`<p class="soft">Small numbers are 95 % intervals: the range to expect with other questions or sentences of the same kind.</p>`}
<div class="scroll" role="region" tabindex="0" aria-label="Results of evaluations"><table class="results">
<thead><tr><th scope="col">Metric</th>${runs.map((run) => html`<th scope="col">${runs.length > 1 && html`<span class="letter">${run.look.letter}</span> `}${run.name}</th>`)}</tr></thead>
${[...groups].map(
  ([
    group,
    rows,
  ]) => html`<tbody><tr><th scope="rowgroup" colspan="${runs.length + 1}"><span>${group}</span></th></tr>
${[...rows].map(
  ([name, byRun]) =>
    html`<tr><th scope="row">${words(name)}</th>${runs.map((run) => {
      const found = byRun.get(run);
      return html`<td>${found ? cell(name, found) : '–'}</td>`;
    })}</tr>`,
)}</tbody>`,
)}
</table></div>`;
}

/** Metrics that `realm eval` measures on masked sentences. */
const MASKED = ['perplexity', 'utility'];

const METRICS: Record<string, string> = {
  'exact-match': 'exact match and F1',
  f1: 'exact match and F1',
  judgements: 'judgements of documents',
  utility: 'retrieval utility',
};

/** Metrics of one evaluation that the table shows. */
const MAX_METRICS = 60;

function cell(name: string, { value, low, high }: Measured): Html {
  const format = isShare(name, [value, low ?? value, high ?? value]) ? percent : figure;
  return html`${format(value)}${low !== undefined && high !== undefined && html` <span class="at">${format(low)} to ${format(high)}</span>`}`;
}

/** True of values that are printed in per cent: shares between 0 and 1, not nats, ranks or perplexities. */
function isShare(name: string, values: readonly number[]): boolean {
  return !/perplexity|utility|loss|mrr|questions/i.test(name) && values.every((v) => v >= 0 && v <= 1);
}

const NAMES: Record<string, string> = {
  exactMatch: 'exact match, text',
  tokenExactMatch: 'exact match, tokens',
  closedBook: 'exact match, closed book',
  f1: 'F1',
  mrr: 'mean reciprocal rank',
  nullProbability: 'null document probability',
  nullPerplexity: 'perplexity, null document alone',
  retrievalUtility: 'retrieval utility, nats a masked word piece',
};

const BASELINES: Record<string, string> = {
  bm25: 'BM25',
  hybrid: 'with BM25',
  'ict-warmup': 'warm-up alone',
};

/** A metric's name as words (`readerOracle`: reader oracle), also after the name of a baseline. */
function words(name: string): string {
  const [, baseline, own] = /^(?:(bm25|hybrid|ict-warmup) )?(.*)$/s.exec(name) ?? [];
  if (baseline !== undefined) return `${words(own)}, ${BASELINES[baseline]}`;
  if (Object.hasOwn(NAMES, name)) return NAMES[name];
  return name.replace(/([a-z])([A-Z])/g, (_, a, b) => `${a} ${b.toLowerCase()}`);
}
