import { copyFileSync, existsSync, lstatSync, readFileSync, symlinkSync, unlinkSync } from 'node:fs';
import { homedir } from 'node:os';
import { dirname, join, relative } from 'node:path';
import { type ListFileEntry, listFiles, modelInfo } from '@huggingface/hub';
import { fetchFile } from '../datasets/download.ts';
import { errorCode, UserError } from '../system/errors.ts';
import { makeFolder, writeFileAtomic } from '../system/files.ts';
import { takeLock } from '../system/lock.ts';
import { say } from '../system/progress.ts';
import { cachedCommit, damagedFile, hubCache, repoCache, snapshotFiles, snapshotOf } from './cache.ts';
import { type HubName, parseHubName, pinned } from './name.ts';

// Hugging Face's client lists the files of a model. Our own downloader gets them: unlike the client's, it resumes and
// compares checksums.

/** What a model is needed for: its encoder, or its NER network. */
export type Purpose = 'encoder' | 'ner';

/** Milliseconds to wait for a response of the Hub, other than files. */
const RESPONSE_TIMEOUT = 60_000;

/**
 * Makes sure that the cache has the needed files of a model on the Hub. Connects to the Hub only if the commit is not known
 * or a file is missing. Each file is compared with its checksum. Prints size and licence before it downloads anything.
 * @param setting `hf:owner/name[@revision][#commit]`
 * @param pause milliseconds before a broken connection is tried again
 * @returns the name with its commit
 */
export async function fetchModel(setting: string, purpose: Purpose, pause = 1000): Promise<string> {
  const name = parseHubName(setting);
  if (name.commit !== undefined && isWhole(name, name.commit, purpose)) return pinned(name, name.commit);
  const cached = () => {
    const commit = cachedCommit(name);
    return commit !== undefined && isWhole(name, commit, purpose) ? pinned(name, commit) : undefined;
  };
  if (isOffline()) {
    const found = cached();
    if (found !== undefined) return found;
    throw new Unreachable(
      `${setting}: is not complete in the cache ${hubCache()}, and HF_HUB_OFFLINE forbids to download it; unset HF_HUB_OFFLINE, or name a folder`,
    );
  }
  try {
    return await fetchFrom(hub(setting), name, purpose, pause);
  } catch (error) {
    const found = error instanceof Unreachable ? cached() : undefined;
    if (found === undefined) throw error;
    say(`${setting}: cannot reach the Hub; using the cached files`);
    return found;
  }
}

/** Python's huggingface_hub accepts the same values. */
function isOffline(): boolean {
  return [process.env.HF_HUB_OFFLINE, process.env.TRANSFORMERS_OFFLINE].some((value) =>
    ['1', 'ON', 'YES', 'TRUE'].includes(value?.toUpperCase() ?? ''),
  );
}

function isWhole({ repo }: HubName, commit: string, purpose: Purpose): boolean {
  const snapshot = snapshotOf(repo, commit);
  const { chosen, lacking } = choose(snapshotFiles(snapshot), purpose);
  if (lacking.length > 0) return false;
  const damaged = damagedFile(snapshot, chosen);
  if (damaged === undefined) return true;
  throw new UserError(
    `${damaged}: is damaged: its content does not match its name, which is a checksum; remove it and run the same command again`,
  );
}

// ------------------------------------------------------------------------------------------------ what is needed

/** Weights that realm reads, the best kind first; `parts` matches the other files if the weights are in several. */
const WEIGHTS: { first: RegExp; parts?: RegExp }[] = [
  { first: /^model\.safetensors$/ },
  { first: /^model\.safetensors\.index\.json$/, parts: /^model-\d+-of-(\d+)\.safetensors$/ },
  { first: /^pytorch_model\.bin$/ },
  { first: /^pytorch_model\.bin\.index\.json$/, parts: /^pytorch_model-\d+-of-(\d+)\.bin$/ },
  { first: /^[^/]+\.ckpt\.index$/, parts: /^[^/]+\.ckpt\.data-\d+-of-(\d+)$/ },
];

/** Where the first versions of sentence-transformers kept the encoder. */
const OLD_ENCODER = /^0_(?:Transformer|BERT)\//;

/** Descriptions and weights of a sentence encoder's head (src/weights/sentence-encoder.ts), without those of its BERT. */
const HEAD =
  /^(?:modules\.json|sentence_bert_config\.json|config_sentence_transformers\.json|\d+_(?!Transformer|BERT)\w+\/(?:config\.json|model\.safetensors|pytorch_model\.bin))$/;

/** The needed files of a model, and the names of those that it lacks. */
export function choose(names: readonly string[], purpose: Purpose): { chosen: string[]; lacking: string[] } {
  if (purpose === 'ner' || !names.includes('modules.json')) return chooseBert(names, purpose);
  const head = names.filter((name) => HEAD.test(name));
  const folder = names.map((name) => OLD_ENCODER.exec(name)?.[0]).find((found) => found !== undefined) ?? '';
  const inner = names.filter((name) => name.startsWith(folder)).map((name) => name.slice(folder.length));
  const { chosen, lacking } = chooseBert(inner, purpose);
  const settings = folder !== '' && inner.includes('sentence_bert_config.json');
  return {
    chosen: [
      ...chosen.map((name) => folder + name),
      ...(settings ? [`${folder}sentence_bert_config.json`] : []),
      ...head,
    ],
    lacking,
  };
}

function chooseBert(names: readonly string[], purpose: Purpose): { chosen: string[]; lacking: string[] } {
  const has = (name: string) => names.includes(name);
  const description = ['config.json', 'bert_config.json'].find(has);
  const vocabulary = ['vocab.txt', 'tokenizer.json'].some(has);
  const chosen = [description, 'vocab.txt', 'tokenizer.json', 'tokenizer_config.json'].filter(
    (name): name is string => name !== undefined && has(name),
  );
  const weights = purpose === 'ner' ? networkOf(names) : weightsOf(names);
  const lacking = [
    ...(description ? [] : ['config.json']),
    ...(vocabulary ? [] : ['vocab.txt (word pieces of a BERT)']),
    ...(weights.length > 0
      ? []
      : [purpose === 'ner' ? 'model.onnx' : 'weights (model.safetensors, pytorch_model.bin or a .ckpt)']),
  ];
  return { chosen: [...chosen, ...weights], lacking };
}

function weightsOf(names: readonly string[]): string[] {
  for (const { first, parts } of WEIGHTS) {
    const found = names.filter((name) => first.test(name));
    if (found.length !== 1) continue;
    if (parts === undefined) return found;
    const pieces = names.filter((name) => parts.test(name));
    if (pieces.length > 0 && pieces.length === Number(parts.exec(pieces[0])![1]))
      return [...found, ...pieces];
  }
  return [];
}

/** The network of a NER model at the path where src/corpus/spans/ner-folder.ts expects it, with the file of its large tensors. */
function networkOf(names: readonly string[]): string[] {
  const network = ['model.onnx', 'onnx/model.onnx'].find((name) => names.includes(name));
  return network === undefined ? [] : names.filter((name) => name === network || name === `${network}_data`);
}

// --------------------------------------------------------------------------------------------------- the Hub

/** The Hub cannot be reached, or HF_HUB_OFFLINE forbids it, and the cache does not have the model. */
export class Unreachable extends UserError {}

interface Hub {
  /** Such as https://huggingface.co, without a slash at the end. */
  url: string;
  token?: string;
  /** `fetch` with the token; every failure is a `UserError`. */
  fetch: typeof fetch;
}

function hub(setting: string): Hub {
  const url = endpoint();
  const token = accessToken();
  return {
    url,
    token,
    async fetch(input, init) {
      const to = new URL(input instanceof Request ? input.url : input);
      const headers = new Headers(init?.headers);
      if (token !== undefined && to.origin === new URL(url).origin)
        headers.set('authorization', `Bearer ${token}`);
      let response: Response;
      try {
        response = await fetch(to, { ...init, headers, signal: AbortSignal.timeout(RESPONSE_TIMEOUT) });
      } catch (error) {
        const why = errorCode((error as Error).cause) ?? (error as Error).name;
        throw new Unreachable(
          `${setting}: cannot reach ${url} (${why}); check the network or HF_ENDPOINT, or name a folder`,
        );
      }
      if (!response.ok) throw refusal(setting, url, response, token !== undefined);
      return response;
    },
  };
}

function endpoint(): string {
  const given = process.env.HF_ENDPOINT || 'https://huggingface.co';
  const url = URL.canParse(given) ? new URL(given) : undefined;
  if (!url || !/^https?:$/.test(url.protocol))
    throw new UserError('HF_ENDPOINT: is not an address; write it like https://huggingface.co');
  // A password would be printed with the address of each file.
  if (url.username !== '' || url.password !== '' || url.search !== '')
    throw new UserError('HF_ENDPOINT: contains more than an address; give a token with HF_TOKEN');
  return url.href.replace(/\/+$/, '');
}

/** The token in HF_TOKEN, or else in the file that `hf auth login` writes. */
function accessToken(): string | undefined {
  const home =
    process.env.HF_HOME ?? join(process.env.XDG_CACHE_HOME ?? join(homedir(), '.cache'), 'huggingface');
  const file = (process.env.HF_TOKEN_PATH ?? join(home, 'token')).replace(/^~(?=\/|$)/, homedir());
  const variables = ['HF_TOKEN', 'HUGGING_FACE_HUB_TOKEN'] as const;
  const variable = variables.find((name) => process.env[name]?.trim());
  const token = (variable === undefined ? readToken(file) : process.env[variable])?.trim();
  if (!token) return undefined;
  // With any other character in a header, `fetch` throws an error whose message contains the token.
  if (/^[\x21-\x7e]+$/.test(token)) return token;
  throw new UserError(
    `${variable ?? file}: is not a token, which may contain only letters, digits and punctuation; correct it`,
  );
}

function readToken(file: string): string | undefined {
  try {
    return readFileSync(file, 'utf8');
  } catch {
    return undefined; // most models need no token; if one does, the Hub's refusal says so
  }
}

/** One sentence for an error response of the Hub. */
function refusal(setting: string, url: string, { status, headers }: Response, withToken: boolean): UserError {
  const { repo, revision } = parseHubName(setting);
  const kind = headers.get('x-error-code');
  const [what, remedy] = (() => {
    if (kind === 'RevisionNotFound')
      return [`has no revision ${revision}`, 'name a branch, a tag or a commit of it'];
    if (kind === 'GatedRepo' || status === 403) {
      return [
        withToken ? 'your token does not give access' : 'is only available to users who accept its terms',
        `accept its terms at ${url}/${repo}${withToken ? '' : ' and set HF_TOKEN to your token'}`,
      ];
    }
    if (status === 401 && withToken)
      return [
        'the Hub does not accept your token, or the model does not exist',
        'check HF_TOKEN and the name',
      ];
    if (status === 401 || status === 404) {
      return [
        `no such model on ${url}${withToken ? ' that your token can read' : ', or it is private'}`,
        `check the name${withToken ? '' : ', and set HF_TOKEN if the model is private'}`,
      ];
    }
    if (status === 429) return ['too many requests to the Hub', 'run the same command again later'];
    return [`the Hub answered ${status}`, 'run the same command again later, or name a folder'];
  })();
  return new UserError(`${setting}: ${what}; ${remedy}`);
}

// ----------------------------------------------------------------------------------------------- downloading

async function fetchFrom(hub: Hub, name: HubName, purpose: Purpose, pause: number): Promise<string> {
  const { repo, revision } = name;
  const { url: hubUrl, fetch } = hub;
  const setting = name.commit === undefined ? `hf:${repo}@${revision}` : pinned(name, name.commit);
  const listed = new Map<string, ListFileEntry>();
  const { sha: commit, licence } = await understood(setting, hubUrl, async () => {
    const described = await describe(hub, name, setting);
    const entries = listFiles({ repo, revision: described.sha, recursive: true, hubUrl, fetch });
    for await (const entry of entries) if (entry.type === 'file') listed.set(entry.path, entry);
    return described;
  });
  const { chosen, lacking } = choose([...listed.keys()], purpose);
  if (lacking.length > 0)
    throw new UserError(
      `${setting}: lacks ${lacking.join(' and ')}, which realm needs; choose another model`,
    );

  const files = chosen.map((path) => listed.get(path)!);
  const bytes = files.reduce((sum, { size }) => sum + size, 0);
  say(
    `${setting}: ${(bytes / 1e6).toFixed(1)} MB in ${files.length} files, licence ${licence}, commit ${commit}`,
  );

  const cache = repoCache(repo);
  const unlock = lockCache(repo, setting);
  try {
    for (const { path, size, oid, lfs } of files) {
      const checksum = lfs?.oid ?? oid;
      if (checksum === undefined || !/^([0-9a-f]{40}|[0-9a-f]{64})$/.test(checksum))
        throw new UserError(`${setting}: the Hub has no checksum for ${path}; choose another model`);
      await fetchFile(
        {
          name: checksum,
          label: path,
          url: `${hubUrl}/${repo}/resolve/${commit}/${path}`,
          bytes: size,
          ...(lfs ? { sha256: checksum } : { gitOid: checksum }),
          ...(hub.token && { headers: { authorization: `Bearer ${hub.token}` } }),
          remedy: 'name a folder with the model',
          refusal: (response) => refusal(setting, hubUrl, response, hub.token !== undefined),
        },
        join(cache, 'blobs'),
        pause,
      );
      link(join(cache, 'blobs', checksum), join(snapshotOf(repo, commit), path));
    }
    if (revision !== commit) writeFileAtomic(join(cache, 'refs', revision), commit);
  } finally {
    unlock();
  }
  return pinned(name, commit);
}

/** Runs requests of the Hub's client. `UserError` if a response is incomplete, or does not come from a Hub. */
async function understood<T>(setting: string, url: string, ask: () => Promise<T>): Promise<T> {
  try {
    return await ask();
  } catch (error) {
    if (error instanceof UserError) throw error;
    const { name, message } = error as Error;
    if (name === 'TimeoutError' || message === 'terminated')
      throw new Unreachable(`${setting}: the connection to ${url} broke; run the same command again`);
    throw new UserError(`${setting}: ${url} does not answer like the Hub (${message}); check HF_ENDPOINT`);
  }
}

/** The commit of a name, and the model's licence. */
async function describe(
  { url: hubUrl, fetch }: Hub,
  { repo, revision, commit }: HubName,
  setting: string,
): Promise<{ sha: string; licence: string }> {
  const info = await modelInfo({
    name: repo,
    revision: commit ?? revision,
    additionalFields: ['sha', 'cardData', 'tags'],
    hubUrl,
    fetch,
  });
  if (!/^[0-9a-f]{40}$/.test(info.sha) || (commit !== undefined && info.sha !== commit))
    throw new UserError(`${setting}: ${hubUrl} does not answer like the Hub; check HF_ENDPOINT`);
  const card = (info.cardData as { license?: string | string[] } | undefined)?.license;
  const tag = info.tags?.find((tag) => tag.startsWith('license:'))?.slice('license:'.length);
  return { sha: info.sha, licence: [card ?? tag ?? 'not stated'].flat().join(', ') };
}

/** Two processes must not write the same file. (Hugging Face's libraries have their own lock for each file.) */
function lockCache(repo: string, setting: string): () => void {
  const cache = repoCache(repo);
  try {
    makeFolder(cache);
    const lock = takeLock(join(cache, 'realm.lock'), setting);
    if (!lock.holder) return lock.release;
    throw new UserError(
      `${setting}: process ${lock.holder.pid} on ${lock.holder.host} is downloading this model; wait for it, then run the same command again`,
    );
  } catch (error) {
    if (!['EACCES', 'EROFS', 'EPERM', 'ENOTDIR', 'EEXIST'].includes(errorCode(error) ?? '')) throw error;
    throw new UserError(
      `${cache}: cannot be written (${errorCode(error)}); name a folder for models in HF_HUB_CACHE`,
    );
  }
}

/** Makes `at` a relative link to a blob, as Hugging Face's libraries do, so that the cache can be moved. */
function link(blob: string, at: string): void {
  if (existsSync(at)) return;
  makeFolder(dirname(at));
  if (lstatSync(at, { throwIfNoEntry: false })) unlinkSync(at); // its blob was removed
  try {
    symlinkSync(relative(dirname(at), blob), at);
  } catch (error) {
    if (errorCode(error) !== 'EPERM') throw error;
    copyFileSync(blob, at); // a system without links, or Windows without the permission to make one
  }
}
