import assert from 'node:assert/strict';
import { cpSync, existsSync, mkdirSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { before, mock, test } from 'node:test';
import { main } from '../../src/cli.ts';
import { loadConfig } from '../../src/config.ts';
import { type Done, nextCommands } from '../../src/pipeline/next-command.ts';
import { statusOf } from '../../src/report/status.ts';
import { type Run, runFolder } from '../../src/run/folder.ts';
import type { Stage } from '../../src/run/stages.ts';
import { latestState } from '../../src/train/checkpoints.ts';
import { startTestEngine } from '../support/engine.ts';
import { TINY, temporaryFolder } from '../support/tiny.ts';
import { tunedRun } from '../support/tuned-run.ts';

// What commands do with settings and inputs before they compute anything: which are saved, which are refused, and that
// nothing is made when one is.

const folder = temporaryFolder('settings');
let run: Run;
before(async () => {
  ({
    context: { run },
  } = await tunedRun(folder, 'qa.steps=1', 'qa.devQuestions=0'));
  await startTestEngine();
});

/** Runs a command line in this process. */
async function realm(...args: string[]): Promise<{ code: number; err: string }> {
  let err = '';
  mock.method(process.stderr, 'write', (text: string) => {
    err += text;
    return true;
  });
  try {
    const code = await main(['node', 'realm', ...args]);
    return { code, err };
  } finally {
    mock.restoreAll();
  }
}

/** Like `realm`, with the run's folder, the tested engine, and JSON on stdout. */
const inRun = (...args: string[]) =>
  realm(...args, '--run', run.dir, '--engine', process.env.REALM_ENGINE ?? 'auto', '--json');

const saved = () => readFileSync(run.config, 'utf8');

test('what --set changes for an evaluation, a question or an export is not saved', async () => {
  const before = saved();
  const set = ['--set', 'qa.readerBlocks=2', '--set', 'train.keep=9', '--set', 'seed=7'];
  for (const args of [
    ['eval', 'exact-match'],
    ['eval', 'recall', '--stage', 'ict-warmup'],
    ['eval', 'recall', '--stage', 'pretrain'],
    ['eval', 'perplexity'],
    ['ask', 'who?'],
    ['export', '--to', join(folder, 'exported')],
    ['eval', 'exact-match', '--questions', join(folder, 'none.jsonl')],
  ]) {
    const { code, err } = await inRun(...args, ...set);
    assert.equal(code, args.at(-1)!.endsWith('none.jsonl') ? 2 : 0, `${args}: ${err}`);
    assert.equal(saved(), before, String(args));
  }
});

test('the settings of a stage are saved, unless it cannot start with them', async () => {
  const before = saved();
  const none = join(folder, 'none.jsonl');
  const refused = await inRun('finetune-qa', '--set', `data.train=${none}`, '--set', 'train.keep=9');
  assert.equal(refused.code, 2);
  assert.match(refused.err, /none\.jsonl: no such file, which data\.train names .*--set data\.train=PATH\n$/);
  assert.equal(saved(), before);
  assert.equal((await inRun('build-index', '--set', 'train.keep=9')).code, 0);
  assert.equal(loadConfig(run.config, []).train.keep, 9);
});

test('a stage that would take months is refused before its settings are saved and its checkpoint is removed', async () => {
  const before = saved();
  for (const [stage, setting] of [
    ['ict-warmup', 'ict.steps'],
    ['pretrain', 'pretrain.steps'],
    ['finetune-qa', 'qa.steps'],
  ]) {
    const { code, err } = await inRun(stage, '--resume', 'none', '--set', `${setting}=1000000000`);
    assert.equal(code, 2, err);
    assert.match(
      err,
      new RegExp(`^realm: ${stage}: would take about .* on this machine, .*, or add --yes`, 'm'),
    );
    assert.equal(saved(), before);
  }
  for (const stage of ['ict-warmup', 'pretrain', 'finetune-qa'] as const)
    assert.ok(latestState(run.checkpoint(stage)));
  const { constrainedMemory } = process;
  process.constrainedMemory = () => 2 ** 20; // a container's
  try {
    const { code, err } = await inRun('build-index', '--set', 'train.keep=8');
    assert.equal(code, 2, err);
    assert.match(
      err,
      /^realm: build-index: needs about .* of memory, but this machine has 0\.0 GiB; .*, or add --yes/m,
    );
    assert.equal(saved(), before);
  } finally {
    process.constrainedMemory = constrainedMemory;
  }
  assert.equal((await inRun('build-index', '--set', 'train.keep=8', '--yes')).code, 0);
  assert.equal(loadConfig(run.config, []).train.keep, 8);
});

test('a wrong input is found before an index is built', async () => {
  const none = join(folder, 'none.jsonl');
  const broken = join(folder, 'broken.jsonl');
  writeFileSync(broken, '{"question": "who"}\n');
  mkdirSync(join(folder, 'taken'));
  for (const [args, message] of [
    [['eval', 'exact-match', '--questions', none], /none\.jsonl: no such file/],
    [['eval', 'exact-match', '--metric', 'f1', '--questions', broken], /broken\.jsonl: line 1: /],
    [['eval', 'recall', '--stage', 'pretrain', '--questions', none], /none\.jsonl: no such file/],
    [['eval', 'perplexity', '--sentences', none], /none\.jsonl: no such file/],
    [['eval', 'exact-match', '--against', none], /none\.jsonl: no such file/],
    [['eval', 'exact-match', '--to', join(folder, 'taken')], /taken: cannot be written \(EISDIR\)/],
    [['eval', 'recall', '--to', join(broken, 'below.json')], /below\.json: cannot be written \(ENOTDIR\)/],
    [['export', '--to', join(broken, 'below')], /embedder: cannot be written \(ENOTDIR\)/],
    [['ask', 'who?', '--documents', none], /none\.jsonl: no such file/],
    [['finetune-qa', '--resume', 'none', '--set', `data.train=${none}`], /none\.jsonl: no such file/],
    [['finetune-qa', '--resume', 'none', '--set', `data.dev=${none}`], /none\.jsonl: no such file/],
  ] as [string[], RegExp][]) {
    rmSync(run.index, { recursive: true, force: true });
    const { code, err } = await inRun(...args);
    assert.equal(code, 2, `${args}: ${err}`);
    assert.match(err, message);
    assert.equal(existsSync(run.index), false, String(args));
  }
  assert.ok(latestState(run.checkpoint('finetune-qa')), '--resume none has removed nothing');
});

test('a finished stage says so and needs no index; fewer steps or other settings are refused', async () => {
  rmSync(run.index, { recursive: true, force: true });
  const done = await inRun('finetune-qa');
  assert.equal(done.code, 0, done.err);
  assert.match(
    done.err,
    /^finetune-qa: already finished at step 1; nothing to do \(--resume none trains it again\)$/m,
  );
  assert.equal(existsSync(run.index), false);
  const ict = ['ict-warmup', '--set', 'ict.batch=4', '--set'];
  assert.equal((await inRun(...ict, 'ict.steps=2', '--resume', 'none')).code, 0);
  const extended = await inRun(...ict, 'ict.steps=3');
  assert.equal(extended.code, 0, extended.err);
  assert.match(extended.err, /^ict-warmup: extends from step 2 of 2 to 3; /m);
  assert.equal(latestState(run.checkpoint('ict-warmup'))!.step, 3);
  const before = saved();
  const fewer = await inRun(...ict, 'ict.steps=2');
  assert.equal(fewer.code, 2);
  assert.match(
    fewer.err,
    /ict-warmup: this stage was trained for 3 steps \(3 are done\), and ict\.steps is 2 now; set ict\.steps to 3, .*--resume none\n$/,
  );
  const other = await inRun('ict-warmup', '--set', 'ict.batch=5');
  assert.equal(other.code, 2);
  assert.match(other.err, /is finished, .*: ict\.batch 5, before 4; .*raise ict\.steps.*--resume none\n$/);
  assert.equal(saved(), before);
  const again = await inRun('ict-warmup', '--set', 'ict.batch=5', '--resume', 'none');
  assert.equal(again.code, 0, again.err);
  assert.equal(loadConfig(run.config, []).ict.batch, 5);
});

test('prepare counts what it leaves out of a folder by its kind, also in JSON', async () => {
  const texts = join(folder, 'texts');
  mkdirSync(texts);
  writeFileSync(
    join(texts, 'a.txt'),
    'Talvora Benik was born in Quenfell in 1810. Later she moved to Drost.\n',
  );
  for (const name of ['b.xlsx', 'c.xlsx', 'd.epub', '.hidden']) writeFileSync(join(texts, name), 'x');
  let out = '';
  mock.method(process.stdout, 'write', (text: string | Uint8Array) => {
    if (typeof text === 'string') out += text; // bytes are the test runner's
    return true;
  });
  const { data, text, model, qa } = loadConfig(undefined, [...TINY, `data.documents=${texts}`]);
  const config = join(folder, 'of-texts.yaml');
  writeFileSync(config, JSON.stringify({ data, text, model, qa }));
  const { code, err } = await realm(
    'prepare',
    '--run',
    join(folder, 'of-texts'),
    '--config',
    config,
    '--json',
  );
  assert.equal(code, 0, err);
  const { leftOutFiles, leftOutKinds } = JSON.parse(out);
  assert.deepEqual([leftOutFiles, leftOutKinds], [4, { '.xlsx': 2, '.epub': 1, 'hidden file': 1 }]);
  assert.match(err, /^prepare: left out 4 files or folders: 2 \.xlsx, 1 \.epub, 1 hidden file /m);
});

test('a first prepare that fails leaves nothing that refuses the corrected command', async () => {
  const dir = join(folder, 'first');
  const config = join(folder, 'first.yaml');
  const prepare = () => realm('prepare', '--run', dir, '--config', config, '--json');
  const write = (...settings: string[]) => {
    const { data, text, model, qa } = loadConfig(undefined, [...TINY, ...settings]);
    writeFileSync(config, JSON.stringify({ data, text, model, qa }));
  };
  const documents = `data.documents=${join(folder, 'documents.jsonl')}`;
  for (const [settings, message] of [
    [
      [`data.documents=${join(folder, 'none.jsonl')}`],
      /none\.jsonl: no such file, which data\.documents names/,
    ],
    [[documents, 'text.vocabulary=none.txt'], /none\.txt: no such vocabulary/],
    [[documents, 'text.ner=none'], /none: no such file, which text\.ner names/],
    [[documents, `data.sentences=${join(folder, 'none.jsonl')}`], /which data\.sentences names/],
  ] as const) {
    write(...settings);
    const { code, err } = await prepare();
    assert.equal(code, 2);
    assert.match(err, message);
    assert.equal(existsSync(dir), false, String(settings));
  }
  // Found only while the documents are read: the configuration is saved by then, and another one may replace it.
  const broken = join(folder, 'broken-documents.jsonl');
  writeFileSync(broken, `${readFileSync(join(folder, 'documents.jsonl'), 'utf8')}{"text": 3}\n`);
  write(`data.documents=${broken}`, 'text.vocabularySize=200');
  const failed = await prepare();
  assert.equal(failed.code, 2);
  assert.match(failed.err, /broken-documents\.jsonl: line \d+: /);
  write(documents, 'text.vocabularySize=250');
  const corrected = await prepare();
  assert.equal(corrected.code, 0, corrected.err);
  const { text, data } = loadConfig(runFolder(dir).config, []);
  assert.deepEqual([text.vocabularySize, data.documents], [250, join(folder, 'documents.jsonl')]);
  // The vocabulary is of the corrected command; a prepared run keeps both.
  const pieces = () => readFileSync(join(dir, 'vocab.txt'), 'utf8').trimEnd().split('\n').length;
  assert.ok(pieces() > 200 && pieces() <= 250, String(pieces()));
  write(documents, 'text.vocabularySize=300');
  const refused = await prepare();
  assert.equal(refused.code, 2);
  assert.match(refused.err, /this run already has a configuration, and it differs/);
  assert.equal((await realm('prepare', '--run', dir, '--json')).code, 0);
  assert.ok(pieces() <= 250);
});

test('a new run needs --config; the message lists the presets', async () => {
  const dir = join(folder, 'new');
  const { code, err } = await realm('prepare', '--run', dir, '--set', `data.documents=${folder}`);
  assert.equal(code, 2);
  assert.match(err, /new: a new run needs settings; .*"realm init".*--config.*squad-open/);
  assert.equal(existsSync(dir), false);
});

test('a run folder that cannot be created is named at once', async () => {
  for (const dir of ['/proc/none/run', join(folder, 'documents.jsonl', 'run')]) {
    const { code, err } = await realm('demo', '--run', dir);
    assert.equal(code, 2);
    assert.match(err, /^realm: .*(no folder can be made in \/proc; name a folder somewhere else|ENOTDIR)/);
  }
});

/** Documents in ordinary English, with words that the demo's worlds do not have. */
const english = () => {
  const path = join(folder, 'english.jsonl');
  const text =
    'Photosynthesis converts electromagnetic radiation into chemical energy in chloroplasts. Jean Senebier described it in 1782.';
  writeFileSync(path, `${JSON.stringify({ title: 'Photosynthesis', text })}\n`);
  return path;
};

test('prepare and doctor refuse an encoder that does not fit, and name all settings to change', async () => {
  const dir = join(folder, 'unfit');
  const args = ['--run', dir, '--config', 'squad-open', '--set', `data.documents=${english()}`];
  const encoder = join(folder, 'world-encoder');
  cpSync(join(import.meta.dirname, '../../assets/world-encoder'), encoder, { recursive: true });
  writeFileSync(join(encoder, 'tokenizer_config.json'), '{"do_lower_case": true}');
  const initial = ['--set', `model.initial=${encoder}`];
  for (const command of ['prepare', 'doctor']) {
    const { code, err } = await realm(
      command,
      ...args,
      ...initial,
      '--set',
      'text.lowercase=false',
      '--json',
    );
    assert.equal(code, 2, err);
    assert.match(err, /world-encoder\/config\.json: model\.initial does not fit these settings: /);
    for (const complaint of [
      'max_position_embeddings is 112, your configuration has model.positions 256; set model.positions to 112',
      'text.sentenceTokens (64) + text.blockTokens (192) are 256 tokens; lower text.blockTokens to 48 or less, or lower both',
      'qa.readerTokens is 224; lower it to 112 or less',
      'text.lowercase is false, do_lower_case is true: set it to true',
    ])
      assert.ok(err.includes(complaint), `${complaint}\n${err}`);
    assert.ok(!/num_hidden_layers|intermediate_size/.test(err), err);
    assert.equal(existsSync(dir), false);
  }
  const gone = await realm('prepare', ...args, '--set', `model.initial=${join(folder, 'gone')}`);
  assert.match(gone.err, /gone: no such folder, which model\.initial names .*--set model\.initial=PATH\n$/);
});

test("prepare warns if the encoder's vocabulary splits words into too many pieces, and names the next command", async () => {
  const prepare = (name: string, documents: string) =>
    realm(
      'prepare',
      '--run',
      join(folder, name),
      '--config',
      'world',
      '--set',
      `data.documents=${documents}`,
      '--json',
    );
  const other = await prepare('pieces', english());
  assert.equal(other.code, 0, other.err);
  assert.match(
    other.err,
    /^prepare: the vocabulary does not suit these documents: [3-9]\.\d\d word pieces a word .*model\.initial/m,
  );
  assert.ok(other.err.endsWith(`next: realm ict-warmup --run ${join(folder, 'pieces')}\n`), other.err);
  const own = await prepare('words', join(folder, 'documents.jsonl'));
  assert.equal(own.code, 0, own.err);
  assert.doesNotMatch(own.err, /does not suit/);
});

test('without pretraining, recall is of the inverse cloze task; a new folder cannot be estimated', async () => {
  const away = `${run.checkpoint('pretrain')}-away`;
  renameSync(run.checkpoint('pretrain'), away);
  rmSync(run.evaluations, { force: true });
  const { code, err } = await inRun('eval', 'recall');
  renameSync(away, run.checkpoint('pretrain'));
  assert.equal(code, 0, err);
  assert.equal(JSON.parse(readFileSync(run.evaluations, 'utf8')).stage, 'ict-warmup');
  assert.equal((await inRun('eval', 'recall')).code, 0);
  const stages = readFileSync(run.evaluations, 'utf8')
    .trimEnd()
    .split('\n')
    .map((line) => JSON.parse(line).stage);
  assert.deepEqual(stages, ['ict-warmup', 'pretrain']);
  const doctor = await realm('doctor', '--run', join(folder, 'nowhere'));
  assert.equal(doctor.code, 2);
  assert.match(doctor.err, /nowhere: is not a run yet, so it has no settings; .*--config.*squad-open/);
});

test('report accepts the run as --run too', async () => {
  const { code, err } = await realm('report', '--run', run.dir, '--json');
  assert.equal(code, 0, err);
  assert.ok(existsSync(join(run.dir, 'report.html')));
});

test('the next command has the options that it needs', () => {
  const { data } = loadConfig(undefined, []);
  const next = (dir: string, done: Done, more: Partial<typeof data> = {}) =>
    nextCommands(runFolder(dir), { ...loadConfig(undefined, []), data: { ...data, ...more } }, done);
  assert.deepEqual(next('runs/default', 'prepare'), ['realm ict-warmup']);
  assert.deepEqual(next('runs/mine', 'ict-warmup'), ['realm build-index --run runs/mine']);
  assert.deepEqual(next("it's mine", 'build-index'), ["realm pretrain --run 'it'\\''s mine'"]);
  assert.deepEqual(next('r', 'pretrain'), ['realm finetune-qa --run r --set data.train=FILE']);
  assert.deepEqual(next('r', 'pretrain', { train: '/q' }), ['realm finetune-qa --run r']);
  assert.deepEqual(next('r', 'finetune-qa'), [
    'realm eval exact-match --run r --questions FILE',
    'realm ask --run r',
  ]);
  assert.deepEqual(next('r', 'finetune-qa', { dev: '/q' }), [
    'realm eval exact-match --run r',
    'realm ask --run r',
  ]);
  const steps = (ict: number, readerWarmup: number, pretrain: number, done: Done) =>
    nextCommands(
      runFolder('r'),
      loadConfig(undefined, [
        `ict.steps=${ict}`,
        `readerWarmup.steps=${readerWarmup}`,
        `pretrain.steps=${pretrain}`,
        'data.train=/q',
      ]),
      done,
    ).map((command) => command.split(' ')[1]);
  assert.deepEqual(steps(5, 5, 5, 'prepare'), ['ict-warmup']);
  assert.deepEqual(steps(5, 5, 5, 'ict-warmup'), ['reader-warmup']);
  assert.deepEqual(steps(0, 5, 0, 'prepare'), ['reader-warmup']);
  assert.deepEqual(steps(0, 5, 0, 'build-index'), ['reader-warmup']);
  assert.deepEqual(steps(0, 0, 0, 'prepare'), ['build-index']);
  assert.deepEqual(steps(0, 0, 0, 'build-index'), ['finetune-qa']);
  assert.deepEqual(next('r', 'demo'), ['realm ask --run r', 'realm report --run r', 'realm serve --run r']);
});

test('changed documents: prepare says so, its next command and that of status build the index, and ask works again', async () => {
  const { documents } = loadConfig(run.config, []).data;
  const lines = readFileSync(documents!, 'utf8').trimEnd().split('\n');
  const other = join(folder, 'other.jsonl');
  writeFileSync(other, `${lines.slice(5).join('\n')}\n`);
  // The last test to use the run: earlier tests have removed its index.
  assert.equal((await inRun('build-index')).code, 0);
  const status = () => statusOf(run).next;
  assert.notEqual(status(), `realm build-index --run ${run.dir}`);
  const prepare = (path: string) =>
    realm('prepare', '--run', run.dir, '--set', `data.documents=${path}`, '--json');

  const same = await prepare(documents!);
  assert.equal(same.code, 0, same.err);
  assert.doesNotMatch(same.err, /has changed/);

  const changed = await prepare(other);
  assert.equal(changed.code, 0, changed.err);
  assert.match(
    changed.err,
    new RegExp(
      `^prepare: the corpus of this run has changed: ${lines.length} documents before, ${lines.length - 5} now; .*the index must be built again`,
      'm',
    ),
  );
  const build = `realm build-index --run ${run.dir}`;
  assert.ok(changed.err.endsWith(`next: ${build}\n`), changed.err);
  assert.equal(status(), build);
  const refused = await inRun('ask', 'who?');
  assert.equal(refused.code, 2);
  assert.match(refused.err, /realm build-index/);

  const built = await inRun('build-index');
  assert.equal(built.code, 0, built.err);
  assert.notEqual(status(), build);
  const answered = await inRun('ask', 'who?');
  assert.equal(answered.code, 0, answered.err);
});

test('after prepare comes ict-warmup until a retriever is trained or imported', () => {
  const dir = join(folder, 'stages');
  const next = (...stages: [stage: Stage, step: number, steps: number][]) => {
    rmSync(dir, { recursive: true, force: true });
    for (const [stage, step, steps] of stages) {
      const name = `step-${String(step).padStart(7, '0')}`;
      const root = runFolder(dir).checkpoint(stage);
      mkdirSync(join(root, name), { recursive: true });
      writeFileSync(join(root, name, 'state.json'), JSON.stringify({ step, steps }));
      writeFileSync(join(root, 'latest'), `${name}\n`);
    }
    return nextCommands(runFolder(dir), loadConfig(undefined, []), 'prepare')[0].split(' ')[1];
  };
  assert.equal(next(), 'ict-warmup');
  assert.equal(next(['ict-warmup', 3, 9]), 'ict-warmup');
  assert.equal(next(['closed-book', 9, 9]), 'ict-warmup');
  assert.equal(next(['ict-warmup', 9, 9]), 'build-index');
  assert.equal(next(['ict-warmup', 0, 9]), 'build-index', 'imported');
  assert.equal(next(['pretrain', 3, 9]), 'build-index');
});
