import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { connect } from 'node:net';
import { test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import * as z from 'zod';
import { UserError } from '../../src/errors.ts';
import { Busy } from '../../src/serve/batches.ts';
import { NotReady } from '../../src/serve/live-asking.ts';
import { answerTo, fakeServer, post, SCRIPT, STYLE } from './fake.ts';

const ROUTES = {
  '/': ['get'],
  '/report/body': ['get'],
  '/api/status': ['get'],
  '/api/ask': ['post'],
  '/openapi.json': ['get'],
};

interface Operation {
  requestBody?: { content: { 'application/json': { schema: object } } };
  responses: Record<string, { content: Record<string, { schema: object }> }>;
}

test('the OpenAPI document tells every route, and what each gives is as it says', async () => {
  const { url, server } = await fakeServer();
  const document = (await (await fetch(`${url}/openapi.json`)).json()) as {
    openapi: string;
    paths: Record<string, Record<string, Operation>>;
  };
  assert.match(document.openapi, /^3\.1\./);
  const told = Object.entries(document.paths).map(([path, methods]) => [path, Object.keys(methods)]);
  assert.deepEqual(Object.fromEntries(told), ROUTES);
  // Fastify's own list has these and the HEAD of each GET.
  const routes = server.printRoutes({ commonPrefix: false }).match(/\((GET|POST)/g);
  assert.equal(routes?.length, Object.keys(ROUTES).length);

  for (const [path, methods] of Object.entries(document.paths)) {
    for (const [method, { responses, requestBody }] of Object.entries(methods)) {
      const response =
        method === 'post' ? await post(url, { question: 'Where?' }) : await fetch(`${url}${path}`);
      assert.equal(response.status, 200, path);
      const type = response.headers.get('content-type')!.split(';')[0];
      const { schema } = responses[200].content[type];
      z.fromJSONSchema(schema as z.core.JSONSchema.JSONSchema).parse(
        type === 'text/html' ? await response.text() : await response.json(),
      );
      if (requestBody === undefined) continue;
      const refused = await post(url, {});
      const failure = responses['4XX'].content['application/json'].schema;
      z.fromJSONSchema(failure as z.core.JSONSchema.JSONSchema).parse(await refused.json());
    }
  }
});

test('a question is answered whole, and its documents are handed on', async () => {
  const asked: unknown[] = [];
  const { url } = await fakeServer({
    ask: async (question) => {
      asked.push(question);
      return answerTo(question.question);
    },
  });
  const question = 'Où est né "Talvora"?  \u2028 \ud800 <b>';
  const response = await post(url, { question, openBook: [{ title: 'a', text: 'b' }] });
  assert.equal(response.status, 200);
  assert.deepEqual(await response.json(), answerTo(question));
  assert.deepEqual(asked, [{ question, openBook: [{ title: 'a', text: 'b' }] }]);
});

test('every response keeps the page to its own script and server', async () => {
  const { url } = await fakeServer();
  const hash = (text: string) => `'sha256-${createHash('sha256').update(text).digest('base64')}'`;
  for (const path of ['/', '/report/body', '/api/status', '/nowhere', '/%ff']) {
    const { headers } = await fetch(url + path);
    const policy = headers.get('content-security-policy')!;
    assert.match(policy, /default-src 'none'/, path);
    assert.match(policy, /frame-ancestors 'none'/);
    assert.equal(/script-src ([^;]*)/.exec(policy)?.[1], hash(SCRIPT));
    assert.equal(/style-src ([^;]*)/.exec(policy)?.[1], hash(STYLE));
    assert.equal(headers.get('x-content-type-options'), 'nosniff');
    assert.equal(headers.get('access-control-allow-origin'), null);
  }
});

test('what is wrong is told by the status, the sentence and the headers', async () => {
  let error: Error = new NotReady('no model yet; run "realm finetune-qa"');
  const { url, failures } = await fakeServer({ ask: () => Promise.reject(error) });
  const ask = async () => {
    const response = await post(url, { question: 'Where?' });
    return [
      response.status,
      ((await response.json()) as { error: string }).error,
      response.headers.get('retry-after'),
    ];
  };
  assert.deepEqual(await ask(), [409, 'no model yet; run "realm finetune-qa"', null]);
  error = new Busy('256 questions wait already');
  assert.deepEqual(await ask(), [503, '256 questions wait already; try again in a moment', '1']);
  error = new UserError('the documents are too long');
  assert.deepEqual(await ask(), [400, 'the documents are too long', null]);
  assert.deepEqual(failures, []);
  error = new TypeError('secret');
  assert.deepEqual(await ask(), [500, 'the server failed; its own output tells how', null]);
  assert.deepEqual(failures, [error]);

  const method = await fetch(`${url}/api/ask`);
  assert.deepEqual([method.status, method.headers.get('allow')], [405, 'POST']);
  assert.equal((await fetch(`${url}/api/ask/`)).status, 404);
  assert.equal((await fetch(url, { method: 'HEAD' })).status, 200);
});

test('limits: bytes of a body, characters of a question, time for an answer', async () => {
  let given: AbortSignal | undefined;
  const { url, failures } = await fakeServer(
    {
      ask: async ({ question }, signal) => {
        given = signal;
        if (question === 'slow') await sleep(10_000, undefined, { signal });
        return answerTo(question);
      },
    },
    { body: 1000, question: 20, answer: 100 },
  );
  assert.equal((await post(url, { question: 'x'.repeat(20) })).status, 200);
  assert.equal((await post(url, { question: 'x'.repeat(21) })).status, 400);
  assert.equal((await post(url, { question: 'x'.repeat(1000) })).status, 413);
  assert.equal((await post(url, { question: ' \n' })).status, 400);
  const slow = await post(url, { question: 'slow' });
  assert.deepEqual([slow.status, slow.headers.get('retry-after')], [503, '1']);
  assert.equal(given?.aborted, true);
  assert.deepEqual(failures, []);
});

test('a question whose asker has gone is given up', async () => {
  const gone = new AbortController();
  let gaveUp: () => void;
  const givenUp = new Promise<void>((resolve) => {
    gaveUp = resolve;
  });
  const { url, failures } = await fakeServer({
    ask: async ({ question }, signal) => {
      gone.abort();
      await new Promise<void>((resolve) => signal.addEventListener('abort', () => resolve()));
      gaveUp();
      return answerTo(question);
    },
  });
  await assert.rejects(post(url, { question: 'Where?' }, gone.signal));
  await givenUp;
  assert.deepEqual(failures, []);
});

/** What comes back for bytes sent as they are, until the server closes; how long that took. */
function raw(url: string, pieces: string[], pause = 0): Promise<{ answer: string; milliseconds: number }> {
  return new Promise((resolve, reject) => {
    const began = performance.now();
    const socket = connect(Number(new URL(url).port), '127.0.0.1');
    let answer = '';
    socket.on('data', (piece) => (answer += piece));
    socket.on('error', reject);
    socket.on('close', () => resolve({ answer, milliseconds: performance.now() - began }));
    void (async () => {
      for (const piece of pieces) {
        if (socket.writable) socket.write(piece);
        await sleep(pause);
      }
    })();
  });
}

test('who sends a request too slowly is cut off, headers or body, and so is who sends nothing', async () => {
  const { url } = await fakeServer({}, { receive: 300, idle: 700 });
  const head = `POST /api/ask HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 30\r\n`;
  const [headers, body, nothing] = await Promise.all([
    raw(url, [...head], 20),
    raw(url, [`${head}\r\n`, ...'{"question": "where is it?"}'], 50),
    raw(url, []),
  ]);
  assert.match(headers.answer, /^HTTP\/1\.1 408 /);
  assert.match(body.answer, /^HTTP\/1\.1 408 /);
  for (const { milliseconds } of [headers, body, nothing])
    assert.ok(milliseconds < 3000, `${milliseconds} ms`);
});

test('a report is drawn anew when its records have changed, and once in a while at most', async () => {
  let drawn = 0;
  let stamp = 'a';
  const { url } = await fakeServer({ body: () => `<p>${++drawn}</p>`, stamp: () => stamp }, { report: 1000 });
  const read = async () => (await fetch(`${url}/report/body`)).text();
  assert.deepEqual(await Promise.all([read(), read()]), ['<p>1</p>', '<p>1</p>']);
  stamp = 'b';
  assert.equal(await read(), '<p>1</p>');
  await sleep(1100);
  assert.equal(await read(), '<p>2</p>');
  await sleep(1100);
  assert.equal(await read(), '<p>2</p>');
});

test('a stop lets what is being answered be answered and ends soon after, its connection with it', async () => {
  let begun: () => void;
  const asked = new Promise<void>((resolve) => {
    begun = resolve;
  });
  const { url, server } = await fakeServer({
    ask: async ({ question }) => {
      if (question === 'Late?') return answerTo(question);
      begun();
      await sleep(200);
      return answerTo(question);
    },
  });
  // Half sent when the stop comes, and the rest while the first is answered.
  const body = JSON.stringify({ question: 'Late?' });
  const late = raw(
    url,
    [
      'POST /api/ask HTTP/1.1\r\nHost: localhost\r\n',
      `Content-Type: application/json\r\nContent-Length: ${body.length}\r\n\r\n${body}`,
    ],
    150,
  );
  await sleep(50);
  const answer = post(url, { question: 'Where?' });
  await asked;
  const began = performance.now();
  const closed = server.close();
  assert.match((await late).answer, /^HTTP\/1\.1 200 .*"question":"Late\?"/s);
  assert.deepEqual(await (await answer).json(), answerTo('Where?'));
  await closed;
  assert.ok(performance.now() - began < 2000);
  await assert.rejects(fetch(url));
});
