import { createRequire } from 'node:module';
import { errorCode, UserError } from '../system/errors.ts';

/**
 * Packages that only some kinds of files need, each with the version that the tests use. They are not installed with realm, so
 * that an installation stays small.
 */
export const OPTIONAL_PACKAGES = {
  '@mozilla/readability': '0.6.0',
  unpdf: '1.4.0',
  mammoth: '1.13.0',
  wtf_wikipedia: '10.4.2',
  'apache-arrow': '21.2.0',
  'lz4-napi': '2.10.0',
} as const;
export type OptionalPackage = keyof typeof OPTIONAL_PACKAGES;

const { resolve } = createRequire(import.meta.url);

export function isInstalled(name: OptionalPackage): boolean {
  try {
    resolve(name);
    return true;
  } catch (error) {
    // A package for `import` only is found and cannot be required.
    return errorCode(error) !== 'MODULE_NOT_FOUND';
  }
}

/** The command that installs a package. */
export const installCommand = (name: OptionalPackage) => `npm install ${name}@${OPTIONAL_PACKAGES[name]}`;

/** `UserError` with that command if a file needs a package that is not installed. */
export function needPackage(name: OptionalPackage, path: string, kind: string): void {
  if (isInstalled(name)) return;
  throw new UserError(`${path}: to read ${kind} files, install the package ${name}: ${installCommand(name)}`);
}
