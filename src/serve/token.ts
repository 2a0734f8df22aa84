import { createHash, randomBytes, timingSafeEqual } from 'node:crypto';
import { UserError } from '../system/errors.ts';

/** Characters of a token. Fewer could be guessed; more would not fit a request's headers beside everything else. */
const LEAST = 16;
const MOST = 512;

/** A token of 256 random bits. */
export function newToken(): string {
  return randomBytes(32).toString('base64url');
}

/**
 * The token as given, or a `UserError` that never repeats it.
 * @param from the option or variable that it comes from
 */
export function checkedToken(token: string, from: string): string {
  const remedy = `give ${LEAST} to ${MOST} letters, digits or signs, for example the output of "openssl rand -hex 24"`;
  if (token === '') throw new UserError(`${from}: the token is empty; ${remedy}`);
  if (!/^[\x21-\x7e]*$/.test(token))
    throw new UserError(`${from}: the token has a space or a character outside ASCII; ${remedy}`);
  if (token.length < LEAST) throw new UserError(`${from}: the token is too short; ${remedy}`);
  if (token.length > MOST) throw new UserError(`${from}: the token is too long; ${remedy}`);
  return token;
}

/** Compares with the token in a time that says nothing about how much of it was right, nor about its length. */
export function tokenCheck(token: string): (given: string) => boolean {
  const hash = (text: string) => createHash('sha256').update(text).digest();
  const right = hash(token);
  return (given) => timingSafeEqual(hash(given), right);
}
