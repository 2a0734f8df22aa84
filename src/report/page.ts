import { readFileSync } from 'node:fs';
import type { Run } from '../run/folder.ts';
import { ablations } from './ablation.ts';
import { lossCharts, paceCharts, retrievalCharts } from './curves.ts';
import { examples } from './examples.ts';
import { type Html, html, raw } from './html.ts';
import { named } from './named.ts';
import { probeTables } from './probes.ts';
import { readRun } from './record.ts';
import { resultsTable, runCards } from './summary.ts';

/** The page's whole style, and its whole script if it is served live: exactly the text between the tags, because a content security policy has their hashes. */
export const STYLE = readFileSync(new URL('./style.css', import.meta.url), 'utf8');
export const SCRIPT = readFileSync(new URL('./live.js', import.meta.url), 'utf8');

/**
 * A complete HTML page about the runs that needs no other file.
 * @param live adds a question box and a script that keeps the report up to date: the server's page at `/`
 * @param logout adds a button that ends the browser's session
 */
export function reportPage(
  runs: readonly Run[],
  { live, logout = false }: { live: boolean; logout?: boolean },
): string {
  const names = named(runs.map((run) => ({ dir: run.dir }))).map(({ name }) => name);
  const title = names.length === 1 ? names[0] : `${names.length} runs compared`;
  return html`<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>${title} – realm</title>
<link rel="icon" href="data:,">
<style>${raw(STYLE)}</style>
</head>
<body>
<header class="top">
<p class="kicker">realm</p>
<h1>${title}</h1>
${names.length > 1 && html`<p class="soft">${names.join(' · ')}</p>`}
${logout && html`<form method="post" action="logout"><button type="submit">Log out</button></form>`}
</header>
${live && question()}
<main id="report">
${raw(reportBody(runs))}
</main>
<footer><p>Drawn from the records in ${names.length === 1 ? 'the run folder' : 'the run folders'}.</p></footer>
${live && html`<script>${raw(SCRIPT)}</script>`}
</body>
</html>
`.text;
}

/** The report on the runs: the content of the page's `<main>`. */
export function reportBody(runs: readonly Run[]): string {
  const all = named(runs.map(readRun));
  const loss = lossCharts(all);
  const retrieval = retrievalCharts(all);
  const pace = paceCharts(all);
  const results = resultsTable(all);
  const probes = probeTables(all);
  const table = ablations(all);
  const answered = examples(all);
  const reading = html`<p class="soft">Axes of shares, ages and times start at 0, others at their lowest value. Bold lines are moving averages of the thin lines, which show the logged values${all.some(({ stages }) => stages.some(({ figures }) => [...figures.values()].some(({ per }) => per > 1))) && '; in a long log each point is the mean of neighbouring values, and the band reaches from the lowest to the highest of them'}; the lowest and highest 1 % may be drawn at the frame's edge. ${all.length > 1 ? 'Ticks above the axis' : 'Dotted lines'} mark new indexes, ◇ evaluations with their 95 % intervals.</p>`;
  const sections = [
    section('runs', all.length > 1 ? 'The runs' : 'The run', html`${runCards(all)}${updated(all)}`),
    results && section('results', 'Results', results),
    retrieval.length > 0 &&
      section('retrieval', 'Retrieval', html`${reading}<div class="charts">${retrieval}</div>`),
    loss.length > 0 &&
      section('loss', 'Loss', html`${retrieval.length === 0 && reading}<div class="charts">${loss}</div>`),
    pace.length > 0 && section('pace', 'Pace', html`<div class="charts">${pace}</div>`),
    probes.length > 0 &&
      section(
        'probes',
        'What the retriever finds',
        html`<p class="soft">The best blocks for the same queries each time a new index was swapped in. Underlined: the answer masked in the query. <b class="new">new</b>: the document was not among the five best in the column before; ↑ ↓: how many ranks it moved since then.</p>${probes}`,
      ),
    table.length > 0 && section('ablations', 'Ablations', html`${table}`),
    answered.length > 0 && section('examples', 'Examples', html`${answered}`),
  ].filter((s) => s !== undefined && s !== false);
  return html`<nav aria-label="Sections"><ul>${sections.map(({ id, title }) => html`<li><a href="#${id}">${title}</a></li>`)}</ul></nav>
${sections.map(({ content }) => content)}`.text;
}

function section(id: string, title: string, content: Html): { id: string; title: string; content: Html } {
  return {
    id,
    title,
    content: html`<section id="${id}" aria-labelledby="${id}-title">
<h2 id="${id}-title">${title}</h2>
${content}
</section>
`,
  };
}

/** The time of the newest record, not of the clock: the same records make the same page. */
function updated(runs: readonly { written: number | undefined }[]): Html | false {
  const times = runs.flatMap(({ written }) => written ?? []);
  if (times.length === 0) return false;
  const time = new Date(Math.max(...times)).toISOString();
  return html`<p class="soft">Newest record: <time datetime="${time}">${time.slice(0, 16).replace('T', ' ')} UTC</time></p>`;
}

function question(): Html {
  return html`<section id="ask" aria-labelledby="ask-title">
<h2 id="ask-title">Ask</h2>
<form>
<label for="question">A question for this run</label>
<div class="box"><input id="question" name="question" type="text" autocomplete="off" maxlength="1000" required disabled><button type="submit" disabled>Ask</button></div>
</form>
<noscript><p class="trouble">Asking needs JavaScript; the report below is complete without it. You can also run "realm ask" on the command line.</p></noscript>
<div id="answers" aria-live="polite"></div>
</section>`;
}
