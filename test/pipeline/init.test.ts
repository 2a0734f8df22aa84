import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { gzipSync } from 'node:zlib';
import { loadConfig } from '../../src/config.ts';
import { readQuestions } from '../../src/datasets/questions.ts';
import { type Initialised, init } from '../../src/pipeline/init.ts';
import { UserError } from '../../src/system/errors.ts';
import { generateWorld } from '../../src/world/world.ts';
import { COMMIT, fakeHub } from '../support/hub.ts';
import { temporaryFolder } from '../support/tiny.ts';

const REALM = join(import.meta.dirname, '../../bin/realm');
const ENCODER = join(import.meta.dirname, '../../assets/world-encoder');

const folder = temporaryFolder('init');
const world = generateWorld({ seed: 1, documents: 60, heldOut: 0.2 });
const questionLine = ({ question, answers }: { question: string; answers: string[] }) =>
  `${JSON.stringify({ question, answer: answers })}\n`;

/** A folder with notes as Markdown and a file of 100 questions. */
function own(name: string): string {
  const dir = join(folder, name);
  mkdirSync(join(dir, 'my notes'), { recursive: true });
  for (const [i, { title, text }] of world.documents.entries())
    writeFileSync(join(dir, 'my notes', `${i}.md`), `# ${title}\n\n${text}\n`);
  const asked = world.train.slice(0, 100).map(({ question, answers }) => ({ question, answers }));
  writeFileSync(join(dir, 'questions.jsonl'), asked.map(questionLine).join(''));
  return dir;
}

async function realm(cwd: string, ...args: string[]) {
  const child = spawn(process.execPath, [REALM, ...args], { cwd });
  let [out, err] = ['', ''];
  child.stdout.setEncoding('utf8').on('data', (piece) => (out += piece));
  child.stderr.setEncoding('utf8').on('data', (piece) => (err += piece));
  const code = await new Promise((resolve) => child.on('close', resolve));
  return { code, out, err };
}

test('the file that init writes prepares a corpus from a folder of Markdown and questions', async () => {
  const dir = own('whole');
  const made = await realm(dir, 'init', 'my notes', 'questions.jsonl', '--json');
  assert.equal(made.code, 0, made.err);
  const result: Initialised = JSON.parse(made.out);
  assert.deepEqual(
    [result.documents.documents, result.documents.format, result.documents.estimated, result.size],
    [60, 'text', false, 'tiny'],
  );
  const words = world.documents.reduce((sum, { text }) => sum + text.split(/\s+/).length, 0);
  assert.ok(result.documents.words >= words && result.documents.words < 1.3 * words);
  assert.equal(result.answersFound, 1);

  // The questions are split by their hashes, and none is lost.
  const { split } = result;
  assert.ok(split && split.devQuestions >= 5 && split.trainQuestions >= 60);
  const all = [split.train, split.dev].map(async (file) => readQuestions(join(dir, file)));
  const [train, dev] = await Promise.all(all);
  assert.deepEqual([train.length, dev.length], [split.trainQuestions, split.devQuestions]);
  assert.deepEqual(
    [...train, ...dev].map(({ question }) => question).sort(),
    world.train
      .slice(0, 100)
      .map(({ question }) => question)
      .sort(),
  );

  // The file has the settings of the result, a reason for each, and paths relative to its folder.
  const file = join(dir, 'realm.yaml');
  const text = readFileSync(file, 'utf8');
  assert.doesNotMatch(text, new RegExp(folder));
  assert.match(text, /^ {2}documents: my notes # your documents$/m);
  const config = loadConfig(file, []);
  const told = Object.entries(result.settings).map(([path, value]) => `${path}=${JSON.stringify(value)}`);
  assert.deepEqual(config, loadConfig(undefined, told));
  assert.deepEqual(
    [config.data.documents, config.data.train, config.data.dev],
    [join(dir, 'my notes'), join(dir, split.train), join(dir, split.dev)],
  );
  const [low, high] = result.estimate.secondsRange;
  assert.ok(low > 0 && low < high);
  assert.deepEqual(
    result.next.map(({ command }) => command.split(' ')[1]),
    ['prepare', 'ict-warmup', 'build-index', 'pretrain', 'finetune-qa', 'eval', 'ask'],
  );

  const prepared = await realm(dir, ...result.next[0].command.split(' ').slice(1), '--json');
  assert.equal(prepared.code, 0, prepared.err);
  assert.equal(JSON.parse(prepared.out).documents, 60);

  // Nothing is replaced without --force.
  const again = await realm(dir, 'init', 'my notes', 'questions.jsonl');
  assert.equal(again.code, 2);
  assert.match(
    again.err,
    /^realm: realm\.yaml: already exists; replace it with --force, or choose another file with --to/m,
  );
  const elsewhere = await realm(dir, 'init', 'my notes', 'questions.jsonl', '--to', 'other.yaml');
  assert.equal(elsewhere.code, 2);
  assert.match(elsewhere.err, /questions\.resplit\.train\.jsonl: already exists/);
  assert.ok(!existsSync(join(dir, 'other.yaml')));
  const set = ['--set', 'seed=5', '--set', 'data.fields.text=my body'];
  const forced = await realm(dir, 'init', 'my notes', '--to', 'sub/other.yaml', '--hours', '0.1', ...set);
  assert.equal(forced.code, 0, forced.err);
  assert.match(forced.out, /^Documents {2}60 in my notes \(format text\): [\d,]+ words/m);
  assert.match(
    forced.out,
    /^Note: Random weights know no language, and a corpus of this size teaches very little/m,
  );
  assert.match(forced.out, /^Note: Without questions the model cannot be fine-tuned/m);
  assert.match(forced.out, /realm prepare --config sub\/other\.yaml --run runs\/my-notes-2 /);
  assert.match(forced.out, /realm pretrain --run runs\/my-notes-2 /);
  // The notes repeat the user's own options.
  assert.match(
    forced.out,
    /: realm init 'my notes' --to sub\/other\.yaml --hours 0\.1 --set seed=5 --set 'data\.fields\.text=my body' --force --initial hf:google\//,
  );
  assert.match(
    forced.out,
    /: realm init 'my notes' QUESTIONS --to sub\/other\.yaml --hours 0\.1 --set seed=5 --set 'data\.fields\.text=my body' --force$/m,
  );
  assert.equal(loadConfig(join(dir, 'sub/other.yaml'), []).data.documents, join(dir, 'my notes'));
});

test('an encoder gives its sizes; files of questions get their roles from their names; documents of JSON lines are counted', async () => {
  const dir = own('encoder');
  const lines = world.documents.map((document) => `${JSON.stringify(document)}\n`).join('');
  writeFileSync(join(dir, 'documents.jsonl.gz'), gzipSync(lines));
  for (const role of ['train', 'dev', 'test'])
    writeFileSync(join(dir, `my-${role}.jsonl`), world.train.slice(0, 10).map(questionLine).join(''));
  const files = ['my-dev.jsonl', 'my-train.jsonl', 'my-test.jsonl'];
  const made = await realm(dir, 'init', 'documents.jsonl.gz', ...files, '--initial', ENCODER, '--json');
  assert.equal(made.code, 0, made.err);
  const result: Initialised = JSON.parse(made.out);
  assert.deepEqual(
    [result.documents.documents, result.documents.format, result.split],
    [60, 'jsonl', undefined],
  );
  const { data, model } = loadConfig(join(dir, 'realm.yaml'), []);
  assert.deepEqual(
    [data.train, data.dev, data.test],
    ['my-train.jsonl', 'my-dev.jsonl', 'my-test.jsonl'].map((name) => join(dir, name)),
  );
  assert.deepEqual([model.initial, model.positions, model.hidden, model.gelu], [ENCODER, 112, 128, 'tanh']);
  assert.ok(!result.notes.some((note) => /Random weights/.test(note)));
  assert.deepEqual(
    readdirSync(dir).filter((name) => /resplit|tmp/.test(name)),
    [],
  );
});

test('a sentence encoder: the warm-up of the reader is proposed, has its place and time in the plan, and prepare names it next', async () => {
  const dir = own('sentence-encoder');
  const encoder = join(import.meta.dirname, '../fixtures/sentence-transformers/mean-normalize');
  const made = await realm(dir, 'init', 'my notes', 'questions.jsonl', '--initial', encoder, '--json');
  assert.equal(made.code, 0, made.err);
  const result: Initialised = JSON.parse(made.out);
  const commands = result.next.map(({ command }) => command.split(' ')[1]);
  assert.deepEqual(commands, ['prepare', 'reader-warmup', 'build-index', 'finetune-qa', 'eval', 'ask']);
  const [low, high] = result.next[1].secondsRange!;
  assert.ok(low > 0 && low < high);
  const text = readFileSync(join(dir, 'realm.yaml'), 'utf8');
  assert.match(
    text,
    /^ {2}# this encoder cannot fill masks, so the reader first learns .*\n {2}steps: 600$/m,
  );
  assert.match(text, /^ {4}warmupSteps: 30 #/m);
  const { readerWarmup, pretrain, qa } = loadConfig(join(dir, 'realm.yaml'), []);
  assert.deepEqual([readerWarmup.steps, pretrain.steps, qa.contrastive], [600, 0, 1]);
  const prepared = await realm(dir, ...result.next[0].command.split(' ').slice(1));
  assert.equal(prepared.code, 0, prepared.err);
  assert.match(prepared.err, /^next: realm reader-warmup --run runs\/my-notes$/m);
  const status = await realm(dir, 'status', 'runs/my-notes', '--json');
  assert.match(status.out, /realm reader-warmup --run runs\/my-notes/);

  // Without questions pretraining follows; a budget that only lasts for the rest has a note.
  const planned = await init(join(dir, 'my notes'), [], {
    to: join(dir, 'short.yaml'),
    initial: encoder,
    hours: 0.00001,
    set: [],
    force: false,
  });
  assert.deepEqual(
    planned.next.map(({ command }) => command.split(' ')[1]),
    ['prepare', 'build-index', 'pretrain'],
  );
  assert.equal(planned.settings['readerWarmup.steps'], 0);
  assert.ok(planned.notes.some((note) => /^All stages take about .*, more than the/.test(note)));
});

test('documents without a name or a date to mask: no stage that masks is proposed, and a note says why', async () => {
  const dir = own('no-spans');
  const line = (i: number) =>
    `${JSON.stringify({ title: '', text: `the water is cold and number ${i} is warm` })}\n`;
  writeFileSync(join(dir, 'plain.jsonl'), Array.from({ length: 30 }, (_, i) => line(i)).join(''));
  const result = await init(join(dir, 'plain.jsonl'), [join(dir, 'questions.jsonl')], {
    to: join(dir, 'realm.yaml'),
    initial: ENCODER,
    set: [],
    force: false,
  });
  assert.deepEqual(
    result.next.map(({ command }) => command.split(' ')[1]),
    ['prepare', 'ict-warmup', 'build-index', 'finetune-qa', 'eval', 'ask'],
  );
  assert.ok(result.notes.some((note) => /^No names or dates were found/.test(note)));
});

test('unusable input is refused in one sentence, and nothing is written', async () => {
  const dir = own('bad');
  mkdirSync(join(dir, 'empty'));
  writeFileSync(join(dir, 'blank.jsonl'), '{"title": "a", "text": " "}\n');
  writeFileSync(join(dir, 'some.jsonl'), questionLine(world.train[0]));
  writeFileSync(join(dir, 'some-test.jsonl'), questionLine(world.train[0]));
  writeFileSync(join(dir, 'none.jsonl'), '{"input": "Who?", "output": []}\n');
  const before = readdirSync(dir, { recursive: true }).sort();
  process.chdir(dir);
  after(() => process.chdir(import.meta.dirname));
  for (const [paths, options, why] of [
    [[], {}, /init: no documents are named; pass the file or folder of your documents/],
    [['nowhere'], {}, /nowhere: no such file or folder; pass the path of your documents/],
    [['empty'], {}, /empty: /],
    [['blank.jsonl'], {}, /blank\.jsonl: holds no document with text/],
    [['some.jsonl'], {}, /some\.jsonl: line 1: has no "text"/],
    [['my notes', 'none.jsonl'], {}, /none\.jsonl: holds no question with an answer/],
    [['my notes', 'nowhere.jsonl'], {}, /nowhere\.jsonl: no such/],
    [
      ['my notes', 'some.jsonl', 'questions.jsonl'],
      {},
      /some\.jsonl: its name does not say what the questions are for/,
    ],
    [
      ['my notes', 'some-test.jsonl', 'test-too.jsonl'],
      {},
      /test-too\.jsonl: has "test" in its name, and so has some-test/,
    ],
    [['my notes'], { to: 'empty' }, /empty: is a folder; pass the file to write with --to/],
    [['my notes'], { initial: 'empty' }, /empty\/config\.json: no such model description/],
    [['my notes'], { initial: 'hf:no name' }, /hf:no name: is not the name of a model on the Hub/],
    [['-'], {}, /-: standard input can be read only once/],
  ] as const) {
    await assert.rejects(
      init(paths[0], paths.slice(1), { to: 'realm.yaml', force: false, set: [], ...options }),
      (error) => error instanceof UserError && why.test(error.message) && !error.message.includes('\n'),
      `${why}`,
    );
  }
  assert.deepEqual(readdirSync(dir, { recursive: true }).sort(), before);
});

test('answers that are not in the documents are noted', async () => {
  const dir = own('answers');
  const asked = Array.from({ length: 20 }, (_, i) => ({
    question: `What is thing ${i}?`,
    answers: [`zzz${i}`],
  }));
  writeFileSync(join(dir, 'other.jsonl'), asked.map(questionLine).join(''));
  const made = await realm(dir, 'init', 'my notes', 'other.jsonl');
  assert.equal(made.code, 0, made.err);
  assert.match(made.out, /^Answers {4}0 % of the training questions have/m);
  assert.match(
    made.out,
    /^Note: 100 % of the training questions have no answer in the documents, word for word/m,
  );
});

test('an encoder on the Hub is downloaded, and its name is kept with its commit', async () => {
  const dir = own('hub');
  const hub = await fakeHub();
  hub.files = readdirSync(ENCODER).map((name) => ({
    path: name,
    content: readFileSync(join(ENCODER, name)),
    lfs: name.endsWith('.safetensors'),
  }));
  const before = {
    HF_ENDPOINT: process.env.HF_ENDPOINT,
    HF_HOME: process.env.HF_HOME,
    HF_HUB_OFFLINE: process.env.HF_HUB_OFFLINE,
  };
  Object.assign(process.env, { HF_ENDPOINT: hub.url, HF_HOME: join(dir, 'cache') });
  try {
    const to = join(dir, 'realm.yaml');
    const made = await init(join(dir, 'my notes'), [], {
      to,
      initial: 'hf:owner/tiny',
      set: [],
      force: false,
    });
    assert.match(
      readFileSync(to, 'utf8'),
      new RegExp(`^ {2}initial: "?hf:owner/tiny@main#${COMMIT}"? #`, 'm'),
    );
    const { model } = loadConfig(to, []);
    assert.deepEqual(
      [model.initial, model.hidden, model.positions],
      [`hf:owner/tiny@main#${COMMIT}`, 128, 112],
    );
    assert.equal(made.initial, 'hf:owner/tiny');
    process.env.HF_HOME = join(dir, 'another cache');
    for (const [name, value, why] of [
      ['HF_ENDPOINT', 'http://127.0.0.1:9', /cannot reach .*; check the network or HF_ENDPOINT/],
      ['HF_HUB_OFFLINE', '1', /HF_HUB_OFFLINE forbids to download it; unset HF_HUB_OFFLINE/],
    ] as const) {
      process.env[name] = value;
      await assert.rejects(
        init(join(dir, 'my notes'), [], { to, initial: 'hf:owner/tiny', set: [], force: true }),
        (error) =>
          error instanceof UserError &&
          why.test(error.message) &&
          error.message.endsWith(', or name a folder, or leave --initial out to start from random weights'),
      );
    }
  } finally {
    for (const [name, value] of Object.entries(before))
      if (value === undefined) delete process.env[name];
      else process.env[name] = value;
  }
});

test("the user's own settings are used for reading, and are written instead of proposed ones", async () => {
  const dir = own('set');
  const lines = world.documents.map(
    ({ title, text }) => `${JSON.stringify({ subject: title, words: text })}\n`,
  );
  writeFileSync(join(dir, 'odd.jsonl'), lines.join(''));
  const to = join(dir, 'realm.yaml');
  const set = [
    'data.fields.text=words',
    'data.fields.title=subject',
    'ict.steps=77',
    'model.layers=1',
    'seed=5',
  ];
  const made = await init(join(dir, 'odd.jsonl'), [], { to, set, force: false });
  assert.equal(made.documents.documents, 60);
  const { data, ict, model, seed } = loadConfig(to, []);
  assert.deepEqual([data.fields.text, data.fields.title], ['words', 'subject']);
  assert.deepEqual([ict.steps, model.layers, seed], [77, 1, 5]);
  assert.match(readFileSync(to, 'utf8'), /^ {2}steps: 77 # your own choice \(--set\)$/m);
  await assert.rejects(
    init(join(dir, 'odd.jsonl'), [], { to: join(dir, 'b.yaml'), set: ['ict.step=7'], force: false }),
    /UserError: .*unknown setting "ict\.step"; did you mean "ict\.steps"/,
  );
});
