import { after } from 'node:test';
import type { Access } from '../../src/serve/access.ts';
import { createServer, LIMITS, type Limits, type Served } from '../../src/serve/server.ts';

export const SCRIPT = 'document.title += "!"';
export const STYLE = 'p { margin: 0 }';

/** An answer that contains its question. */
export function answerTo(question: string) {
  return {
    question,
    answers: [
      {
        answer: question.toUpperCase(),
        probability: 0.5,
        retrieval: 0.625,
        reading: 0.8,
        title: 'Osk',
        document: '7',
        before: 'The river ',
        after: ' runs.',
      },
    ],
    nullProbability: 0.25,
  };
}

/** A server on a free port of 127.0.0.1, and the failures it reported. It listens until the tests of the file are over. */
export async function fakeServer(
  changes: Partial<Served> = {},
  limits: Partial<Limits> = {},
  access: Partial<Access> = {},
) {
  const failures: unknown[] = [];
  const served: Served = {
    page: () => `<!doctype html><style>${STYLE}</style><main id="report"></main><script>${SCRIPT}</script>`,
    body: () => '<h2>Osk</h2>',
    fingerprint: () => '1',
    script: SCRIPT,
    style: STYLE,
    status: () => ({
      run: 'osk',
      stages: [{ stage: 'ict-warmup', step: 3, steps: 10, figures: { loss: 1.5 } }],
      answers: { ready: true },
    }),
    ask: async ({ question }) => answerTo(question),
    failed: (error) => failures.push(error),
    ...changes,
  };
  const server = await createServer(served, { host: '127.0.0.1', ...access }, { ...LIMITS, ...limits });
  after(() => {
    server.server.closeAllConnections();
    return server.close();
  });
  const url = await server.listen({ host: '127.0.0.1', port: 0 });
  return { server, url, failures };
}

export function post(url: string, body: unknown, signal?: AbortSignal): Promise<Response> {
  return fetch(`${url}/api/ask`, {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: JSON.stringify(body),
    signal,
  });
}
