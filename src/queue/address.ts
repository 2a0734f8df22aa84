import { UserError } from '../system/errors.ts';
import { withoutPassword } from '../system/passwords.ts';

// Where the queue is: redis://HOST:PORT, or rediss:// with TLS, of Redis or Valkey. The password may be in the address of
// --queue, but never in a file of the run; all messages show the address without it.

/** The variable with the password, for an address without one: other users of a machine can read a command line. */
export const PASSWORD = 'REALM_QUEUE_PASSWORD';

/** The address with its password; a `UserError` if it is not one. */
export function queueAddress(text: string, password = process.env[PASSWORD]): URL {
  if (
    !URL.canParse(text) ||
    !['redis:', 'rediss:'].includes(new URL(text).protocol) ||
    !new URL(text).hostname
  )
    throw new UserError(
      `${withoutPassword(text)}: is not the address of a Redis server; write redis://HOST:6379, or rediss://HOST:6380 with TLS`,
    );
  const url = new URL(text);
  if (url.password === '' && password) url.password = password;
  return url;
}

/** The address as messages show it: without user and password. */
export const shownAddress = ({ protocol, host }: URL) => `${protocol}//${host}`;

/** Why the queue cannot be used, in a few words without the password. */
export function queueTrouble(error: unknown, url: URL): string {
  const { message, code } = error as NodeJS.ErrnoException;
  const line = withoutPassword((message || code) ?? String(error)).split('\n')[0];
  return [url.password, decodeURIComponent(url.password)]
    .filter((secret) => secret !== '')
    .reduce((text, secret) => text.replaceAll(secret, '***'), line);
}
