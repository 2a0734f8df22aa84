import { createHash } from 'node:crypto';
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { after } from 'node:test';

/** One file of a model on the test's Hub. */
export interface HubFile {
  path: string;
  content: Buffer;
  /** Stored with Git LFS: its checksum is a SHA-256, and another server delivers its bytes. */
  lfs: boolean;
}

export const COMMIT = '1a2b3c4d5e6f7a8b9c0d1a2b3c4d5e6f7a8b9c0d';

/** The Hub's identifier of a file's content. */
export function checksumOf({ content, lfs }: HubFile): string {
  if (lfs) return createHash('sha256').update(content).digest('hex');
  return createHash('sha1').update(`blob ${content.length}\0`).update(content).digest('hex');
}

export interface FakeHub {
  url: string;
  /** Paths of the requests so far; those to the server of large files start with `cdn:`. */
  requests: string[];
  /** Authorization header of each request, in the same order. */
  authorizations: (string | undefined)[];
  /** Ranges requested from the server of large files. */
  ranges: (string | undefined)[];
  files: HubFile[];
  /** Answers a request instead of the Hub if it returns true. */
  intercept: (request: IncomingMessage, response: ServerResponse) => boolean;
  /** The server of large files breaks the connection after so many bytes, once the reader has `kept` them. */
  cut?: { bytes: number; kept: () => boolean };
  /** Revisions of the model, and their commits. */
  revisions: Record<string, string>;
  forget(): void;
}

/**
 * A test server that answers like the Hub for one model, `owner/tiny`: its description, the list of its files, and their
 * content; a second server delivers the large files.
 */
export async function fakeHub(): Promise<FakeHub> {
  const hub: FakeHub = {
    url: '',
    requests: [],
    authorizations: [],
    ranges: [],
    files: [],
    intercept: () => false,
    revisions: { main: COMMIT, [COMMIT]: COMMIT },
    forget() {
      hub.requests.length = hub.authorizations.length = hub.ranges.length = 0;
      hub.intercept = () => false;
      hub.cut = undefined;
      hub.revisions = { main: COMMIT, [COMMIT]: COMMIT };
    },
  };
  const cdn = await listening((request, response) => {
    note(hub, request, 'cdn:');
    hub.ranges.push(request.headers.range);
    const file = hub.files.find(({ path }) => request.url === `/${path}`)!;
    sendRange(request, response, file.content, hub.cut);
  });
  const api = await listening((request, response) => {
    note(hub, request, '');
    if (!hub.intercept(request, response)) answer(hub, cdn.url, request, response);
  });
  hub.url = api.url;
  after(() => {
    for (const { server } of [cdn, api]) {
      server.closeAllConnections();
      server.close();
    }
  });
  return hub;
}

function note(hub: FakeHub, { url, headers }: IncomingMessage, before: string): void {
  hub.requests.push(before + url!.replace(/\?.*/, ''));
  hub.authorizations.push(headers.authorization);
}

async function listening(
  answer: (request: IncomingMessage, response: ServerResponse) => void,
): Promise<{ url: string; server: Server }> {
  const server = createServer(answer);
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  return { url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`, server };
}

function answer(hub: FakeHub, cdn: string, { url }: IncomingMessage, response: ServerResponse): void {
  const path = decodeURIComponent(new URL(url!, hub.url).pathname);
  const [, what, revision, file] =
    /^\/(?:api\/models\/owner\/tiny\/(revision|tree)|owner\/tiny\/resolve)\/([^/]+)(?:\/(.+))?$/.exec(path) ??
    [];
  const commit = hub.revisions[revision];
  if (commit === undefined) {
    const code = path.includes('owner/tiny') ? 'RevisionNotFound' : 'RepoNotFound';
    response.writeHead(404, { 'x-error-code': code, 'content-type': 'application/json' });
    response.end(JSON.stringify({ error: 'not found' }));
  } else if (what === 'revision') {
    sendJson(response, {
      _id: '0',
      id: 'owner/tiny',
      sha: commit,
      lastModified: '2026-01-01T00:00:00.000Z',
      cardData: { license: 'apache-2.0' },
      tags: ['bert', 'license:apache-2.0'],
    });
  } else if (what === 'tree') {
    sendJson(
      response,
      hub.files.map((one) => ({
        type: 'file',
        path: one.path,
        size: one.content.length,
        oid: one.lfs ? 'f'.repeat(40) : checksumOf(one),
        ...(one.lfs ? { lfs: { oid: checksumOf(one), size: one.content.length, pointerSize: 130 } } : {}),
      })),
    );
  } else {
    const found = hub.files.find((one) => one.path === file)!;
    if (found.lfs) response.writeHead(302, { location: `${cdn}/${found.path}` }).end();
    else response.writeHead(200, { 'content-length': found.content.length }).end(found.content);
  }
}

function sendJson(response: ServerResponse, value: unknown): void {
  response.writeHead(200, { 'content-type': 'application/json' }).end(JSON.stringify(value));
}

/** Sends the requested range, up to the point where the connection breaks. */
function sendRange(
  request: IncomingMessage,
  response: ServerResponse,
  content: Buffer,
  cut: FakeHub['cut'],
): void {
  const asked = /^bytes=(\d+)-$/.exec(request.headers.range ?? '')?.[1];
  const from = request.headers['if-range'] === '"v1"' ? Number(asked ?? 0) : 0;
  response.writeHead(from > 0 ? 206 : 200, {
    etag: '"v1"',
    'content-length': content.length - from,
    ...(from > 0 ? { 'content-range': `bytes ${from}-${content.length - 1}/${content.length}` } : {}),
  });
  if (cut === undefined) {
    response.end(content.subarray(from));
    return;
  }
  response.flushHeaders();
  if (cut.bytes > from) response.write(content.subarray(from, cut.bytes));
  const watch = setInterval(() => {
    if (!cut.kept()) return;
    clearInterval(watch);
    response.destroy();
  }, 5);
}
