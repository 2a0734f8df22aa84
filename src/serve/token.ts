import { createHash, randomBytes, timingSafeEqual } from 'node:crypto';
import { UserError } from '../system/errors.ts';

/** Fewer could be guessed; more would not fit into a request's headers with everything else. */
const MIN_CHARACTERS = 16;
const MAX_CHARACTERS = 512;

/** A token of 256 random bits. */
export function newToken(): string {
  return randomBytes(32).toString('base64url');
}

/**
 * Checks a token and returns it. Throws a `UserError`, which never contains the token.
 * @param from the option or variable with the token
 */
export function checkedToken(token: string, from: string): string {
  const remedy = `use ${MIN_CHARACTERS} to ${MAX_CHARACTERS} letters, digits or signs, for example the output of "openssl rand -hex 24"`;
  if (token === '') throw new UserError(`${from}: the token is empty; ${remedy}`);
  if (!/^[\x21-\x7e]*$/.test(token))
    throw new UserError(`${from}: the token has a space or a character outside ASCII; ${remedy}`);
  if (token.length < MIN_CHARACTERS) throw new UserError(`${from}: the token is too short; ${remedy}`);
  if (token.length > MAX_CHARACTERS) throw new UserError(`${from}: the token is too long; ${remedy}`);
  return token;
}

/** Compares with the token in constant time: the time reveals neither how much was right nor the token's length. */
export function tokenCheck(token: string): (given: string) => boolean {
  const hash = (text: string) => createHash('sha256').update(text).digest();
  const right = hash(token);
  return (given) => timingSafeEqual(hash(given), right);
}
