import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { existsSync, mkdirSync, readdirSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { join } from 'node:path';
import { after, beforeEach, test } from 'node:test';
import { CATALOGUE, type DataFile } from '../../src/datasets/catalogue.ts';
import { fetchFile, placeFile } from '../../src/datasets/download.ts';
import { readQuestions } from '../../src/datasets/questions.ts';
import { getData, resplitQuestions } from '../../src/pipeline/data.ts';
import { UserError } from '../../src/system/errors.ts';
import { temporaryFolder } from '../support/tiny.ts';

const content = Buffer.from(Array.from({ length: 300_000 }, (_, i) => (i * i) % 251));
const sha256 = createHash('sha256').update(content).digest('hex');

/** What the server does, and the Range of each request that it got. */
let answer: (request: IncomingMessage, response: ServerResponse, requests: number) => void;
let ranges: (string | undefined)[] = [];
const server = createServer((request, response) => {
  ranges.push(request.headers.range);
  answer(request, response, ranges.length);
});
await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
after(() => {
  server.closeAllConnections();
  server.close();
});
const root = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
const file: DataFile = { name: 'file.bin', url: `${root}/file.bin`, bytes: content.length, sha256 };

const folder = temporaryFolder('download');
let made = 0;
let dir: string;
beforeEach(() => {
  ranges = [];
  dir = join(folder, String(made++));
});

/** Answers like a server that knows Range and If-Range; the connection breaks after `cut` bytes of the body. */
function serve(
  request: IncomingMessage,
  response: ServerResponse,
  { cut = Infinity, etag = '"v1"' } = {},
): void {
  const from = Number(/^bytes=(\d+)-$/.exec(request.headers.range ?? '')?.[1] ?? 0);
  const same = request.headers['if-range'] === etag;
  const start = same ? from : 0;
  if (same && start >= content.length) {
    response.writeHead(416, { 'content-range': `bytes */${content.length}` }).end();
    return;
  }
  response.writeHead(start > 0 ? 206 : 200, {
    etag,
    'content-length': content.length - start,
    ...(start > 0 ? { 'content-range': `bytes ${start}-${content.length - 1}/${content.length}` } : {}),
  });
  const body = content.subarray(start);
  if (cut >= body.length) response.end(body);
  else sendPart(response, body.subarray(0, cut), start + cut);
}

/** Breaks the connection when the part on disk has `until` bytes: what the client has not read yet would be lost. */
function sendPart(response: ServerResponse, bytes: Uint8Array, until: number): void {
  response.flushHeaders();
  if (bytes.length > 0) response.write(bytes);
  const part = join(dir, 'file.bin.part');
  const watch = setInterval(() => {
    if ((statSync(part, { throwIfNoEntry: false })?.size ?? 0) < until) return;
    clearInterval(watch);
    response.destroy();
  }, 5);
}

async function refuses(promise: Promise<unknown>, message: RegExp): Promise<void> {
  await assert.rejects(promise, (error) => error instanceof UserError && message.test(error.message));
}

function assertWhole(): void {
  assert.ok(readFileSync(join(dir, 'file.bin')).equals(content));
  assert.deepEqual(readdirSync(dir), ['file.bin']);
}

test('a file is downloaded through a redirect, and only once', async () => {
  answer = (request, response) => {
    if (request.url === '/file.bin') response.writeHead(302, { location: '/elsewhere' }).end();
    else serve(request, response);
  };
  assert.equal((await fetchFile(file, dir)).how, 'fetched');
  assertWhole();
  assert.equal((await fetchFile(file, dir)).how, 'there already');
  assert.equal(ranges.length, 2);
});

test('a download resumes after its connection breaks', async () => {
  answer = (request, response, n) => serve(request, response, { cut: n < 3 ? 100_000 : undefined });
  assert.equal((await fetchFile(file, dir, 1)).sha256, sha256);
  assertWhole();
  assert.deepEqual(ranges, [undefined, 'bytes=100000-', 'bytes=200000-']);
});

test('the next run resumes the download of a run that gave up', async () => {
  answer = (request, response, n) => serve(request, response, { cut: n === 1 ? 120_000 : 0 });
  await refuses(
    fetchFile(file, dir, 1),
    /the connection broke 4 times in a row; 120000 bytes are kept in .*file\.bin\.part/,
  );
  ranges = [];
  answer = (request, response) => serve(request, response);
  await fetchFile(file, dir, 1);
  assertWhole();
  assert.deepEqual(ranges, ['bytes=120000-']);
});

test('a part that is complete already is only verified', async () => {
  mkdirSync(dir);
  writeFileSync(join(dir, 'file.bin.part'), content);
  writeFileSync(join(dir, 'file.bin.part.of'), `${file.url}\n"v1"\n`);
  answer = (request, response) => serve(request, response);
  await fetchFile(file, dir, 1);
  assertWhole();
});

test('a part of another version, or from another address, is downloaded from scratch', async () => {
  answer = (request, response, n) =>
    serve(request, response, n === 1 ? { cut: 1000 } : { etag: '"v2"', cut: undefined });
  await fetchFile(file, dir, 1);
  assertWhole();
  assert.deepEqual(ranges, [undefined, 'bytes=1000-']);

  dir = join(folder, String(made++));
  mkdirSync(dir);
  writeFileSync(join(dir, 'file.bin.part'), 'of somebody else');
  writeFileSync(join(dir, 'file.bin.part.of'), 'https://elsewhere/file.bin\n"v1"\n');
  ranges = [];
  answer = (request, response) => serve(request, response);
  await fetchFile(file, dir, 1);
  assertWhole();
  assert.deepEqual(ranges, [undefined]);
});

test('a server without Range sends the whole file again', async () => {
  answer = (_, response, n) => {
    response.writeHead(200, {
      'last-modified': 'Tue, 01 Jan 2019 00:00:00 GMT',
      'content-length': content.length,
    });
    if (n > 1) response.end(content);
    else sendPart(response, content.subarray(0, 5000), 5000);
  };
  await fetchFile(file, dir, 1);
  assertWhole();
});

test('a download that differs from the published file is removed', async () => {
  answer = (request, response) => serve(request, response);
  const other = { ...file, sha256: '0'.repeat(64) };
  await refuses(
    fetchFile(other, dir, 1),
    /the downloaded file has the SHA-256 [\da-f]{64}, not 0+ as published; it was removed/,
  );
  assert.deepEqual(readdirSync(dir), []);
  await refuses(fetchFile({ ...file, bytes: 7 }, dir, 1), /is 300000 bytes long, not 7 as published/);
  writeFileSync(join(dir, 'file.bin'), 'mine');
  await refuses(
    fetchFile(file, dir, 1),
    /already exists and is 4 bytes long, not 300000 as published; move it away/,
  );
});

test('a file or a server that does not exist is a user error', async () => {
  answer = (_, response) => response.writeHead(404).end('gone');
  await refuses(
    fetchFile(file, dir, 1),
    /file\.bin: the server answered 404; name another server with --mirror/,
  );
  answer = (request, response, n) => {
    if (n < 3) response.writeHead(503).end();
    else serve(request, response);
  };
  ranges = [];
  await fetchFile(file, dir, 1);
  assertWhole();
  const closed = createServer();
  await new Promise<void>((resolve) => closed.listen(0, '127.0.0.1', resolve));
  const { port } = closed.address() as AddressInfo;
  await new Promise((resolve) => closed.close(resolve));
  await refuses(
    fetchFile({ ...file, url: `http://127.0.0.1:${port}/file.bin` }, join(folder, 'none'), 1),
    /cannot be reached \(ECONNREFUSED\); check the network/,
  );
  assert.equal(existsSync(join(folder, 'none', 'file.bin')), false);
});

test('a local file is copied if it is the published one', async () => {
  const mine = join(folder, 'mine.bin');
  writeFileSync(mine, content);
  assert.deepEqual(await placeFile(file, mine, dir), { path: join(dir, 'file.bin'), how: 'copied', sha256 });
  assertWhole();
  dir = join(folder, String(made++));
  writeFileSync(mine, 'other');
  await refuses(
    placeFile(file, mine, dir),
    /mine\.bin: is 5 bytes long, not 300000 as published; check that/,
  );
  assert.deepEqual(readdirSync(dir), []);
  await refuses(placeFile(file, join(folder, 'nowhere'), dir), /nowhere: no such file/);
});

test('data get: a mirror, local files, and names that do not exist', async () => {
  const asked: string[] = [];
  answer = (request, response) => {
    asked.push(request.url!);
    response.end('first\tsecond');
  };
  const [train] = await getData('triviaqa', { to: dir, mirror: `${root}/mirror/` });
  assert.deepEqual(
    asked,
    CATALOGUE.triviaqa.files.map(({ name }) => `/mirror/${name}`),
  );
  assert.equal(train.path, join(dir, 'triviaqa', 'trivia-train.qa.csv.gz'));
  await refuses(getData('triviakqa', { to: dir }), /triviakqa: no such data set; did you mean "triviaqa"/);
  const local = join(folder, 'local');
  mkdirSync(local);
  await refuses(
    getData('squad', { to: dir, from: local }),
    /local: has none of train-v1\.1\.json, dev-v1\.1/,
  );
  writeFileSync(join(local, 'dev-v1.1.json'), '{}');
  await refuses(getData('squad', { to: dir, from: local }), /dev-v1\.1\.json: is 2 bytes long, not 4854279/);
  await refuses(
    getData('squad', { to: dir, from: join(folder, 'no') }),
    /no: no such file; pass the file or/,
  );
  writeFileSync(join(local, 'nq-test.qa.csv'), "q\t['a']\n");
  const placed = await getData('dpr-nq', { to: dir, from: local });
  assert.deepEqual(
    placed.map(({ path, how }) => [path, how]),
    [[join(dir, 'dpr-nq', 'nq-test.qa.csv'), 'copied']],
  );
});

test('data get --hub: the Parquet files of the Hub', async () => {
  const asked: string[] = [];
  answer = (request, response) => {
    asked.push(request.url!);
    response.end('PAR1');
  };
  await getData('squad', { to: dir, mirror: root, hub: true });
  assert.deepEqual(asked, ['/train-00000-of-00001.parquet', '/validation-00000-of-00001.parquet']);
  assert.deepEqual(
    CATALOGUE.squad.hub!.map(({ url }) => url.replace(/resolve\/[0-9a-f]{40}/, 'resolve/COMMIT')),
    ['train', 'validation'].map(
      (split) =>
        `https://huggingface.co/datasets/rajpurkar/squad/resolve/COMMIT/plain_text/${split}-00000-of-00001.parquet`,
    ),
  );
  const local = join(folder, 'hub');
  mkdirSync(local);
  writeFileSync(join(local, 'validation-00000-of-00001.parquet'), 'PAR1');
  const placed = await getData('nq-open', { to: dir, from: local, hub: true });
  assert.deepEqual(
    placed.map(({ path, how }) => [path, how]),
    [[join(dir, 'nq-open', 'validation-00000-of-00001.parquet'), 'copied']],
  );
  await refuses(
    getData('triviaqa', { to: dir, hub: true }),
    /triviaqa: realm knows no files of the Hugging Face Hub for it, only for nq-open, webquestions, squad/,
  );
});

test("data resplit: ORQA's training and dev sets keep the kinds of answers", async () => {
  mkdirSync(dir);
  const path = join(dir, 'CuratedTrec-train.txt');
  const questions = ['who is the prime minister of ethiopia?', 'what is the name of justin bieber brother?'];
  writeFileSync(
    path,
    questions.map((question) => `${JSON.stringify({ question, answer: ['A|B'] })}\n`).join(''),
  );
  const result = await resplitQuestions(path, dir);
  assert.deepEqual(result, {
    train: join(dir, 'CuratedTrec-train.resplit.train.jsonl'),
    dev: join(dir, 'CuratedTrec-train.resplit.dev.jsonl'),
    trainQuestions: 1,
    devQuestions: 1,
  });
  assert.deepEqual(await readQuestions(result.dev), [
    { question: questions[0], answers: ['A|B'], answerKind: 'regex' },
  ]);
});
