import { UserError } from '../system/errors.ts';

/** A model on the Hugging Face Hub as a setting names it: `hf:owner/name` or `hf:owner/name@revision`; `hf:owner/name@revision#commit` once it is downloaded. */
export interface HubName {
  /** `owner/name`; a few old models have no owner. */
  repo: string;
  /** A branch, a tag or a commit. */
  revision: string;
  /** The commit (40 hexadecimal digits) of the revision when the model was downloaded. */
  commit?: string;
}

const PREFIX = 'hf:';
const FORM = 'write hf:owner/name, or hf:owner/name@revision';
const PART = '[A-Za-z0-9](?:[A-Za-z0-9._-]{0,94}[A-Za-z0-9_])?';
const NAME = new RegExp(`^((?:${PART}/)?${PART})(?:@([^#]+))?(?:#([0-9a-f]{40}))?$`);
const REVISION = /^[A-Za-z0-9_][A-Za-z0-9._/-]{0,199}$/;
const COMMIT = /^[0-9a-f]{40}$/;

/** True for a setting that names a model on the Hub and not a folder. */
export function isHubName(setting: string): boolean {
  return setting.startsWith(PREFIX);
}

/** The parts of a name on the Hub. `UserError` if it is not one. */
export function parseHubName(setting: string): HubName {
  const [, repo, revision = 'main', commit] = NAME.exec(setting.slice(PREFIX.length)) ?? [];
  // The parts are used in paths of the cache and in addresses.
  const plain = repo !== undefined && REVISION.test(revision) && !/\.\.|\/\/|--|\/$/.test(repo + revision);
  if (!isHubName(setting) || !plain)
    throw new UserError(`${setting}: is not the name of a model on the Hub; ${FORM}`);
  return { repo, revision, commit: commit ?? (COMMIT.test(revision) ? revision : undefined) };
}

/** The name with its commit: a run that saves it uses the same files whenever it is repeated. */
export function pinned({ repo, revision }: HubName, commit: string): string {
  return `${PREFIX}${repo}@${revision}${revision === commit ? '' : `#${commit}`}`;
}

/** `given` with the commit of `saved`, if `given` has no commit and both name the same revision of the same model. */
export function withCommitOf(given: string, saved: string): string {
  if (!isHubName(given) || !isHubName(saved)) return given;
  const [a, b] = [parseHubName(given), parseHubName(saved)];
  return a.commit === undefined && b.commit !== undefined && a.repo === b.repo && a.revision === b.revision
    ? saved
    : given;
}
