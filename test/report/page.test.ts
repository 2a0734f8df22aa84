import assert from 'node:assert/strict';
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { after, test } from 'node:test';
import { parseHTML } from 'linkedom';
import { report } from '../../src/pipeline/report.ts';
import { reportBody, reportPage, SCRIPT, STYLE } from '../../src/report/page.ts';
import { lockRun, runFolder } from '../../src/run/folder.ts';
import { commandLine } from '../support/command-line.ts';
import { queueState } from '../support/queue-state.ts';

const root = mkdtempSync(join(tmpdir(), 'realm-report-'));
after(() => rmSync(root, { recursive: true, force: true }));

/** A run folder with these files: an object is JSON, a list JSONL. */
function runOf(name: string, files: Record<string, unknown>): string {
  const dir = join(root, name);
  mkdirSync(dir, { recursive: true });
  for (const [path, content] of Object.entries(files)) {
    mkdirSync(dirname(join(dir, path)), { recursive: true });
    const text =
      typeof content === 'string'
        ? content
        : Array.isArray(content)
          ? content.map((record) => `${JSON.stringify(record)}\n`).join('')
          : JSON.stringify(content);
    writeFileSync(join(dir, path), text);
  }
  return dir;
}

function parsed(...dirs: string[]) {
  const page = reportPage(dirs.map(runFolder), { live: false });
  return { page, document: parseHTML(page).document };
}

type Parsed = ReturnType<typeof parsed>['document'];

function figureOf(document: Parsed, title: string) {
  const found = [...document.querySelectorAll('figure')].find(
    (figure) => figure.querySelector('figcaption strong')?.textContent === title,
  );
  assert.ok(found, title);
  return found;
}

const textOf = (element: { textContent: string | null } | null | undefined) =>
  element?.textContent?.replace(/\s+/g, ' ').trim();

const EVIL = '"\'&lt;</title></script><script>alert(1)</script><img src=x onerror=alert(2)>';

const PROBES = [
  { inUseAt: 0, titles: ['Alder', 'Birch', 'Cedar'] },
  { inUseAt: 40, titles: ['Birch', 'Alder', 'Elm'] },
].map(({ inUseAt, titles }, i) => ({
  step: inUseAt,
  inUseAt,
  questions: 100,
  recall: { 1: 0.25 + i / 4, 5: 0.5 + i / 8 },
  probes: [
    {
      query: 'The ____ grows.',
      answer: 'tree',
      blocks: titles.map((title, block) => ({ block, document: title, title, score: 1 })),
    },
  ],
}));

const full = runOf('full', {
  'config.yaml': 'seed: 7\npretrain: {steps: 100}\nict: {steps: 50}\n',
  'metrics/ict-warmup.jsonl': [
    { step: 25, loss: 3.5, stepSeconds: 0.25 },
    { step: 50, loss: 1.25, stepSeconds: 0.5 },
  ],
  'metrics/pretrain.jsonl': [
    { step: 50, loss: 1, retrievalUtility: 0.5, nullProbability: 0.125, indexAgeSteps: 20, stepSeconds: 0.1 },
    {
      step: 100,
      loss: 2,
      retrievalUtility: 1.5,
      nullProbability: 0.0625,
      indexAgeSteps: 30,
      stepSeconds: 0.2,
    },
  ],
  'metrics/pretrain-refreshes.jsonl': [
    { inUseAt: 40, overlap10: 0.75 },
    { inUseAt: 80, overlap10: 0.875 },
  ],
  'metrics/pretrain-probes.jsonl': PROBES,
  'metrics/evaluations.jsonl': [
    {
      time: '2026-01-01T00:00:00Z',
      metric: 'f1',
      stage: 'finetune-qa',
      file: 'a/test.jsonl',
      questions: 9,
      protocol: 'orqa',
      figures: { exactMatch: 0.1 },
    },
    {
      time: '2026-01-02T00:00:00Z',
      metric: 'exact-match',
      stage: 'finetune-qa',
      file: 'a/test.jsonl',
      questions: 9,
      protocol: 'orqa',
      figures: { exactMatch: { value: 0.4321, low: 0.4, high: 0.5 }, mrr: 0.5 },
    },
    {
      time: '2026-01-02T00:00:00Z',
      metric: 'recall',
      stage: 'ict-warmup',
      file: 'a/test.jsonl',
      questions: 9,
      protocol: 'dpr',
      figures: { 'recall@5': { value: 0.3, low: 0.2, high: 0.4 }, 'bm25 recall@5': 0.9 },
    },
    {
      time: '2026-01-02T00:00:00Z',
      metric: 'recall',
      stage: 'pretrain',
      file: 'a/test.jsonl',
      questions: 9,
      protocol: 'dpr',
      figures: { 'recall@5': 0.6, 'ict-warmup recall@5': { value: 0.35, low: 0.3, high: 0.45 } },
    },
    {
      time: '2026-01-02T00:00:00Z',
      metric: 'perplexity',
      stage: 'pretrain',
      file: null,
      questions: 9,
      heldOut: false,
      protocol: null,
      figures: { perplexity: 12.34, broken: 'x' },
    },
  ],
  'predictions.jsonl': [
    {
      question: 'Who?',
      answers: ['Ada'],
      prediction: 'Ada',
      correct: true,
      title: 'Ada',
      probability: 0.5,
      passage: '🏛 It was Ada herself.',
      start: 9, // in code points
      end: 12,
    },
    {
      question: `When ${EVIL}?`,
      answers: [EVIL],
      prediction: EVIL,
      correct: false,
      title: EVIL,
      probability: 0.25,
      passage: `In ${EVIL}.`,
      start: 3,
      end: 3 + EVIL.length,
    },
    {
      question: 'Where?',
      answers: ['there'],
      prediction: 'here',
      correct: false,
      title: 'T',
      probability: 0.25,
      passage: 'here',
      start: 2,
      end: 99,
    },
  ],
});

test('the card of a run shows its workers while the process that waits for them works', () => {
  const dir = runOf('queued', { 'config.yaml': 'seed: 1\n' });
  const release = lockRun(runFolder(dir), 'build-index');
  writeFileSync(join(dir, 'queue.json'), JSON.stringify(queueState('<b>')));
  const card = parsed(dir).document.querySelector('.card')!;
  const sentence =
    'queue redis://host:6379: 3 of 8 shards of step-0000500 are used, 1 at work, 3 waiting or done, 1 failed, 2 workers';
  assert.ok(textOf(card)!.includes(sentence), textOf(card));
  assert.deepEqual([...card.querySelectorAll('td')].map(textOf), ['4', '<b>', '12 s']);
  release();
  assert.ok(!parsed(dir).page.includes('redis://'));
});

test('the closed-book baseline is listed where it was started', () => {
  const { document } = parsed(runOf('closed', { 'metrics/closed-book.jsonl': [{ step: 5, loss: 1 }] }));
  const stages = [...document.querySelectorAll('.stages li')].map(textOf);
  assert.equal(stages.length, 4);
  assert.match(stages[3]!, /^closed book5 .*unfinished$/);
});

test('dev results before and after a stage are in the card of the run', () => {
  const dir = runOf('before-after', {
    'config.yaml': 'pretrain: {steps: 100}\n',
    'metrics/pretrain.jsonl': [{ step: 100, loss: 1 }],
    'checkpoints/pretrain/latest': 'step-0000100\n',
    'checkpoints/pretrain/step-0000100/state.json': {
      step: 100,
      steps: 100,
      evaluated: { sha256: 'q', start: { 'devRecall@1': 0.25 }, end: { 'devRecall@1': 0.5 } },
    },
  });
  const { document } = parsed(dir);
  assert.match(
    textOf(document.querySelector('.card'))!,
    /Dev questions, pretraining: recall@1 25\.0 % to 50\.0 %/,
  );
});

test('the page has the values of the records', () => {
  const { document } = parsed(full);
  assert.equal(document.title, 'full – realm');
  const stages = [...document.querySelectorAll('.stages li')].map(textOf);
  assert.equal(stages[0], 'inverse cloze warm-up50 / 50 done');
  assert.equal(stages[1], 'pretraining100 / 100 done');
  assert.match(stages[2]!, /^fine-tuning0 .*not started$/);
  assert.equal(stages.length, 3, 'no closed-book baseline, which was never started');
  assert.match(textOf(document.querySelector('.card'))!, /seed 7 · refresh every 500 steps/);
  const headline = [...document.querySelectorAll('.headline div')].map(textOf);
  assert.deepEqual(headline, [
    'exact match43.2 % 40.0 % to 50.0 %, 9 questions',
    'recall@5, no question seen60.0 % 9 questions',
    'retrieval utility, last tenth1.50 nats a masked word piece',
    'live index refreshes2',
  ]);
  const results = [...document.querySelectorAll('#results tr')].map(textOf);
  assert.deepEqual(results, [
    'Metricfull',
    'exact match and F1, after fine-tuning, test.jsonl, 9 questions, protocol orqa',
    'exact match, text43.2 % 40.0 % to 50.0 %',
    'mean reciprocal rank0.500',
    'recall, after inverse cloze warm-up, test.jsonl, 9 questions, protocol dpr',
    'recall@530.0 % 20.0 % to 40.0 %',
    'recall@5, BM2590.0 %',
    'recall, after pretraining, test.jsonl, 9 questions, protocol dpr',
    'recall@560.0 %',
    'recall@5, warm-up alone35.0 % 30.0 % to 45.0 %',
    'perplexity, after pretraining, 9 sentences, seen in pretraining',
    'perplexity12.3',
  ]);
});

test('a line is drawn at its values', () => {
  const { document } = parsed(full);
  const chart = figureOf(document, 'Loss, pretraining');
  // The frame is 250 by 162 pixels from (58, 12); the axes go from step 0 to 100 and, with 6 % of padding, from 0.94 to 2.06.
  const y = (loss: number) => Math.round(10 * (12 + (162 * (2.06 - loss)) / 1.12)) / 10;
  const lines = [...chart.querySelectorAll('svg path')].map((path) => path.getAttribute('d'));
  assert.ok(lines.includes(`M183,${y(1)}L308,${y(2)}`), lines.join(' '));
  // Refreshes at steps 40 and 80.
  const rules = [...chart.querySelectorAll('svg line[x1="158"], svg line[x1="258"]')];
  assert.equal(rules.length, 2);
  const label = chart.querySelector('svg')!.getAttribute('aria-label')!;
  assert.match(label, /full: from 1 at step 50 to 2 at step 100\. Refreshes of the index are marked/);
  const row = [...chart.querySelectorAll('tbody td')].map(textOf);
  assert.deepEqual(row, ['1 at 50', '1 at 50', '2 at 100', '2 at 100']);
  assert.equal(chart.querySelector('svg')!.getAttribute('role'), 'img');
});

test('recall is shown over refreshes, with evaluations marked', () => {
  const { document } = parsed(full);
  const rows = [...figureOf(document, 'Recall@5, pretraining').querySelectorAll('tbody tr')].map(textOf);
  assert.deepEqual(rows, [
    'full50.0 % at 050.0 % at 062.5 % at 4062.5 % at 40',
    'full, evaluated after inverse cloze warm-up30.0 % (20.0 % to 40.0 %) at 0',
    'full, evaluated after pretraining60.0 % at 100',
    'full, evaluated after inverse cloze warm-up35.0 % (30.0 % to 45.0 %) at 0',
  ]);
  const notes = ['Recall@5, pretraining', 'Recall@1, pretraining'].map((title) =>
    textOf(figureOf(document, title).querySelector('figcaption span')),
  );
  assert.deepEqual(notes, ['line: 100 dev questions; ◇ evaluations', 'line: 100 dev questions']);
  // Axes of shares start at 0: the frame is 162 pixels high, from 0 to 51.5 %.
  const y = (share: number) => Math.round(10 * (12 + 162 * (1 - share / 0.515))) / 10;
  const lines = [...figureOf(document, 'Recall@1, pretraining').querySelectorAll('svg path')];
  assert.ok(lines.some((path) => path.getAttribute('d') === `M58,${y(0.25)}L308,${y(0.5)}`));
  const overlap = figureOf(document, 'Blocks kept by a refresh, pretraining');
  assert.match(textOf(overlap.querySelector('tbody'))!, /^full75\.0 % at 40.*87\.5 % at 80$/);
});

test('the table of a probe shows which documents are new and which have moved', () => {
  const { document } = parsed(full);
  const rows = [...document.querySelectorAll('.ranks tbody tr')].map((row) =>
    [...row.querySelectorAll('td')].map(textOf),
  );
  assert.deepEqual(rows, [
    ['Alder', 'Birch ↑1up 1'],
    ['Birch', 'Alder ↓1down 1'],
    ['Cedar', 'new Elm'],
    ['–', '–'],
    ['–', '–'],
  ]);
});

test('examples mark the answer in its passage, and nothing if its position is outside the passage', () => {
  const { document } = parsed(full);
  const [right, evil, beyond] = document.querySelectorAll('.example');
  assert.match(textOf(right)!, /^✓ right probability 50\.0 % Who\? Ada 🏛 It was Ada herself\. Ada$/u);
  assert.equal(right.querySelector('mark')?.textContent, 'Ada');
  assert.equal(evil.querySelector('mark')?.textContent, EVIL);
  assert.equal(beyond.querySelector('mark'), null);
  assert.match(textOf(beyond)!, /✗ wrong .* here accepted: there here T$/);
  assert.match(textOf(document.querySelector('#examples'))!, /1 right, 2 wrong/);
});

test('texts of a run are never HTML, and a page loads no other file', () => {
  const named = runOf(`evil <img src=x onerror=alert(3)>`, {
    'metrics/pretrain-probes.jsonl': [
      {
        inUseAt: 0,
        probes: [{ query: EVIL, answer: EVIL, blocks: [{ document: EVIL, title: EVIL }] }],
      },
    ],
    'metrics/evaluations.jsonl': [
      { time: EVIL, metric: EVIL, stage: EVIL, file: EVIL, protocol: EVIL, figures: { [EVIL]: 1 } },
    ],
    'ablation/table.json': { rows: [{ name: EVIL, label: EVIL, exactMatch: { mean: 0.5 } }] },
    'metrics/ict-warmup.jsonl': [{ step: 1, loss: 1, [EVIL]: 2 }],
  });
  const { page, document } = parsed(named, full);
  assert.equal(document.querySelectorAll('script, img, iframe, object, embed').length, 0);
  assert.ok(!/<script|<img/i.test(page));
  const ticks = [...document.querySelectorAll('#ablations svg text')].map((text) => text.textContent);
  assert.ok(ticks.includes(`${EVIL.slice(0, 50)}…`), ticks.join());
  for (const element of document.querySelectorAll('*')) {
    for (const { name } of element.attributes) assert.ok(!/^on|^style$/.test(name), name);
  }
  const links = [...document.querySelectorAll('[href], [src]')].map((e) => e.getAttribute('href') ?? '');
  assert.deepEqual([...new Set(links.map((link) => link[0]))].sort(), ['#', 'd']);
  assert.ok(links.every((link) => link.startsWith('#') || link === 'data:,'));
  assert.ok(!/https?:/.test(page.replaceAll('http://www.w3.org/', '')));
  assert.ok(!/@import|url\(/.test(STYLE));
});

test('several runs share a chart and differ by letter, dash and marker', () => {
  const other = runOf('other/full', {
    'metrics/pretrain.jsonl': [
      { step: 10, loss: 4 },
      { step: 60, loss: 3 },
    ],
  });
  const { document } = parsed(full, other);
  const chart = figureOf(document, 'Loss, pretraining');
  assert.deepEqual([...chart.querySelectorAll('tbody tr')].map(textOf), [
    `A ${full}1 at 501 at 502 at 1002 at 100`,
    `B ${other}4 at 103 at 604 at 103 at 60`,
  ]);
  const texts = [...chart.querySelectorAll('svg text')].map((text) => text.textContent);
  assert.ok(texts.includes('A 2') && texts.includes('B 3'), texts.join());
  assert.equal(chart.querySelectorAll('svg [stroke-dasharray="6 3"]').length, 1);
  const swatches = document.querySelectorAll('.swatch line');
  assert.equal(swatches[0].hasAttribute('stroke-dasharray'), false);
  assert.equal(swatches[1].getAttribute('stroke-dasharray'), '6 3');
  // A run given twice is two runs.
  assert.equal(parsed(full, full).document.querySelectorAll('.card').length, 2);
});

test('a grid of ablations is compared with the paper', () => {
  const row = (name: string, mean: number, exactMatch: number | null, at5 = 0.5) => ({
    name,
    label: `row ${name}`,
    exactMatch: { mean, low: mean - 0.1, high: mean + 0.1, bySeed: [mean - 0.05, mean + 0.05] },
    recall5: { mean: at5, low: at5 - 0.1, high: at5 + 0.1, bySeed: [at5, at5] },
    paper: exactMatch === null ? null : { exactMatch, recall5: 0.9 },
  });
  const grid = runOf('grid', {
    'config.yaml': '{}\n',
    'ablation/table.json': {
      seeds: 2,
      questions: 20,
      rows: [row('stale', 0.8, 28.7), row('no-null', 0.7, null), row('realm', 0.75, 38.2), row('x', 0.6, 30)],
      order: {
        exactMatch: {
          pairs: [
            { better: 'realm', worse: 'stale', difference: { mean: -0.05, low: -0.0812, high: -0.01 } },
            { better: 'realm', worse: 'x', difference: { mean: 0.15, low: 0.1, high: 0.2 } },
            { better: 'x', worse: 'stale', difference: { mean: 0.02, low: -0.03, high: 0.06 } },
          ],
          tau: 1 / 3,
        },
        recall5: { pairs: [], tau: null },
      },
    },
  });
  const { document } = parsed(grid);
  const [table, pairs, none] = [...document.querySelectorAll('#ablations table')].map((table) =>
    [...table.querySelectorAll('tbody tr')].map((tr) => [...tr.querySelectorAll('th, td')].map(textOf)),
  );
  const at5 = ['50.0 % 40.0 % to 60.0 %', '50.0 % · 50.0 %'];
  assert.deepEqual(table.slice(1, 3), [
    ['row no-null no-null', '70.0 % 60.0 % to 80.0 %', '65.0 % · 75.0 %', '–', ...at5, '–'],
    ['row realm realm', '75.0 % 65.0 % to 85.0 %', '70.0 % · 80.0 %', '38.2 %', ...at5, '0.9 %'],
  ]);
  assert.deepEqual(pairs, [
    ['row realm', 'row stale', '−5.0 −8.1 to −1.0', 'the other way round'],
    ['row x', 'row stale', '+2.0 −3.0 to +6.0', 'too close to tell'],
  ]);
  assert.equal(none, undefined);
  assert.match(
    textOf(document.querySelector('#ablations'))!,
    /2 seeds, 20 questions in all\..* of 3 pairs .* 1 are in its order, 1 the other way round, 1 too close to tell: .* 0\.333\./,
  );
  // In the paper's order, and from 0: the frame is 338 pixels from 18, and 93 % wide.
  const drawn = figureOf(document, 'Exact match').querySelector('svg')!;
  assert.equal(
    drawn.getAttribute('aria-label'),
    'Exact match by row: row realm 75.0 %, in the paper 38.2 %; row x 60.0 %, in the paper 30.0 %; row stale 80.0 %, in the paper 28.7 %; row no-null 70.0 %',
  );
  const means = [...drawn.querySelectorAll('circle[r="4.5"]')].map((dot) => Number(dot.getAttribute('cx')));
  assert.deepEqual(
    means,
    [0.75, 0.6, 0.8, 0.7].map((mean) => Math.round(10 * (18 + (338 * mean) / 0.93)) / 10),
  );
});

test('a run that has just started and one with damaged records still have a page', () => {
  const started = runOf('started', { 'config.yaml': 'seed: 1\n' });
  const { document } = parsed(started);
  assert.deepEqual([...document.querySelectorAll('h2')].map(textOf), ['The run']);
  const damaged = runOf('damaged', {
    'config.yaml': 'sed: 1\n',
    'summary.json': '{"recall5":',
    'metrics/pretrain.jsonl': 'x\n{"step":"a"}\n{"step":1,"loss":null}\n{"step":2,"loss":1e999}\n',
    'metrics/pretrain-probes.jsonl': '{"inUseAt":1}\n{"inUseAt":2,"probes":[{}],"recall":{"5":"x"}}\n[]\n',
    'metrics/evaluations.jsonl': '{"metric":1}\n{"metric":"m","figures":[1]}\n',
    'ablation/table.json': '[]',
    'predictions.jsonl': '{"question":1}\n',
    'checkpoints/ict-warmup/latest': '../../x\n',
  });
  const { document: page } = parsed(damaged);
  assert.match(textOf(page.querySelector('.trouble'))!, /config\.yaml: unknown setting "sed"/);
});

test('the same records make the same page, new records a new page', () => {
  const dir = runOf('live', { 'metrics/ict-warmup.jsonl': [{ step: 1, loss: 2 }] });
  const run = runFolder(dir);
  const first = reportBody([run]);
  assert.equal(reportBody([run]), first);
  assert.ok(reportPage([run], { live: false }).includes(first));
  writeFileSync(run.metrics('ict-warmup'), '{"step":1,"loss":2}\n{"step":9,"loss":1}\n');
  assert.match(reportBody([run]), /to 1 at step 9/);
});

test('a live page has a question box and one script, and says that it needs JavaScript', () => {
  const page = reportPage([runFolder(full)], { live: true });
  const { document } = parseHTML(page);
  const scripts = document.querySelectorAll('script');
  assert.equal(scripts.length, 1);
  assert.equal(scripts[0].textContent, SCRIPT);
  assert.equal(document.querySelector('style')!.textContent, STYLE);
  const input = document.querySelector('#ask form input')!;
  assert.equal(input.getAttribute('name'), 'question');
  assert.ok(document.querySelector(`label[for="${input.id}"]`));
  assert.match(textOf(document.querySelector('noscript'))!, /needs JavaScript/);
  assert.equal(document.querySelector('#answers')!.getAttribute('aria-live'), 'polite');
});

test('realm report writes one file, and refuses a folder that is not a run', async () => {
  assert.throws(() => report([join(root, 'nowhere')]), /nowhere: no such run folder/);
  const empty = runOf('empty', { 'note.txt': '' });
  assert.throws(() => report([full, empty]), /empty: holds no run/);
  assert.equal(existsSync(join(full, 'report.html')), false);
  const realm = commandLine();
  const { out } = await realm('report', full, '--json');
  const { file, bytes } = JSON.parse(out);
  assert.equal(file, join(full, 'report.html'));
  assert.equal(readFileSync(file).length, bytes);
  assert.equal(readFileSync(file, 'utf8'), reportPage([runFolder(full)], { live: false }));
  const refused = await realm('report', empty);
  assert.equal(refused.code, 2);
  assert.match(refused.err, /^realm: .*empty: holds no run, .*\n$/);
});
