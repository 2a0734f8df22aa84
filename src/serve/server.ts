import { createHash } from 'node:crypto';
import type { IncomingMessage } from 'node:http';
import swagger from '@fastify/swagger';
import fastify, {
  type FastifyError,
  type FastifyInstance,
  type FastifyReply,
  type FastifyRequest,
} from 'fastify';
import { hasWords } from '../datasets/question-text.ts';
import { UserError } from '../system/errors.ts';
import { VERSION } from '../system/version.ts';
import { type Access, guard } from './access.ts';
import { Busy } from './batches.ts';
import { hostCheck, isOwnOrigin } from './hosts.ts';
import { NotReady } from './live-session.ts';
import { refuse } from './refuse.ts';
import { ANSWERED_QUESTION, FAILURE, questionSchema, STATUS } from './schemas.ts';
import type { StageStatus } from './status.ts';

export interface Question {
  question: string;
  documents?: { title: string; text: string }[];
}

/** What the server needs from the run. */
export interface Served {
  /** The report as a whole page, and the content of its `main`. */
  page(): string;
  body(): string;
  /** Changes whenever the report may have changed. */
  fingerprint(): string;
  /** The page's script and style: exactly the text between their tags, the only ones that the page may use. */
  script: string;
  style: string;
  status(): { run: string; stages: StageStatus[]; answers: { ready: boolean; missing?: string } };
  /** Answers one question as an `ANSWERED_QUESTION`. A `UserError` is the client's mistake; `NotReady` and `Busy` are not. */
  ask(question: Question, signal: AbortSignal): Promise<object>;
  /** Called with failures that are not a client's mistake. */
  failed(error: unknown): void;
}

export interface Limits {
  /** Bytes of a request's body, characters of a question. */
  body: number;
  question: number;
  /** Milliseconds: to receive a whole request, to answer it, and for a connection without traffic. */
  receive: number;
  answer: number;
  idle: number;
  /** Milliseconds before a report is drawn again, even if its records change all the time. */
  report: number;
  connections: number;
  /** Requests, and wrong tokens, of one client within a window of so many milliseconds; 0 requests means no limit. */
  requests: number;
  wrongTokens: number;
  window: number;
  /** Milliseconds that a browser stays logged in. */
  session: number;
}

export const LIMITS: Limits = {
  body: 16 << 10,
  question: 1000,
  receive: 10_000,
  answer: 30_000,
  idle: 60_000,
  report: 5000,
  connections: 1000,
  requests: 0,
  wrongTokens: 10,
  window: 60_000,
  session: 12 * 3600_000,
};

/** Of a request's first line and headers. */
const MAX_HEADER_BYTES = 8 << 10;

/**
 * The server, not listening yet. It has these routes and no others; a request's path never names a file.
 * @param access the address that it will listen on, and who may use it
 */
export async function createServer(
  served: Served,
  access: Access,
  limits: Limits = LIMITS,
): Promise<FastifyInstance> {
  const common = commonHeaders(served);
  const server = fastify({
    bodyLimit: limits.body,
    return503OnClosing: false, // requests on connections that are still open are answered as usual, in our format
    requestTimeout: limits.receive,
    connectionTimeout: limits.idle,
    keepAliveTimeout: limits.receive,
    http: {
      maxHeaderSize: MAX_HEADER_BYTES,
      requireHostHeader: false, // the check below has a better message
      headersTimeout: limits.receive,
      connectionsCheckingInterval: Math.min(1000, limits.receive),
    },
    ajv: { customOptions: { coerceTypes: false, removeAdditional: false } },
    frameworkErrors: (error, _request, reply) => {
      refuse(reply.headers(common), 400, error.message);
    },
    clientErrorHandler(error, socket) {
      const refused = () => socket.writable && socket.end(rawRefusal(error.code));
      if (error.code === 'ERR_HTTP_REQUEST_TIMEOUT') unlessArrived(socket, latest, refused);
      else if (error.code !== 'ECONNRESET') refused();
    },
  });
  const latest: Latest = new WeakMap();
  server.server.on('request', (request) => latest.set(request.socket, request));
  server.server.maxConnections = limits.connections;
  // Without these listeners Node ends the connection without a reason.
  server.server.on('connect', (_request, socket) => socket.end(rawRefusal('CONNECT')));
  server.server.on('checkExpectation', ({ socket }) => socket.end(rawRefusal('EXPECT')));
  server.removeContentTypeParser('text/plain');

  const isOurs = hostCheck(access.host, access.origin);
  server.addHook('onRequest', async (request, reply) => {
    reply.headers(common);
    if (request.raw.headersDistinct.host?.length !== 1 || !isOurs(request.headers.host)) {
      return refuse(reply, 403, 'this is not a name of this server; use its address');
    }
    if (!request.raw.url?.startsWith('/')) return refuse(reply, 400, 'the request target is not a path');
    const reads = request.method === 'GET' || request.method === 'HEAD';
    if (!reads && !isOwnOrigin(request.headers.origin, request.headers.host!, access.origin))
      return refuse(
        reply,
        403,
        "the request comes from a page of another site; send it from this server's own page",
      );
  });
  await guard(server, access, limits, served.style);
  let closing = false;
  server.addHook('preClose', async () => {
    closing = true;
  });
  server.addHook('onSend', async (_request, reply) => {
    if (closing) reply.header('connection', 'close'); // otherwise a stop waits for the idle timeout of the connection
  });
  server.setNotFoundHandler((request, reply) => {
    const url = request.url.split('?')[0];
    const allowed = (['GET', 'POST'] as const).filter((method) => server.hasRoute({ method, url }));
    if (allowed.length === 0) return refuse(reply, 404, 'no such page');
    return refuse(reply.header('allow', allowed.join()), 405, `this path accepts only ${allowed.join()}`);
  });
  server.setErrorHandler((error, request, reply) =>
    answerError(error as FastifyError, request, reply, served),
  );

  await server.register(swagger, {
    openapi: {
      openapi: '3.1.0',
      info: {
        title: 'realm serve',
        description: 'The report of a run, and answers by its model.',
        version: VERSION,
      },
      ...(access.token !== undefined && {
        components: { securitySchemes: { token: { type: 'http', scheme: 'bearer' } } },
        security: [{ token: [] }],
      }),
    },
  });
  routes(server, served, limits);
  return server;
}

function routes(server: FastifyInstance, served: Served, limits: Limits): void {
  const page = kept(served.page, served.fingerprint, limits.report);
  const body = kept(served.body, served.fingerprint, limits.report);
  const html = (description: string) => ({
    200: { description, content: { 'text/html': { schema: { type: 'string' } } } },
    '4xx': { description: 'refused', ...FAILURE },
    '5xx': { description: 'failed', ...FAILURE },
  });
  const json = (description: string, schema: object) => ({
    ...html(description),
    200: { description, ...schema },
  });

  server.get(
    '/',
    { schema: { summary: 'The report, with a box for questions', response: html('a page') } },
    (_request, reply) => reply.type('text/html; charset=utf-8').send(page()),
  );
  server.get(
    '/report/body',
    { schema: { summary: "The content of the report's main element", response: html('part of a page') } },
    (_request, reply) => reply.type('text/html; charset=utf-8').send(body()),
  );
  server.get(
    '/api/status',
    { schema: { summary: 'Progress of the run', response: json('stages and metrics', STATUS) } },
    async () => served.status(),
  );
  server.post<{ Body: Question }>(
    '/api/ask',
    {
      schema: {
        summary: 'Answer a question',
        body: questionSchema(limits.question),
        response: json('answers, best first', ANSWERED_QUESTION),
      },
    },
    async ({ body: { question, documents } }, reply) => {
      if (!hasWords(question))
        return refuse(reply, 400, 'the question has no letter or digit; write it as text');
      if (question.includes('\0')) return refuse(reply, 400, 'the question holds a NUL character');
      return unlessGivenUp(reply, limits.answer, (signal) => served.ask({ question, documents }, signal));
    },
  );
  server.get(
    '/openapi.json',
    {
      schema: {
        summary: 'This document',
        response: json('OpenAPI 3.1', { type: 'object', additionalProperties: true }),
      },
    },
    async () => server.swagger(),
  );
}

/**
 * The result of `work`, unless the client disconnects or so many milliseconds pass first: then its signal is aborted.
 * (Fastify's own `handlerTimeout` and `request.signal` end with the request's body, because Node closes the request there.)
 */
async function unlessGivenUp<T>(
  reply: FastifyReply,
  milliseconds: number,
  work: (signal: AbortSignal) => Promise<T>,
): Promise<T> {
  const giveUp = new AbortController();
  const late = setTimeout(() => giveUp.abort(new Busy('the answer took too long')), milliseconds);
  reply.raw.once('close', () => {
    if (!reply.raw.writableFinished) giveUp.abort(new Busy('the client has disconnected'));
  });
  const givenUp = new Promise<never>((_, reject) => {
    giveUp.signal.addEventListener('abort', () => reject(giveUp.signal.reason));
  });
  try {
    return await Promise.race([work(giveUp.signal), givenUp]);
  } finally {
    clearTimeout(late);
  }
}

/** The result of `make`, made again when the fingerprint has changed, but not more often than every so many milliseconds. */
function kept(make: () => string, fingerprint: () => string, milliseconds: number): () => string {
  let made = '';
  let madeFrom: string | undefined;
  let until = -Infinity;
  return () => {
    if (performance.now() < until) return made;
    const now = fingerprint();
    if (now !== madeFrom) made = make();
    madeFrom = now;
    until = performance.now() + milliseconds;
    return made;
  };
}

/** The last request of each connection whose headers have arrived. */
type Latest = WeakMap<object, IncomingMessage>;

/**
 * Calls `late` for a connection whose request has not arrived in time. Computing an answer may block this process for
 * longer than that, and Node then checks the clock before it reads what has arrived. So this checks again after one turn
 * of the event loop.
 */
function unlessArrived(socket: object, latest: Latest, late: () => void): void {
  const before = latest.get(socket);
  const awaited = before?.complete ? undefined : before;
  setImmediate(() => {
    const now = latest.get(socket);
    const arrived = now?.complete && (now !== before || now === awaited);
    if (!arrived) late();
  });
}

/** Headers of every response: a page may only use its own script and style, and only connect to this server. */
function commonHeaders({ script, style }: Served): Record<string, string> {
  const hash = (text: string) => `'sha256-${createHash('sha256').update(text).digest('base64')}'`;
  const policy = [
    "default-src 'none'",
    `script-src ${hash(script)}`,
    `style-src ${hash(style)}`,
    'img-src data:',
    "connect-src 'self'",
    "form-action 'self'",
    "base-uri 'none'",
    "frame-ancestors 'none'",
  ];
  return {
    'content-security-policy': policy.join('; '),
    'x-content-type-options': 'nosniff',
    'referrer-policy': 'same-origin', // with no-referrer browsers send a form's Origin as null
    'cross-origin-resource-policy': 'same-origin',
    'cross-origin-opener-policy': 'same-origin',
    'cache-control': 'no-store',
  };
}

function answerError(
  error: FastifyError,
  request: FastifyRequest,
  reply: FastifyReply,
  served: Served,
): FastifyReply {
  if (error instanceof Busy) {
    return refuse(reply.header('retry-after', '1'), 503, `${error.message}; try again in a moment`);
  }
  if (error instanceof NotReady) return refuse(reply, 409, error.message);
  if (error instanceof UserError) return refuse(reply, request.method === 'POST' ? 400 : 409, error.message);
  if (error.statusCode === 415)
    return refuse(reply, 415, 'the body must be JSON, sent with the header "content-type: application/json"');
  if (error.statusCode && error.statusCode < 500) return refuse(reply, error.statusCode, error.message);
  served.failed(error);
  return refuse(reply, 500, 'the server failed; see its output for the reason');
}

/** Status and error for requests that Node's HTTP parser rejects. */
const PARSER_ERRORS: Record<string, [string, string]> = {
  CONNECT: ['405 Method Not Allowed', 'this server is not a proxy'],
  EXPECT: ['417 Expectation Failed', 'this server accepts only "Expect: 100-continue"'],
  HPE_HEADER_OVERFLOW: [
    '431 Request Header Fields Too Large',
    `headers have more than ${MAX_HEADER_BYTES} bytes`,
  ],
  HPE_CHUNK_EXTENSIONS_OVERFLOW: ['413 Payload Too Large', 'chunk extensions are too long'],
  ERR_HTTP_REQUEST_TIMEOUT: ['408 Request Timeout', 'the request took too long to arrive'],
};

function rawRefusal(code: string): string {
  const [status, error] = PARSER_ERRORS[code] ?? ['400 Bad Request', 'this is not HTTP/1.1'];
  const body = JSON.stringify({ error });
  return `HTTP/1.1 ${status}\r\nConnection: close\r\nContent-Type: application/json; charset=utf-8\r\nContent-Length: ${Buffer.byteLength(body)}\r\n\r\n${body}`;
}
