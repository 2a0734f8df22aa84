import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import {
  chmodSync,
  existsSync,
  lstatSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { dirname, join } from 'node:path';
import { after, beforeEach, test } from 'node:test';
import { cachedFolder, modelFolder } from '../../src/hub/cache.ts';
import { choose, fetchModel } from '../../src/hub/fetch.ts';
import { UserError } from '../../src/system/errors.ts';
import { COMMIT, checksumOf, fakeHub, type HubFile } from '../support/hub.ts';
import { temporaryFolder } from '../support/tiny.ts';

const TOKEN = 'hf_secretSecretSecret';
const NAME = 'hf:owner/tiny';
const PINNED = `hf:owner/tiny@main#${COMMIT}`;

const small = (path: string, text: string): HubFile => ({ path, content: Buffer.from(text), lfs: false });
const large = (path: string, bytes: number): HubFile => ({
  path,
  content: Buffer.from(Array.from({ length: bytes }, (_, i) => (i * i + bytes) % 251)),
  lfs: true,
});
const config = small('config.json', '{"model_type": "bert"}\n');
const vocab = small('vocab.txt', '[PAD]\n[UNK]\n');
const weights = large('model.safetensors', 300_000);
const NEEDED = [config, vocab, weights];

const hub = await fakeHub();
const top = temporaryFolder('hub');
let made = 0;
let cache: string;
const VARIABLES = ['HF_ENDPOINT', 'HF_HOME', 'HF_HUB_CACHE', 'HUGGINGFACE_HUB_CACHE', 'HF_TOKEN'].concat([
  'HUGGING_FACE_HUB_TOKEN',
  'HF_TOKEN_PATH',
  'HF_HUB_OFFLINE',
  'TRANSFORMERS_OFFLINE',
]);
const before = VARIABLES.map((name) => [name, process.env[name]] as const);
after(() => {
  for (const [name, value] of before) setVariable(name, value);
});

function setVariable(name: string, value: string | undefined): void {
  if (value === undefined) delete process.env[name];
  else process.env[name] = value;
}

beforeEach(() => {
  for (const name of VARIABLES) delete process.env[name];
  const home = join(top, String(made++));
  process.env.HF_HOME = home;
  process.env.HF_ENDPOINT = hub.url;
  cache = join(home, 'hub', 'models--owner--tiny');
  hub.forget();
  hub.files = [
    ...NEEDED,
    large('pytorch_model.bin', 400_000),
    large('tf_model.h5', 100),
    small('README.md', '# Tiny\n'),
  ];
});

const snapshot = () => join(cache, 'snapshots', COMMIT);
const blob = (file: HubFile) => join(cache, 'blobs', checksumOf(file));

function assertCached(files: readonly HubFile[]): void {
  assert.deepEqual(readdirSync(snapshot()).sort(), files.map(({ path }) => path).sort());
  assert.deepEqual(readdirSync(join(cache, 'blobs')).sort(), files.map(checksumOf).sort());
  for (const file of files) assert.ok(readFileSync(join(snapshot(), file.path)).equals(file.content));
}

async function refusal(setting = NAME): Promise<string> {
  const error = await fetchModel(setting, 'encoder', 1).then(
    () => assert.fail('it is refused'),
    (error) => error,
  );
  assert.ok(error instanceof UserError, String(error.stack));
  assert.doesNotMatch(error.message, new RegExp(TOKEN));
  assert.doesNotMatch(error.message, /\n/);
  return error.message;
}

test("only the needed files are downloaded, in the layout of Hugging Face's cache", async () => {
  assert.equal(await fetchModel(NAME, 'encoder'), PINNED);
  assertCached(NEEDED);
  assert.equal(readFileSync(join(cache, 'refs', 'main'), 'utf8'), COMMIT);
  assert.equal(
    readlinkSync(join(snapshot(), 'vocab.txt')),
    join('..', '..', 'blobs', checksumOf(vocab)),
    'a link that a moved cache keeps',
  );
  assert.equal(modelFolder(PINNED), snapshot());
  assert.equal(modelFolder(NAME), snapshot());
  assert.ok(!existsSync(join(cache, 'realm.lock')));
});

test('if the commit of a model is known, the cache is used without a request', async () => {
  await fetchModel(NAME, 'encoder');
  hub.forget();
  assert.equal(await fetchModel(PINNED, 'encoder'), PINNED);
  assert.equal(await fetchModel(`${NAME}@${COMMIT}`, 'encoder'), `${NAME}@${COMMIT}`);
  assert.deepEqual(hub.requests, []);
});

test('a branch that has moved gives the new commit, and the old one stays', async () => {
  await fetchModel(NAME, 'encoder');
  const moved = 'b'.repeat(40);
  hub.revisions = { main: moved, [moved]: moved, [COMMIT]: COMMIT };
  const news = small('vocab.txt', '[PAD]\n[UNK]\nnew\n');
  hub.files = [config, news, weights];
  hub.requests.length = 0;
  assert.equal(await fetchModel(NAME, 'encoder'), `${NAME}@main#${moved}`);
  assert.ok(readFileSync(join(cache, 'snapshots', moved, 'vocab.txt')).equals(news.content));
  assert.ok(readFileSync(join(snapshot(), 'vocab.txt')).equals(vocab.content));
  assert.ok(
    !hub.requests.some((path) => path.includes('safetensors')),
    'the same weights are not fetched again',
  );
});

test('a token is sent to the Hub, but not after a redirect to another server', async () => {
  process.env.HF_TOKEN = ` ${TOKEN}\n`;
  await fetchModel(NAME, 'encoder');
  assert.ok(hub.requests.some((path) => path.startsWith('cdn:')));
  for (const [i, path] of hub.requests.entries()) {
    assert.equal(hub.authorizations[i], path.startsWith('cdn:') ? undefined : `Bearer ${TOKEN}`, path);
  }
});

test('a token is also read from its file, but HF_TOKEN comes first', async () => {
  mkdirSync(process.env.HF_HOME!, { recursive: true });
  writeFileSync(join(process.env.HF_HOME!, 'token'), 'hf_home\n');
  const other = join(process.env.HF_HOME!, 'other');
  writeFileSync(other, 'hf_other');
  const sent = async () => {
    hub.authorizations.length = 0;
    await fetchModel(NAME, 'encoder');
    return hub.authorizations[0];
  };
  assert.equal(await sent(), 'Bearer hf_home');
  process.env.HF_TOKEN_PATH = other;
  assert.equal(await sent(), 'Bearer hf_other');
  process.env.HF_TOKEN = 'hf_variable';
  assert.equal(await sent(), 'Bearer hf_variable');
});

test('an invalid token or address is refused, and never printed', async () => {
  process.env.HF_TOKEN = `${TOKEN}\n${TOKEN}`;
  assert.match(await refusal(), /^HF_TOKEN: is not a token/);
  delete process.env.HF_TOKEN;
  process.env.HF_ENDPOINT = hub.url.replace('//', `//me:${TOKEN}@`);
  assert.match(await refusal(), /^HF_ENDPOINT: contains more than an address/);
  process.env.HF_ENDPOINT = 'huggingface';
  assert.match(await refusal(), /^HF_ENDPOINT: is not an address/);
  assert.deepEqual(hub.requests, []);
});

test('a file that is not the published one is refused and removed', async () => {
  for (const wrong of [weights, vocab]) {
    const right = wrong.content;
    hub.intercept = (request, response) => {
      if (!request.url!.endsWith(`/${wrong.path}`)) return false;
      const content = Buffer.from(right);
      content[5] ^= 1;
      response.writeHead(200, { 'content-length': content.length }).end(content);
      return true;
    };
    assert.match(
      await refusal(),
      /the downloaded file has the (SHA-256|Git checksum) \w+, not \w+ as published/,
    );
    assert.ok(!existsSync(blob(wrong)) && !existsSync(`${blob(wrong)}.part`));
    assert.ok(!existsSync(join(cache, 'refs')), 'a model that is not whole has no name in the cache');
    hub.intercept = () => false;
    await fetchModel(NAME, 'encoder');
    assertCached(NEEDED);
    rmSync(cache, { recursive: true });
  }
});

test('a download that breaks is resumed', async () => {
  hub.cut = {
    bytes: 100_000,
    kept: () => {
      if ((statSync(`${blob(weights)}.part`, { throwIfNoEntry: false })?.size ?? 0) < 100_000) return false;
      hub.cut = undefined;
      return true;
    },
  };
  await fetchModel(NAME, 'encoder', 1);
  assertCached(NEEDED);
  assert.deepEqual(hub.ranges, [undefined, 'bytes=100000-']);
});

test('the next command resumes a download that gave up', async () => {
  const part = `${blob(weights)}.part`;
  hub.cut = {
    bytes: 100_000,
    kept: () => (statSync(part, { throwIfNoEntry: false })?.size ?? 0) >= 100_000,
  };
  assert.match(await refusal(), /the connection broke 4 times in a row; 100000 bytes are kept/);
  hub.cut = undefined;
  hub.ranges.length = 0;
  await fetchModel(NAME, 'encoder', 1);
  assertCached(NEEDED);
  assert.deepEqual(hub.ranges, ['bytes=100000-']);
});

test('a refusal of the Hub is one sentence', async () => {
  const answers = (status: number, code?: string) => {
    hub.intercept = (_, response) => {
      response.writeHead(status, code === undefined ? {} : { 'x-error-code': code }).end('secret words');
      return true;
    };
  };
  answers(401);
  assert.match(
    await refusal(),
    /^hf:owner\/tiny@?\w*: no such model on .*, or it is private; check the name, and set HF_TOKEN/,
  );
  answers(401, 'GatedRepo');
  assert.match(
    await refusal(),
    /only available to users who accept its terms; accept its terms at .*\/owner\/tiny and set HF_TOKEN/,
  );
  answers(404, 'RepoNotFound');
  assert.match(await refusal(), /no such model/);
  answers(404, 'RevisionNotFound');
  assert.match(await refusal(`${NAME}@v9`), /has no revision v9/);
  answers(429);
  assert.match(await refusal(), /too many requests/);
  answers(503);
  assert.match(await refusal(), /the Hub answered 503; run the same command again later/);
  process.env.HF_TOKEN = TOKEN;
  answers(401);
  assert.match(await refusal(), /does not accept your token/);
  answers(403, 'GatedRepo');
  assert.match(await refusal(), /your token does not give access; accept its terms at/);
  answers(404);
  assert.match(await refusal(), /no such model on .* that your token can read; check the name/);
});

test('a gated model with a public description is refused with the same message', async () => {
  hub.intercept = (request, response) => {
    if (!request.url!.includes('/resolve/')) return false;
    response.writeHead(401, { 'x-error-code': 'GatedRepo' }).end();
    return true;
  };
  assert.match(await refusal(), /only available to users who accept its terms/);
});

test('a server that does not answer like the Hub is refused', async () => {
  hub.intercept = (_, response) => {
    response.writeHead(200, { 'content-type': 'text/html' }).end('<html>welcome');
    return true;
  };
  assert.match(await refusal(), /does not answer like the Hub .*check HF_ENDPOINT/);
  hub.intercept = (_, response) => {
    response.writeHead(200, { 'content-type': 'application/json' }).end('{"sha": "../../x", "files": []}');
    return true;
  };
  assert.match(await refusal(), /does not answer like the Hub/);
});

test('a model without the needed files is refused before anything is downloaded', async () => {
  hub.files = [config, small('spiece.model', '{}'), large('tf_model.h5', 100)];
  assert.match(
    await refusal(),
    /lacks vocab\.txt \(word pieces of a BERT\) and weights \(model\.safetensors, pytorch_model\.bin or a \.ckpt\)/,
  );
  assert.ok(!hub.requests.some((path) => path.includes('resolve')));
});

test('offline: the cache is used, and a missing file is reported', async () => {
  process.env.HF_HUB_OFFLINE = '1';
  assert.match(await refusal(), /^hf:owner\/tiny: is not complete in the cache .*HF_HUB_OFFLINE/);
  delete process.env.HF_HUB_OFFLINE;
  await fetchModel(NAME, 'encoder');
  hub.forget();
  process.env.HF_HUB_OFFLINE = 'yes';
  assert.equal(await fetchModel(NAME, 'encoder'), PINNED);
  assert.match(await refusal(`${NAME}@v2`), /HF_HUB_OFFLINE/);
  rmSync(join(snapshot(), 'vocab.txt'));
  assert.match(await refusal(), /HF_HUB_OFFLINE/);
  assert.deepEqual(hub.requests, []);
});

test('without a network the cache is used; without either, one sentence', async () => {
  await fetchModel(NAME, 'encoder');
  process.env.HF_ENDPOINT = 'http://127.0.0.1:9'; // the port of "discard", which nothing listens on
  assert.equal(await fetchModel(NAME, 'encoder'), PINNED);
  rmSync(cache, { recursive: true });
  assert.match(
    await refusal(),
    /cannot reach http:\/\/127\.0\.0\.1:9 \(\w[\w ]*\); check the network or HF_ENDPOINT/,
  );
});

test('files that another library has cached in the same layout are found', async () => {
  const at = join(top, 'elsewhere', 'models--owner--tiny');
  process.env.HF_HUB_CACHE = dirname(at);
  for (const file of NEEDED) {
    const path = join(at, 'snapshots', COMMIT, file.path);
    mkdirSync(dirname(path), { recursive: true });
    mkdirSync(join(at, 'blobs'), { recursive: true });
    writeFileSync(join(at, 'blobs', checksumOf(file)), file.content);
    symlinkSync(join('..', '..', 'blobs', checksumOf(file)), path);
  }
  mkdirSync(join(at, 'refs'));
  writeFileSync(join(at, 'refs', 'main'), COMMIT);
  process.env.HF_HUB_OFFLINE = '1';
  assert.equal(await fetchModel(NAME, 'encoder'), PINNED);
  assert.equal(modelFolder(NAME), join(at, 'snapshots', COMMIT));
});

test("python's huggingface_hub finds what realm has cached", (t) => {
  const python = spawnSync('python3', ['-c', 'import huggingface_hub']);
  if (python.status !== 0) {
    t.skip('huggingface_hub is not installed');
    return;
  }
  return fetchModel(NAME, 'encoder').then(() => {
    const code =
      'import sys, huggingface_hub as h; print(h.try_to_load_from_cache("owner/tiny", sys.argv[1])); ' +
      'print([r.repo_id for r in h.scan_cache_dir().repos])';
    const { stdout } = spawnSync('python3', ['-c', code, 'vocab.txt'], { encoding: 'utf8' });
    assert.equal(stdout, `${join(snapshot(), 'vocab.txt')}\n['owner/tiny']\n`);
  });
});

test('a damaged file in the cache is reported, and never used', async () => {
  await fetchModel(NAME, 'encoder');
  chmodSync(blob(weights), 0o644);
  writeFileSync(blob(weights), Buffer.alloc(weights.content.length));
  assert.match(await refusal(PINNED), new RegExp(`^${blob(weights)}: is damaged`));
  rmSync(blob(weights));
  assert.ok(lstatSync(join(snapshot(), 'model.safetensors')).isSymbolicLink());
  await fetchModel(PINNED, 'encoder');
  assertCached(NEEDED);
});

test('one process at a time downloads a model', async () => {
  mkdirSync(cache, { recursive: true });
  const started = readFileSync(`/proc/${process.ppid}/stat`, 'latin1').replace(/.*\) /s, '').split(' ')[19];
  const { hostname } = await import('node:os');
  writeFileSync(
    join(cache, 'realm.lock'),
    JSON.stringify({ pid: process.ppid, host: hostname(), started, work: 'x' }),
  );
  assert.match(
    await refusal(),
    new RegExp(`process ${process.ppid} on .* is downloading this model; wait for it`),
  );
});

test('a cache that cannot be written is reported with a remedy', async () => {
  writeFileSync(join(top, 'file'), '');
  process.env.HF_HUB_CACHE = join(top, 'file', 'cache');
  assert.match(await refusal(), /cannot be written \(ENOTDIR\); name a folder for models in HF_HUB_CACHE/);
});

test('later commands that find no cached model name the command that downloads it', () => {
  assert.equal(cachedFolder(PINNED), undefined);
  assert.throws(
    () => modelFolder(PINNED),
    /is not in the cache .*run "realm prepare" with this model to download it/,
  );
  assert.equal(modelFolder('a/folder'), 'a/folder');
});

test('of a sentence encoder the head is fetched too, and of word pieces both files', () => {
  const unneeded = ['README.md', 'onnx/model.onnx', 'openvino/model.bin', 'data_config.json'];
  const head = ['1_Pooling/config.json', '2_Dense/config.json', '2_Dense/model.safetensors', 'modules.json'];
  const bert = ['config.json', 'tokenizer.json', 'tokenizer_config.json', 'model.safetensors'];
  const settings = ['config_sentence_transformers.json', 'sentence_bert_config.json'];
  assert.deepEqual(choose([...head, ...bert, ...settings, ...unneeded], 'encoder'), {
    chosen: [...bert, ...head, ...settings],
    lacking: [],
  });
  const both = ['config.json', 'vocab.txt', 'tokenizer.json', 'model.safetensors'];
  assert.deepEqual(choose(both, 'encoder'), { chosen: both, lacking: [] });
  const old = ['config.json', 'vocab.txt', 'pytorch_model.bin', 'sentence_bert_config.json'];
  const inner = old.map((name) => `0_Transformer/${name}`);
  assert.deepEqual(choose([...inner, '1_Pooling/config.json', 'modules.json', ...unneeded], 'encoder'), {
    chosen: [...inner, '1_Pooling/config.json', 'modules.json'],
    lacking: [],
  });
  assert.deepEqual(choose(['config.json', 'model.safetensors'], 'encoder').lacking, [
    'vocab.txt (word pieces of a BERT)',
  ]);
});

test('the needed files: safetensors first, parts only together, the network of a NER model', () => {
  const with_ = (...names: string[]) =>
    choose(['config.json', 'vocab.txt', ...names], 'encoder').chosen.slice(2);
  assert.deepEqual(with_('pytorch_model.bin', 'model.safetensors'), ['model.safetensors']);
  const parts = ['model-00001-of-00002.safetensors', 'model-00002-of-00002.safetensors'];
  assert.deepEqual(with_('model.safetensors.index.json', ...parts), [
    'model.safetensors.index.json',
    ...parts,
  ]);
  assert.deepEqual(with_('model.safetensors.index.json', parts[0], 'pytorch_model.bin'), [
    'pytorch_model.bin',
  ]);
  const checkpoint = ['bert_model.ckpt.data-00000-of-00001'];
  assert.deepEqual(with_('bert_model.ckpt.index', ...checkpoint), ['bert_model.ckpt.index', ...checkpoint]);
  assert.deepEqual(with_('tokenizer_config.json', 'onnx/model.onnx', 'pytorch_model.bin'), [
    'tokenizer_config.json',
    'pytorch_model.bin',
  ]);
  const ner = choose(['config.json', 'vocab.txt', 'onnx/model.onnx', 'onnx/model.onnx_data', 'x.bin'], 'ner');
  assert.deepEqual(ner, {
    chosen: ['config.json', 'vocab.txt', 'onnx/model.onnx', 'onnx/model.onnx_data'],
    lacking: [],
  });
  assert.deepEqual(choose(['bert_config.json', 'vocab.txt'], 'ner').lacking, ['model.onnx']);
});
