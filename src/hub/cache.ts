import { existsSync, readdirSync, readFileSync, realpathSync, statSync } from 'node:fs';
import { homedir } from 'node:os';
import { basename, join } from 'node:path';
import { getHFHubCachePath, getRepoFolderName } from '@huggingface/hub';
import { UserError } from '../system/errors.ts';
import { gitOid, sha256File } from '../system/files.ts';
import { type HubName, isHubName, parseHubName } from './name.ts';

// The cache of Hugging Face's own libraries, in their layout: blobs/CHECKSUM holds a file's bytes,
// snapshots/COMMIT/NAME is a link to them, refs/REVISION holds the commit of a branch or tag.

/** The folder of all cached models: HF_HUB_CACHE, or HF_HOME/hub, or ~/.cache/huggingface/hub. */
export function hubCache(): string {
  return getHFHubCachePath().replace(/^~(?=\/|$)/, homedir());
}

/** A model's folder in the cache. */
export function repoCache(repo: string): string {
  return join(hubCache(), getRepoFolderName({ type: 'model', name: repo }));
}

export function snapshotOf(repo: string, commit: string): string {
  return join(repoCache(repo), 'snapshots', commit);
}

/** The commit that the cache has for a name; undefined if it has none. */
export function cachedCommit({ repo, revision, commit }: HubName): string | undefined {
  if (commit !== undefined) return commit;
  try {
    const text = readFileSync(join(repoCache(repo), 'refs', revision), 'utf8').trim();
    return /^[0-9a-f]{40}$/.test(text) ? text : undefined;
  } catch {
    return undefined;
  }
}

/** Names of the files in a snapshot, as FOLDER/NAME in folders. Empty if it does not exist. Broken links are skipped. */
export function snapshotFiles(snapshot: string): string[] {
  if (!existsSync(snapshot)) return [];
  return (readdirSync(snapshot, { recursive: true }) as string[])
    .filter((name) => statSync(join(snapshot, name), { throwIfNoEntry: false })?.isFile())
    .sort();
}

/**
 * The folder that a setting means: a path as it is, or the snapshot in the cache for a model on the Hub.
 * `UserError` if the cache does not have it: this never downloads.
 */
export function modelFolder(setting: string): string {
  if (!isHubName(setting)) return setting;
  const folder = cachedFolder(setting);
  if (folder !== undefined) return folder;
  throw new UserError(
    `${setting}: is not in the cache ${hubCache()}; run "realm prepare" with this model to download it`,
  );
}

/** Like `modelFolder`, but undefined if the cache does not have the model. */
export function cachedFolder(setting: string): string | undefined {
  if (!isHubName(setting)) return setting;
  const name = parseHubName(setting);
  const commit = cachedCommit(name);
  const folder = commit === undefined ? undefined : snapshotOf(name.repo, commit);
  return folder !== undefined && existsSync(folder) ? folder : undefined;
}

/**
 * The first file of a snapshot that does not match its checksum, which is the name of its blob.
 * Files that are copies and not links have no such name, and count as undamaged.
 */
export function damagedFile(snapshot: string, names: readonly string[]): string | undefined {
  return names
    .map((name) => realpathSync(join(snapshot, name)))
    .find((path) => {
      const checksum = basename(path);
      if (/^[0-9a-f]{64}$/.test(checksum)) return sha256File(path) !== checksum;
      if (/^[0-9a-f]{40}$/.test(checksum)) return gitOid(path) !== checksum;
      return false;
    });
}
