import assert from 'node:assert/strict';
import {
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  realpathSync,
  renameSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join, resolve } from 'node:path';
import { after, test } from 'node:test';
import { parse } from 'yaml';
import { type Config, loadConfig, RENAMED, saveConfig, withoutPaths } from '../src/config.ts';
import { vectorLength } from '../src/model/head.ts';
import { UserError } from '../src/system/errors.ts';

const folder = mkdtempSync(join(tmpdir(), 'config-'));
after(() => rmSync(folder, { recursive: true }));

function file(text: string): string {
  const path = join(folder, 'settings.yaml');
  writeFileSync(path, text);
  return path;
}

function refused(load: () => unknown, message: RegExp): void {
  assert.throws(load, (error) => {
    assert.ok(error instanceof UserError, String(error));
    assert.match(error.message, message);
    return true;
  });
}

const set = (...overrides: string[]) => loadConfig(undefined, overrides);

test("without a file every setting has its default, the paper's where it gives one", () => {
  const { seed, text, model, ict, pretrain, refresh, qa } = set();
  assert.equal(seed, 1);
  assert.deepEqual(
    [text.blockTokens, model.layers, model.hidden, vectorLength(model), ict.batch, ict.keepSentence],
    [288, 12, 768, 128, 4096, 0.1],
  );
  assert.deepEqual(
    [
      pretrain.steps,
      pretrain.batch,
      pretrain.candidates,
      pretrain.marginalize,
      refresh.every,
      qa.readerBlocks,
    ],
    [200_000, 512, 8, 'span', 500, 5],
  );
  // Each stage has an optimizer of its own.
  assert.deepEqual(
    [ict, pretrain, qa].map((stage) => stage.optimizer.learningRate),
    [1e-4, 3e-5, 1e-5],
  );
  assert.equal(ict.optimizer.warmupSteps, null);
});

test('a lone - is standard input, not a list', () => {
  assert.equal(loadConfig(undefined, ['data.documents=-']).data.documents, '-');
});

test('a file holds the differences from the defaults', () => {
  const config = loadConfig(file('ict: { steps: 7 }\nmodel:\n  dropout: 0\n'), []);
  const wanted = set();
  wanted.ict.steps = 7;
  wanted.model.dropout = 0;
  assert.deepEqual(config, wanted);
  assert.deepEqual(loadConfig(file('# nothing but a remark\n'), []), set());
});

test('--set reads numbers, truth values, null and text as YAML does, on any path', () => {
  const config = set(
    'ict.optimizer.learningRate=1e-3',
    'ict.steps=12',
    'model.sharedTowers=false',
    'text.vocabulary=null',
    'data.documents=a folder/file=1.jsonl',
    "data.train='12'",
    'qa={steps: 3, optimizer: {beta1: 0.5}}',
    'qa.batch=4',
  );
  assert.equal(config.ict.optimizer.learningRate, 0.001);
  assert.equal(config.ict.optimizer.weightDecay, 0.01, 'its neighbours keep their defaults');
  assert.equal(config.ict.steps, 12);
  assert.equal(config.model.sharedTowers, false);
  assert.equal(config.text.vocabulary, null);
  assert.equal(config.data.documents, resolve('a folder/file=1.jsonl'));
  assert.equal(config.data.train, resolve('12'));
  assert.deepEqual([config.qa.steps, config.qa.batch, config.qa.optimizer.beta1], [3, 4, 0.5]);
});

test('--set goes over the file, and the last one of a path counts', () => {
  const path = file('ict: { steps: 7, batch: 5 }');
  const { ict } = loadConfig(path, ['ict.steps=8', 'ict.steps=9']);
  assert.deepEqual([ict.steps, ict.batch], [9, 5]);
});

test('an unknown setting is refused by name, with the nearest that exists there', () => {
  refused(() => set('ict.step=3'), /unknown setting "ict\.step"; did you mean "ict\.steps"\?/);
  refused(() => set('sed=3'), /unknown setting "sed"; did you mean "seed"\?/);
  refused(
    () => loadConfig(file('qa:\n  optimizer:\n    learningrate: 1\n'), []),
    /settings\.yaml: unknown setting "qa\.optimizer\.learningrate"; did you mean "qa\.optimizer\.learningRate"\?/,
  );
  refused(() => set('model.layer=3', 'model.head=2'), /"model\.layers"\?.*"model\.heads"\?/);
});

test('a value of the wrong kind is refused with its path and what came', () => {
  refused(() => set('model.layers=two'), /^--set model\.layers: expected number, got "two"$/);
  refused(
    () => loadConfig(file('model: {layers: two}'), ['model.hidden=some']),
    /settings\.yaml: model\.layers: expected number, got "two"; --set model\.hidden: expected number, got "some"$/,
  );
  refused(() => set('model.layers=2.5'), /model\.layers: .*got 2\.5/);
  refused(() => set('ict.batch=0'), /ict\.batch: .*got 0/);
  refused(() => set('refresh.mode=often'), /refresh\.mode: .*"async"\|"sync"\|"off".*got "often"/);
  refused(() => set('data.train=12'), /data\.train: expected string.*got 12/);
  refused(() => set('ict=3'), /ict: expected object.*got 3/);
  refused(() => set('seed=1', 'ict.keepSentence=1.5', 'qa.steps=-1'), /ict\.keepSentence: .*; qa\.steps: /);
});

test('a --set that is no path.to.key=value says so', () => {
  refused(() => set('ict.steps'), /--set ict\.steps: expected path\.to\.key=value/);
  refused(() => set('=3'), /--set =3: expected path\.to\.key=value/);
  refused(() => set('ict.steps=[1'), /--set ict\.steps=\[1: the value is not valid YAML/);
});

test('a hidden size that the heads do not divide is refused', () => {
  refused(() => set('model.hidden=100'), /model\.hidden \(100\) must be a multiple of model\.heads \(12\)/);
  assert.equal(set('model.hidden=100', 'model.heads=10').model.hidden, 100);
});

test('sequences longer than the positions are refused, whichever stage makes them', () => {
  const short = [
    'text.blockTokens=40',
    'text.sentenceTokens=20',
    'text.questionTokens=20',
    'qa.readerTokens=60',
  ];
  assert.equal(set(...short, 'model.positions=60').model.positions, 60);
  for (const [longer, message] of [
    [
      'text.blockTokens=41',
      /text\.sentenceTokens \(20\) \+ text\.blockTokens \(41\) are 61 tokens; lower text\.blockTokens to 40 or less, or lower both$/,
    ],
    ['qa.readerTokens=62', /qa\.readerTokens is 62; lower it to 60 or less$/],
    // Behind the question come the masks of the widest answer, 10 pieces.
    [
      'text.questionTokens=53',
      /model\.maxSpanWidth \(10\) \+ text\.questionTokens \(53\) are 63 tokens; lower text\.questionTokens to 50 or less, or lower both$/,
    ],
  ] as const) {
    refused(() => set(...short, 'model.positions=60', longer), message);
    refused(() => set(...short, 'model.positions=60', longer), /model\.positions is 60, too few/);
  }
  // All at once; where one of two leaves the other too little, both must be lowered.
  refused(
    () =>
      set(
        'text={blockTokens: 40, sentenceTokens: 50, questionTokens: 53}',
        'qa.readerTokens=62',
        'model.positions=60',
      ),
    /sentenceTokens \(50\) \+ text\.blockTokens \(40\) are 90 tokens; lower both, to 60 together; qa\.readerTokens is 62; .*; model\.maxSpanWidth \(10\) \+ text\.questionTokens/,
  );
});

test('settings of contrastive learning that make no sense without each other are refused', () => {
  const [contrastive, every] = ['qa.contrastive=1', 'qa.refreshEvery=100'];
  refused(() => set(contrastive), /qa\.contrastive trains the document tower.*; set qa\.refreshEvery too/);
  refused(
    () => set('qa.minedNegatives=1'),
    /qa\.minedNegatives are negatives of qa\.contrastive, which is 0/,
  );
  refused(() => set('qa.readQuestions=8'), /qa\.readQuestions leaves questions to qa\.contrastive alone/);
  const { qa } = set(contrastive, every, 'qa.minedNegatives=1', 'qa.readQuestions=8');
  assert.deepEqual([qa.contrastive, qa.minedNegatives, qa.readQuestions], [1, 1, 8]);
});

test('candidates of hybrid retrieval need its weight', () => {
  refused(
    () => set('pretrain.hybrid=true'),
    /pretrain\.hybrid needs the weight of hybrid retrieval; set hybrid\.weight/,
  );
  assert.equal(set('pretrain.hybrid=true', 'hybrid.weight=0.6').pretrain.hybrid, true);
});

test('texts too short to hold anything are refused', () => {
  refused(() => set('text.blockTokens=3'), /text\.blockTokens: .*>=16, got 3/);
  refused(() => set('text.sentenceTokens=2'), /text\.sentenceTokens: .*>=8, got 2/);
  refused(() => set('text.questionTokens=1'), /text\.questionTokens: .*>=8, got 1/);
  refused(
    () => set('text.questionTokens=64', 'qa.readerTokens=65'),
    /qa\.readerTokens \(65\) leaves no room for a block behind a question of text\.questionTokens \(64\)/,
  );
  assert.equal(set('text.questionTokens=64', 'qa.readerTokens=66').qa.readerTokens, 66);
});

test('sizes beyond any use are refused', () => {
  refused(() => set('model.layers=100000'), /model\.layers: .*<=1000, got 100000/);
  refused(() => set('model.hidden=1e9', 'model.heads=1'), /model\.hidden: .*<=1000000, got 1000000000/);
  refused(() => set('pretrain.batch=1e12'), /pretrain\.batch: /);
  refused(() => set('data.documents="a\\0b"'), /data\.documents: a path cannot hold a NUL character/);
});

test('files that are missing, no YAML or no settings are refused in one line', () => {
  refused(() => loadConfig(join(folder, 'none.yaml'), []), /none\.yaml: no such configuration file/);
  refused(() => loadConfig(folder, []), /is a folder and not a configuration file/);
  for (const [text, message] of [
    ['ict: [', /settings\.yaml: not valid YAML: [^:]* at line 1, column 7; correct the file$/],
    ['ict: 1\nict: 2', /not valid YAML: .*unique/],
    ['- 1\n- 2', /expected settings as "name: value" lines/],
    ['just text', /expected settings as "name: value" lines/],
    ['seed: 1\n---\nseed: 2', /not valid YAML: /],
  ] as const) {
    refused(() => loadConfig(file(text), []), message);
    refused(() => loadConfig(file(text), []), /^[^\n]*$/);
  }
});

test('an alias bomb is refused before it is unfolded', () => {
  const lines = ['a0: &a0 [x, x, x, x, x, x, x, x, x, x]'];
  for (let i = 1; i < 12; i++)
    lines.push(
      `a${i}: &a${i} [${Array(10)
        .fill(`*a${i - 1}`)
        .join(', ')}]`,
    );
  refused(() => loadConfig(file(lines.join('\n')), []), /not valid YAML: Alias/);
});

test('keys of the prototype are unknown settings and change nothing', () => {
  const keys = Object.getOwnPropertyNames(Object.prototype);
  refused(() => set('__proto__.x=1'), /unknown setting "__proto__"/);
  refused(() => set('model.__proto__.x=1'), /unknown setting "model\.__proto__"/);
  refused(() => set('__proto__=1'), /unknown setting "__proto__"/);
  refused(() => set('constructor.prototype.x=1'), /unknown setting "constructor"/);
  refused(() => loadConfig(file('model: { __proto__: { x: 1 } }'), []), /unknown setting "model\.__proto__"/);
  assert.deepEqual(Object.getOwnPropertyNames(Object.prototype), keys);
  assert.equal(({} as { x?: number }).x, undefined);
});

test('a saved configuration reads back the same', () => {
  const config = set('data.documents="a: #b"', 'data.train="null"', 'model.layerNormEps=1e-12', 'seed=7');
  const path = join(folder, 'saved', 'config.yaml');
  saveConfig(path, config);
  assert.deepEqual(loadConfig(path, []), config);
});

test('paths in a file are relative to its folder, those of --set to the current one', () => {
  const text = [
    'data: { documents: docs.jsonl, train: ../train.jsonl, dev: /dev.jsonl, test: "-", sentences: null }',
    'text: { vocabulary: realm:assets/world-encoder/vocab.txt, ner: hf:owner/ner }',
    'model: { initial: hf:owner/name }',
  ].join('\n');
  const { data, text: of, model } = loadConfig(file(text), ['model.initialReader=bert']);
  const real = realpathSync(folder);
  assert.deepEqual(
    [data.documents, data.train, data.dev, data.test, data.sentences],
    [join(real, 'docs.jsonl'), join(real, '../train.jsonl'), '/dev.jsonl', '-', null],
  );
  assert.equal(of.vocabulary, join(configs, '../assets/world-encoder/vocab.txt'));
  assert.equal(of.ner, 'hf:owner/ner');
  assert.deepEqual([model.initial, model.initialReader], ['hf:owner/name', resolve('bert')]);
  // The same in a group, and --set goes over the file.
  const over = loadConfig(file(text), [
    'data={documents: mine.jsonl}',
    'data.train=../t.jsonl',
    'data.dev=-',
  ]).data;
  assert.deepEqual(
    [over.documents, over.train, over.dev, over.test],
    [resolve('mine.jsonl'), resolve('../t.jsonl'), '-', null],
  );
});

test("a saved configuration's paths are relative to it, and mean the same after it was moved with the data", () => {
  const project = join(realpathSync(folder), 'project');
  const path = join(project, 'runs', 'one', 'config.yaml');
  const config = set(
    `data.documents=${join(project, 'documents.jsonl')}`,
    `data.train=${join(project, 'runs', 'one', 'train.jsonl')}`,
    'data.test=/elsewhere/test.jsonl',
    'data.dev=-',
    'model.initial=hf:owner/name',
    'text.vocabulary=realm:assets/world-encoder/vocab.txt',
  );
  saveConfig(path, config);
  const saved = parse(readFileSync(path, 'utf8'));
  assert.deepEqual(saved.data, {
    ...config.data,
    documents: '../../documents.jsonl',
    train: 'train.jsonl',
    test: '/elsewhere/test.jsonl',
  });
  assert.equal(saved.text.vocabulary, 'realm:assets/world-encoder/vocab.txt');
  assert.equal(saved.model.initial, 'hf:owner/name');
  assert.deepEqual(loadConfig(path, []), config);
  const moved = join(realpathSync(folder), 'moved');
  renameSync(project, moved);
  const { data } = loadConfig(join(moved, 'runs', 'one', 'config.yaml'), []);
  assert.deepEqual(
    [data.documents, data.train, data.test],
    [join(moved, 'documents.jsonl'), join(moved, 'runs', 'one', 'train.jsonl'), '/elsewhere/test.jsonl'],
  );
  // A folder reached by a link is the same one.
  symlinkSync(join(moved, 'runs'), join(folder, 'link'));
  assert.deepEqual(loadConfig(join(folder, 'link', 'one', 'config.yaml'), []).data, data);
});

test('settings without paths are those that two runs in different folders agree in', () => {
  const { text, model, seed } = set('model.initial=a', 'text.vocabulary=b', 'text.blockTokens=100');
  const kept = withoutPaths({ text, model, seed }) as { text: object; model: object; seed: number };
  assert.equal(kept.seed, 1);
  assert.ok(!('vocabulary' in kept.text) && !('ner' in kept.text) && !('initial' in kept.model));
  assert.equal((kept.text as Config['text']).blockTokens, 100);
  assert.deepEqual((kept.model as Config['model']).layers, 12);
});

test('a setting by its old name is refused with the new one', () => {
  assert.equal(RENAMED.size, 8);
  for (const [old, now] of RENAMED) {
    const value = now
      .split('.')
      .reduce<unknown>((node, key) => (node as Record<string, unknown>)[key], set());
    assert.notEqual(value, undefined, `${now} is a setting`);
    const message = `${old} is now ${now}; use the new name`;
    refused(() => set(`${old}=${value}`), new RegExp(`^--set ${message}$`));
    const [section, key] = old.split('.');
    refused(
      () => loadConfig(file(`${section}: { ${key}: ${value} }`), []),
      new RegExp(`settings\\.yaml: ${message}$`),
    );
  }
});

function write(name: string, text: string): string {
  const path = join(folder, name);
  mkdirSync(dirname(path), { recursive: true });
  writeFileSync(path, text);
  return path;
}

test('a file that extends another has its settings, and its own in their place', () => {
  write(
    'below/base.yaml',
    'data: { train: train.jsonl, dev: dev.jsonl }\nict: { steps: 5, batch: 6, optimizer: { beta1: 0.5, beta2: 0.6 } }\nmodel: { dropout: 0 }\n',
  );
  const path = write(
    'above/child.yaml',
    'extends: ../below/base.yaml\ndata: { dev: dev.jsonl }\nict: { steps: 7, optimizer: { beta2: 0.7 } }\n',
  );
  const { data, ict, model } = loadConfig(path, ['ict.batch=8']);
  const real = realpathSync(folder);
  // Each path is relative to the file that names it.
  assert.deepEqual([data.train, data.dev], [join(real, 'below/train.jsonl'), join(real, 'above/dev.jsonl')]);
  assert.deepEqual(
    [ict.steps, ict.batch, ict.optimizer.beta1, ict.optimizer.beta2, model.dropout],
    [7, 8, 0.5, 0.7, 0],
  );
  const preset = write('mine.yaml', 'extends: realm:configs/world.yaml\nseed: 3\n');
  assert.deepEqual(loadConfig(preset, []), loadConfig('world', ['seed=3']));
});

test('a file that extends nothing useful is refused, and a mistake names the file that has it', () => {
  const child = (base: string, more = '') => write('child.yaml', `extends: ${base}\n${more}`);
  refused(
    () => loadConfig(child('child.yaml'), []),
    /child\.yaml: extends child\.yaml, which extends another file;/,
  );
  write('second.yaml', 'extends: child.yaml');
  refused(
    () => loadConfig(child('second.yaml'), []),
    /child\.yaml: extends second\.yaml, which extends another/,
  );
  refused(
    () => loadConfig(child('none.yaml'), []),
    /none\.yaml: no such configuration file; correct extends in .*child\.yaml$/,
  );
  for (const [value, shown] of [
    ['3', '3'],
    ['[a.yaml]', '\\["a\\.yaml"\\]'],
    ['null', 'null'],
  ])
    refused(
      () => loadConfig(child(value), []),
      new RegExp(`child\\.yaml: extends: expected the name of a settings file, got ${shown}$`),
    );
  refused(() => set('extends=world'), /unknown setting "extends"/);
  write('base.yaml', 'ict: { steps: none }\nseed: 1\n');
  refused(
    () => loadConfig(child('base.yaml', 'qa: { steps: none }'), ['seed=none']),
    /^--set seed: [^;]*; [^;]*base\.yaml: ict\.steps: [^;]*"none"; [^;]*child\.yaml: qa\.steps: [^;]*"none"$/,
  );
  refused(
    () => loadConfig(child('base.yaml'), []),
    /^[^;]*base\.yaml: ict\.steps: expected number, got "none"$/,
  );
  refused(
    () => loadConfig(child('base.yaml', 'ict: { steps: many }'), []),
    /^[^;]*child\.yaml: ict\.steps: expected number, got "many"$/,
  );
  write('base.yaml', 'index: { scalar: f16 }');
  refused(() => loadConfig(child('base.yaml'), []), /base\.yaml: index\.scalar is now index\.dtype/);
});

const configs = join(import.meta.dirname, '../configs');

test('every configuration that ships loads, and each of its lines has an effect', () => {
  const names = readdirSync(configs).filter((name) => name.endsWith('.yaml'));
  assert.ok(names.length >= 4, String(names));
  for (const name of names) {
    const config = loadConfig(join(configs, name), []);
    const contains = (all: unknown, some: unknown, path: string): void => {
      if (typeof some === 'string' && some.startsWith('realm:'))
        assert.equal(all, join(configs, '..', some.slice('realm:'.length)));
      else if (some === null || typeof some !== 'object') assert.deepEqual(all, some, `${name}: ${path}`);
      else
        for (const [key, value] of Object.entries(some))
          contains((all as Record<string, unknown>)[key], value, `${path}.${key}`);
    };
    const { extends: _, ...settings } = parse(readFileSync(join(configs, name), 'utf8'));
    contains(config, settings, '');
  }
});

test("paper.yaml names the defaults, which are the paper's", () => {
  // The head is null by default, since an encoder may bring its own; the paper's is named.
  const head = ['model.pooling=pooler', 'model.projection=128'];
  assert.deepEqual(loadConfig(join(configs, 'paper.yaml'), []), set(...head) satisfies Config);
});

test('settings of any depth and length are refused in one short line', () => {
  for (const [text, message] of [
    [`model: ${'['.repeat(20_000)}`, /not valid YAML: it is nested too deep/],
    [`model: ${'['.repeat(30)}${']'.repeat(30)}`, /is nested deeper than any setting/],
    [`# ${'x'.repeat(1 << 17)}`, /is longer than 65536 bytes/],
    [`data: {train: [${'1, '.repeat(1000)}1]}`, /data\.train: expected string.*got \[1,1/],
    ['__proto__: {seed: 2}', /unknown setting "__proto__"/],
  ] as const) {
    refused(() => loadConfig(file(text), []), message);
    refused(() => loadConfig(file(text), []), /^.{1,250}$/);
  }
  writeFileSync(join(folder, 'settings.yaml'), Buffer.from('data: {train: caf\xe9}', 'latin1'));
  refused(() => loadConfig(join(folder, 'settings.yaml'), []), /is not UTF-8 text/);
});
