import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { loadConfig } from '../src/config.ts';
import { commandLine, type End } from './support/command-line.ts';

const REALM = join(import.meta.dirname, '../bin/realm');

const root = mkdtempSync(join(tmpdir(), 'realm-cli-'));
after(() => rmSync(root, { recursive: true, force: true }));

/** Starts `realm` as a user does. */
function start(...args: string[]) {
  const child = spawn(process.execPath, [REALM, ...args], { cwd: root, stdio: ['ignore', 'pipe', 'pipe'] });
  let out = '';
  let err = '';
  child.stdout.setEncoding('utf8').on('data', (piece) => (out += piece));
  child.stderr.setEncoding('utf8').on('data', (piece) => (err += piece));
  const end = new Promise<End>((resolve) => child.on('close', (code) => resolve({ code, out, err })));
  return { child, end };
}

const realm = commandLine(root);

const documents = join(root, 'documents.jsonl');
writeFileSync(
  documents,
  [
    { title: 'Talvora Benik', text: 'Talvora Benik was born in Quenfell in 1812. Later she moved to Drost.' },
    { title: 'Osk', text: 'The river Osk runs from Quenfell to Drost. It is long.' },
  ]
    .map((document) => `${JSON.stringify(document)}\n`)
    .join(''),
);

/** Settings of a model that takes milliseconds a step. */
const TINY = ['--config', join(root, 'tiny.yaml')];
writeFileSync(
  TINY[1],
  `data: { documents: documents.jsonl }
text: { vocabularySize: 120, blockTokens: 64, sentenceTokens: 32, questionTokens: 32 }
model: { layers: 1, hidden: 8, heads: 2, intermediate: 8, positions: 96, projection: 4, dropout: 0 }
qa: { readerTokens: 96 }
`,
);

test('--help lists every command on stdout and exits 0', async () => {
  const { code, out, err } = await start('--help').end;
  assert.deepEqual([code, err], [0, '']);
  for (const command of [
    'prepare',
    'ict-warmup',
    'build-index',
    'pretrain',
    'finetune-qa',
    'eval',
    'ask',
    'demo',
    'ablate',
    'doctor',
    'config',
    'status',
    'report',
    'serve',
  ])
    assert.match(out, new RegExp(`^ {2}${command}\\b`, 'm'));
});

test("a command's own --help shows its options with their defaults", async () => {
  const { code, out } = await realm('eval', 'recall', '--help');
  assert.equal(code, 0);
  for (const option of ['--set', '--run', '--engine', '--json', '--stage', '--questions'])
    assert.match(out, new RegExp(`^ {2}${option} `, 'm'));
  assert.match(out, /default: runs\/default/);
});

for (const [what, args, message] of [
  ['an unknown command', ['pretain'], /^error: unknown command 'pretain'/],
  ['an unknown option', ['prepare', '--epochs', '3'], /^error: unknown option '--epochs'/],
  ['an argument too many', ['prepare', 'documents.jsonl'], /^error: too many arguments/],
  ['a name left out', ['data', 'get'], /^error: missing required argument 'name'/],
  ['no command', [], /^Usage: realm/],
  [
    'a stage that is none',
    ['eval', 'recall', '--stage', 'closed-book'],
    /^error: .*Allowed choices are initial, ict-warmup, pretrain, finetune-qa/,
  ],
  ['an engine that is none', ['ict-warmup', '--engine', 'torch'], /^error: .*Allowed choices are auto/],
  [
    'a GPU for an engine',
    ['ict-warmup', '--engine', 'gpu'],
    /tensorflow, installed with: realm engine install/,
  ],
  [
    'a file of predictions beside what a model retrieves',
    ['eval', 'exact-match', '--predictions', 'p.jsonl', '--to', 'x.json'],
    /^error: .*'--predictions <file>' cannot be used with option '--to <file>'/,
  ],
  [
    'a protocol that is none',
    ['eval', 'exact-match', '--protocol', 'squad'],
    /^error: .*Allowed choices are orqa, dpr, drqa, hf/,
  ],
  [
    'an argument that is missing',
    ['data', 'get'],
    /^error: missing required argument 'name'\n\(see realm data get --help\)$/m,
  ],
  [
    'an earlier name of a stage',
    ['eval', 'recall', '--stage', 'qa'],
    /^realm: --stage qa: has a new name; use --stage finetune-qa$/m,
  ],
  [
    'an earlier name of a stage to import',
    ['import', '--stage', 'ict'],
    /^realm: --stage ict: has a new name; use --stage ict-warmup$/m,
  ],
  [
    'an earlier name of an option',
    ['build-index', '--from', 'pretrain'],
    /^realm: --from: has a new name; use --stage$/m,
  ],
  [
    'an earlier name of an option, without its value',
    ['ask', 'who?', '--open-book'],
    /^realm: --open-book: has a new name; use --documents$/m,
  ],
  [
    'an earlier command',
    ['eval', 'f1', '--against', 'runs/other'],
    /^realm: eval f1: is now "realm eval exact-match --metric f1"$/m,
  ],
  [
    'settings of a new run for a question',
    ['ask', '--config', 'x.yaml', 'who?'],
    /^error: unknown option '--config'/,
  ],
  [
    'a question of punctuation',
    ['ask', '???'],
    /^realm: a question has no letter or digit; write it as text/,
  ],
  ['a question without a word', ['ask', ' '], /^realm: a question has no letter or digit; write it as text/],
  ['a seed that is no number', ['prepare', '--seed', 'x'], /^error: .*'--seed <n>'.*whole number/],
  ['a seed in hexadecimal', ['prepare', '--seed', '0x10'], /^error: .*'--seed <n>'.*whole number/],
  ['an empty seed', ['prepare', '--seed='], /^error: .*'--seed <n>'.*whole number/],
] as [string, string[], RegExp][]) {
  test(`${what} exits 2 with a message on stderr`, async () => {
    const { code, out, err } = await realm(...args);
    assert.deepEqual([code, out], [2, '']);
    assert.match(err, message);
    assert.doesNotMatch(err, /\n {4}at /);
  });
}

for (const [what, args, message] of [
  [
    'an unknown setting',
    ['prepare', ...TINY, '--set', 'ict.step=2'],
    /unknown setting "ict\.step".*"ict\.steps"/,
  ],
  ['a configuration that is not there', ['prepare', '--config', 'none.yaml'], /none\.yaml: no such/],
  ['settings to estimate that are not there', ['doctor', '--config', 'none.yaml'], /none\.yaml: no such/],
  ['a run to estimate that is not there', ['doctor'], /is not a run yet, so it has no settings.*--config/],
  [
    'a TREC run without questions',
    ['eval', 'recall', '--retrieved', 'x.trec'],
    /x\.trec: a TREC run tells no questions; name them with --questions/,
  ],
  [
    'a comparison by judgements without judgements',
    ['eval', 'recall', '--retrieved', 'x.trec', '--against', 'y.trec'],
    /--against: compares and writes measures by judgements; name them with --qrels/,
  ],
  [
    'predictions that are not there',
    ['eval', 'exact-match', '--metric', 'f1', '--predictions', 'none.jsonl'],
    /none\.jsonl: no such file; give the path of a JSONL file of predictions/,
  ],
  ['a new run without settings', ['prepare'], /a new run needs settings; .*--config/],
  ['no documents', ['prepare', '--config', 'squad-open'], /data\.documents names no file/],
  [
    'documents that are not there',
    ['prepare', ...TINY, '--set', 'data.documents=none.jsonl'],
    /none\.jsonl: no such/,
  ],
  [
    'a run that is not prepared',
    ['ict-warmup', '--engine', 'cpu'],
    /no prepared corpus in this run; make it with "realm prepare --config FILE --run .*"$/m,
  ],
] as [string, string[], RegExp][]) {
  test(`${what} is told in one line, and exits 2`, async () => {
    const { code, out, err } = await realm(...args, '--run', join(root, `mistake ${what}`), '--json');
    assert.deepEqual([code, out], [2, '']);
    const lines = err.trimEnd().split('\n');
    const complaint = lines.pop()!;
    assert.match(complaint, message);
    assert.match(complaint, /^realm: /);
    assert.ok(
      lines.every((line) => /^(engine|vocabulary): /.test(line)),
      err,
    );
  });
}

test('doctor --json prints one JSON document on stdout; with settings it holds what a run will need', async () => {
  // So few steps that no machine, however busy, is slow enough for a warning.
  const few = ['ict.steps=10', 'pretrain.steps=10', 'qa.steps=10'].flatMap((set) => ['--set', set]);
  const { code, out, err } = await start('doctor', '--json', ...TINY, ...few, '--set', 'index.dtype=f32').end;
  // A software driver's limits are cut by WebGPU, which says so.
  assert.deepEqual([code, err.replaceAll(/^Warning: max\w+ artificially .*\n/gm, '')], [0, '']);
  assert.match(out, /^\{.*\}\n$/);
  const { threads, disk, preflight } = JSON.parse(out);
  assert.ok(threads >= 1 && disk.free > 0);
  assert.equal(preflight.counts.documents, 2);
  assert.deepEqual(
    preflight.stages.map((s: { stage: string }) => s.stage),
    ['prepare', 'ict-warmup', 'build-index', 'pretrain', 'finetune-qa'],
  );
  assert.deepEqual(preflight.warnings, []);
});

test('prepare --json prints one JSON document on stdout; --seed and --set are kept with the run', async () => {
  const run = join(root, 'run');
  const set = ['--seed', '7', '--set', 'model.hidden=16'];
  const { code, out, err } = await start('prepare', '--run', run, '--json', ...set, ...TINY).end;
  assert.equal(code, 0, err);
  assert.match(out, /^\{.*\}\n$/);
  const { documents, blocks, sentences } = JSON.parse(out);
  assert.deepEqual({ documents, blocks, sentences }, { documents: 2, blocks: 2, sentences: 3 });
  assert.match(err, /vocabulary/, 'what a person reads goes to stderr');
  const config = loadConfig(join(run, 'config.yaml'), []);
  assert.deepEqual([config.seed, config.text.blockTokens, config.model.hidden], [7, 64, 16]);
});

test('--refresh-every of finetune-qa is qa.refreshEvery, a number of steps or a schedule', async () => {
  const run = join(root, 'run');
  const tune = (every: string, ...more: string[]) =>
    realm('finetune-qa', '--run', run, '--engine', 'cpu', '--refresh-every', every, ...more);
  const { code, err } = await tune('0');
  assert.equal(code, 2);
  assert.match(err, /qa\.refreshEvery: .*got 0$/m);
  const saved = () => loadConfig(join(run, 'config.yaml'), []).qa.refreshEvery;
  assert.match((await tune('0-40:20,40-:10')).err, /data\.train names no file/);
  assert.equal(saved(), null, 'a stage that cannot start saves nothing');
  writeFileSync(join(root, 'train.jsonl'), '{"question": "who", "answer": ["Osk"]}\n');
  const train = ['--set', 'data.train=train.jsonl'];
  assert.match((await tune('0-40:20,40-:10', ...train)).err, /this run has no retriever yet/);
  assert.equal(saved(), '0-40:20,40-:10');
});

test('a signal while training saves, exits 130 and says so; the same command goes on', async () => {
  const run = join(root, 'run');
  const engine = process.env.REALM_ENGINE ?? 'auto';
  const metrics = join(run, 'metrics', 'ict-warmup.jsonl');
  const lines = () =>
    readFileSync(metrics, 'utf8')
      .split('\n')
      .filter((line) => line !== '') // the signal may come before the first step has ended
      .map((line) => JSON.parse(line).step);
  const args = ['ict-warmup', '--run', run, '--engine', engine, '--json'];
  const first = start(...args, '--set', 'ict={steps: 100000, batch: 2}', '--set', 'train.logEvery=1');
  while (!existsSync(metrics) && first.child.exitCode === null)
    await new Promise((resolve) => setTimeout(resolve, 20));
  first.child.kill('SIGTERM');
  const { code, out, err } = await first.end;
  assert.equal(code, 130, err);
  assert.equal(JSON.parse(out).stopped, true);
  assert.doesNotMatch(err, /\n {4}at /);
  const done = lines().length;
  assert.deepEqual(
    lines(),
    Array.from({ length: done }, (_, i) => i + 1),
  );

  const second = start(...args);
  while (lines().length === done && second.child.exitCode === null)
    await new Promise((resolve) => setTimeout(resolve, 20));
  // A run folder is one process's at a time; asking is free.
  const rival = await start('pretrain', '--run', run, '--engine', engine).end;
  assert.equal(rival.code, 2);
  assert.match(
    rival.err,
    new RegExp(
      `^realm: .*run: "realm ict-warmup" is already running in this run folder \\(process ${second.child.pid} on .*\\n$`,
    ),
  );
  second.child.kill('SIGINT');
  assert.equal((await second.end).code, 130);
  assert.ok(lines().length > done);
  assert.deepEqual(
    lines(),
    lines().map((_, i) => i + 1),
  );
});

test('predictions of another system are scored without a run, as a table and as JSON', async () => {
  const questions = join(root, 'asked.jsonl');
  const predictions = join(root, 'predicted.jsonl');
  const asked = ['who was it', 'when was it', 'is it so'];
  const file = (lines: object[]) => lines.map((line) => `${JSON.stringify(line)}\n`).join('');
  writeFileSync(questions, file(asked.map((question, i) => ({ question, answer: [`Answer ${i}`] }))));
  writeFileSync(
    predictions,
    file(asked.slice(0, 2).map((question) => ({ question, prediction: 'the answer 0' }))),
  );
  const args = ['eval', 'exact-match', '--predictions', predictions, '--questions', questions];
  const { code, out, err } = await realm(...args);
  assert.deepEqual(
    [code, err],
    [0, `${predictions}: has no prediction for 1 questions, which count as wrong\n`],
  );
  assert.match(out, /^exact match, text +33\.3 % {2}\(0\.0 to 100\.0\)$/m);
  assert.match(out, /^F1 +50\.0 %/m); // "answer 0" and "answer 1" share one of two words
  assert.match(out, /^ {2}who +1 +100\.0 %/m);
  const json = JSON.parse((await realm(...args, '--json')).out);
  assert.equal(json.figures.exactMatch.value, 1 / 3);
  assert.equal(existsSync(join(root, 'runs')), false, 'no run folder is made');
});
