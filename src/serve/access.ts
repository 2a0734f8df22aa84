import cookie from '@fastify/cookie';
import type { FastifyError, FastifyInstance, FastifyRequest } from 'fastify';
import { countByAddress } from './addresses.ts';
import { loginPage } from './login-page.ts';
import { refuse } from './refuse.ts';
import { openSessions } from './sessions.ts';
import { tokenCheck } from './token.ts';

/** The address of a server, and who may use it. */
export interface Access {
  /** The address that it listens on. */
  host: string;
  /** The token that every request needs, or a session that was started with it; undefined: no token is needed. */
  token?: string;
  /** The public address, if the server is behind a proxy. */
  origin?: URL;
}

const MAX_FORM_BYTES = 4 << 10;

/** The refusal of a body at /login or /logout that is not a form. */
const NOT_THE_FORM = 'send the form of this page';

/**
 * Refuses a request when its client has sent too many, or when a token is needed and the request has neither the token
 * (`Authorization: Bearer …`) nor the cookie of a session. A browser gets that cookie from the form at `/login`.
 */
export async function guard(
  server: FastifyInstance,
  { token, origin }: Access,
  limits: { requests: number; wrongTokens: number; window: number; session: number },
  style: string,
): Promise<void> {
  if (limits.requests > 0) {
    const requests = countByAddress(limits.requests, limits.window);
    server.addHook('onRequest', async (request, reply) => {
      const wait = await requests.wait(request.ip);
      if (wait !== undefined)
        return refuse(reply.header('retry-after', wait), 429, `too many requests; try again in ${wait} s`);
      await requests.add(request.ip);
    });
  }
  if (token === undefined) return;

  await server.register(cookie);
  const isRight = tokenCheck(token);
  const wrong = countByAddress(limits.wrongTokens, limits.window);
  const sessions = openSessions(limits.session);
  // Browsers share cookies between ports: without the port in the name, two servers on one machine would end each other's
  // sessions.
  const cookieName = (request: FastifyRequest) => `realm-session-${request.socket.localPort}`;

  /** Whether a token is right, or the seconds that its client must wait before the next attempt. */
  const attempt = async (request: FastifyRequest, given: string): Promise<boolean | number> => {
    const wait = await wrong.wait(request.ip);
    if (wait !== undefined) return wait;
    if (isRight(given)) return true;
    await wrong.add(request.ip);
    return false;
  };
  const tooMany = (wait: number) => `too many wrong tokens; try again in ${wait} s`;

  server.addHook('onRequest', async (request, reply) => {
    const path = request.raw.url!.split('?')[0];
    if (path === '/login' || path === '/logout' || sessions.has(request.cookies[cookieName(request)])) return;
    const { authorization } = request.headers;
    if (authorization !== undefined) {
      const [, given = ''] = /^Bearer +(\S+) *$/i.exec(authorization) ?? [];
      const result = await attempt(request, given);
      if (result === true) return;
      if (result !== false) return refuse(reply.header('retry-after', result), 429, tooMany(result));
    } else if (path === '/' && /\btext\/html\b/.test(request.headers.accept ?? '')) {
      return reply.redirect('login', 303);
    }
    return refuse(
      reply.header('www-authenticate', 'Bearer'),
      401,
      authorization === undefined
        ? 'this server needs its token; send the header "Authorization: Bearer TOKEN", or log in at /login'
        : 'the token is not right; send "Authorization: Bearer TOKEN" with the token of this start of the server',
    );
  });

  await server.register(async (login) => {
    login.addContentTypeParser(
      'application/x-www-form-urlencoded',
      { parseAs: 'string', bodyLimit: MAX_FORM_BYTES },
      async (_request: FastifyRequest, body: string) => new URLSearchParams(body),
    );
    login.setErrorHandler((error, _request, reply) => {
      if ((error as FastifyError).statusCode === 415) return refuse(reply, 415, NOT_THE_FORM);
      throw error;
    });
    const hidden = { schema: { hide: true } };
    login.get('/login', hidden, (_request, reply) =>
      reply.type('text/html; charset=utf-8').send(loginPage(style)),
    );
    login.post('/login', hidden, async (request, reply) => {
      if (!(request.body instanceof URLSearchParams)) return refuse(reply, 415, NOT_THE_FORM);
      const result = await attempt(request, request.body.get('token') ?? '');
      if (result !== true) {
        if (result !== false) reply.header('retry-after', result);
        return reply
          .code(result === false ? 401 : 429)
          .type('text/html; charset=utf-8')
          .send(loginPage(style, result === false ? 'This token is not right.' : `${tooMany(result)}.`));
      }
      return reply
        .setCookie(cookieName(request), sessions.start(), {
          path: '/',
          httpOnly: true,
          sameSite: 'strict',
          secure: origin?.protocol === 'https:' || request.headers.origin?.startsWith('https:') === true,
          maxAge: Math.ceil(limits.session / 1000),
        })
        .redirect('.', 303);
    });
    login.post('/logout', hidden, async (request, reply) => {
      sessions.end(request.cookies[cookieName(request)]);
      return reply.clearCookie(cookieName(request), { path: '/' }).redirect('login', 303);
    });
  });
}
