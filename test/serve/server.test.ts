import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { connect, type Socket } from 'node:net';
import { mock, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import * as z from 'zod';
import { Busy } from '../../src/serve/batches.ts';
import { NotReady } from '../../src/serve/live-session.ts';
import { UserError } from '../../src/system/errors.ts';
import { answerTo, fakeServer, post, SCRIPT, STYLE } from '../support/fake-answers.ts';

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

test('the OpenAPI document lists every route, and each response matches its schema', async () => {
  const { url, server } = await fakeServer();
  const document = (await (await fetch(`${url}/openapi.json`)).json()) as {
    openapi: string;
    paths: Record<string, Record<string, Operation>>;
  };
  assert.match(document.openapi, /^3\.1\./);
  const documented = Object.entries(document.paths).map(([path, methods]) => [path, Object.keys(methods)]);
  assert.deepEqual(Object.fromEntries(documented), ROUTES);
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

test('a question is answered, and its documents are passed on', async () => {
  const asked: unknown[] = [];
  const { url } = await fakeServer({
    ask: async (question) => {
      asked.push(question);
      return answerTo(question.question);
    },
  });
  const question = 'Où est né "Talvora"?  \u2028 \ud800 <b>';
  const response = await post(url, { question, documents: [{ title: 'a', text: 'b' }] });
  assert.equal(response.status, 200);
  assert.deepEqual(await response.json(), answerTo(question));
  assert.deepEqual(asked, [{ question, documents: [{ title: 'a', text: 'b' }] }]);
});

test('every response limits the page to its own script and server', async () => {
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

test('status, message and headers say what is wrong', async () => {
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
  error = new Busy('256 questions are already waiting');
  assert.deepEqual(await ask(), [503, '256 questions are already waiting; try again in a moment', '1']);
  error = new UserError('the documents are too long');
  assert.deepEqual(await ask(), [400, 'the documents are too long', null]);
  assert.deepEqual(failures, []);
  error = new TypeError('secret');
  assert.deepEqual(await ask(), [500, 'the server failed; see its output for the reason', null]);
  assert.deepEqual(failures, [error]);

  const method = await fetch(`${url}/api/ask`);
  assert.deepEqual([method.status, method.headers.get('allow')], [405, 'POST']);
  assert.equal((await fetch(`${url}/api/ask/`)).status, 404);
  assert.equal((await fetch(url, { method: 'HEAD' })).status, 200);
});

/** A promise and the function that resolves it. */
function signal() {
  let give = () => {};
  const given = new Promise<void>((resolve) => {
    give = resolve;
  });
  return { given, give };
}

/** An answer that never comes: it fails when the client gives up. */
function never(signal: AbortSignal): Promise<never> {
  return new Promise((_, reject) => signal.addEventListener('abort', () => reject(signal.reason)));
}

test('limits: bytes of a body, characters of a question, time for an answer', async () => {
  const { url } = await fakeServer({}, { body: 1000, question: 20 });
  assert.equal((await post(url, { question: 'x'.repeat(20) })).status, 200);
  assert.equal((await post(url, { question: 'x'.repeat(21) })).status, 400);
  assert.equal((await post(url, { question: 'x'.repeat(1000) })).status, 413);
  for (const question of [' \n', '???', '\u2026']) {
    const refused = await post(url, { question });
    assert.deepEqual(
      [refused.status, await refused.json()],
      [400, { error: 'the question has no letter or digit; write it as text' }],
    );
  }
  for (const question of ['是', '7?']) assert.equal((await post(url, { question })).status, 200);
  const plain = await fetch(`${url}/api/ask`, { method: 'POST', body: '{"question": "Where?"}' });
  assert.deepEqual(
    [plain.status, await plain.json()],
    [415, { error: 'the body must be JSON, sent with the header "content-type: application/json"' }],
  );

  let given: AbortSignal | undefined;
  const late = await fakeServer(
    {
      ask: (_, signal) => {
        given = signal;
        return never(signal);
      },
    },
    { answer: 100 },
  );
  const slow = await post(late.url, { question: 'slow' });
  assert.deepEqual([slow.status, slow.headers.get('retry-after')], [503, '1']);
  assert.equal(given?.aborted, true);
  assert.deepEqual(late.failures, []);
});

test('a question is given up when its client disconnects', async () => {
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

/** The response to these bytes, until the server closes the connection. */
function raw(url: string, pieces: AsyncIterable<string> | Iterable<string>): Promise<string> {
  return new Promise((resolve, reject) => {
    const socket = connect(Number(new URL(url).port), '127.0.0.1');
    let answer = '';
    socket.on('data', (piece) => (answer += piece));
    socket.on('error', reject);
    socket.on('close', () => resolve(answer));
    void (async () => {
      for await (const piece of pieces) if (socket.writable) socket.write(piece);
    })();
  });
}

/** The pieces, each so many milliseconds after the previous one. */
async function* slowly(pieces: Iterable<string>, pause: number): AsyncGenerator<string> {
  for (const piece of pieces) {
    yield piece;
    await sleep(pause);
  }
}

test('a client that sends headers or body too slowly, or sends nothing, is disconnected', async () => {
  const { url, server } = await fakeServer({}, { receive: 300, idle: 700 });
  const { requestTimeout, headersTimeout, timeout } = server.server;
  assert.deepEqual([requestTimeout, headersTimeout, timeout], [300, 300, 700]);
  const head = `POST /api/ask HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 30\r\n`;
  const [headers, body, nothing] = await Promise.all([
    raw(url, slowly(head, 20)),
    raw(url, slowly([`${head}\r\n`, ...'{"question": "where is it?"}'], 50)),
    raw(url, []),
  ]);
  assert.match(headers, /^HTTP\/1\.1 408 /);
  assert.match(body, /^HTTP\/1\.1 408 /);
  assert.match(nothing, /^($|HTTP\/1\.1 408 )/);
});

test('a request that came while the server was busy is answered, however long that took', async () => {
  const { url, server } = await fakeServer({}, { receive: 300 });
  const body = JSON.stringify({ question: 'Where?' });
  const head = `POST /api/ask HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: ${body.length}\r\nConnection: close\r\n\r\n`;
  for (const sent of [10, head.length + 10]) {
    const arrived = new Promise<Socket>((resolve) => server.server.once('connection', resolve));
    async function* pieces() {
      yield (head + body).slice(0, sent);
      const connection = await arrived;
      while (connection.bytesRead < sent) await sleep(1);
      await new Promise((resolve) => setImmediate(resolve));
      yield (head + body).slice(sent);
      // The rest has been sent. After an immediate, Node runs timers, which check the clock, and then reads.
      Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 1000);
    }
    assert.match(await raw(url, pieces()), /^HTTP\/1\.1 200 .*"question":"Where\?"/s, `${sent} bytes before`);
  }
});

test('a report is drawn again when its records have changed, but not too often', async () => {
  let now = 0;
  const clock = mock.method(performance, 'now', () => now);
  let drawn = 0;
  let fingerprint = 'a';
  const { url } = await fakeServer(
    { body: () => `<p>${++drawn}</p>`, fingerprint: () => fingerprint },
    { report: 1000 },
  );
  const read = async () => (await fetch(`${url}/report/body`)).text();
  assert.deepEqual(await Promise.all([read(), read()]), ['<p>1</p>', '<p>1</p>']);
  fingerprint = 'b';
  now = 999;
  assert.equal(await read(), '<p>1</p>');
  now = 1000;
  assert.equal(await read(), '<p>2</p>');
  now = 3000;
  assert.equal(await read(), '<p>2</p>');
  clock.mock.restore();
});

test('a stop finishes the answers in progress, then ends with all connections', async () => {
  const asked = signal();
  const release = signal();
  const half = signal();
  const { url, server } = await fakeServer(
    {
      ask: async ({ question }) => {
        if (question === 'Late?') return answerTo(question);
        asked.give();
        await release.given;
        return answerTo(question);
      },
    },
    { receive: 300_000, idle: 0 },
  );
  server.server.keepAliveTimeout = 0; // no connection is closed for being idle: only the stop ends kept-alive ones
  const arrived = new Promise<Socket>((resolve) => server.server.once('connection', resolve));
  // Half is sent before the stop, and the rest while the first question is answered.
  const start = 'POST /api/ask HTTP/1.1\r\nHost: localhost\r\n';
  const rest = (question: string) => {
    const body = JSON.stringify({ question });
    return `Content-Type: application/json\r\nContent-Length: ${body.length}\r\n\r\n${body}`;
  };
  async function* late() {
    yield start;
    await half.given;
    yield rest('Late?');
  }
  const lateAnswer = raw(url, late());
  const connection = await arrived;
  while (connection.bytesRead < start.length) await sleep(1);
  const answer = raw(url, [start, rest('Where?')]);
  await asked.given;
  const closed = server.close();
  half.give();
  assert.match(await lateAnswer, /^HTTP\/1\.1 200 .*"question":"Late\?"/s);
  release.give();
  assert.match(await answer, /^HTTP\/1\.1 200 /);
  assert.deepEqual(JSON.parse((await answer).split('\r\n\r\n')[1]), answerTo('Where?'));
  await closed;
  await assert.rejects(fetch(url));
});
